from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from handler.photo import (
    FORMATS,
    MAX_MEGAPIXELS,
    MAX_MEGAPIXELS_HEIF,
    MAX_MEGAPIXELS_JPEG,
    MIN_SIDE,
    SIDE,
    DecodedPhoto,
    InvalidPhotoException,
    PhotoException,
    PhotoTooLargeException,
    UnsupportedPhotoException,
    _check_size,
    _decode,
    decode_photo,
    read_photo,
)
from handler.unopened import OTHER_FORMATS
from testing.hostile.heif import Item, box, heic_item, heif
from testing.hostile.tiff import TiffEntry, tiff

MODES = {
    "JPEG": ["L", "RGB", "CMYK"],
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["L", "P"],
    "BMP": ["1", "L", "P", "RGB"],
    "TIFF": ["1", "L", "RGB", "RGBA", "CMYK", "I;16", "F"],
    "AVIF": ["RGB", "RGBA"],
}
SEVERAL_FORMATS = sorted(MODES)
TURNS = Image.Transpose
STORED_AS = {  # how a camera stores an upright photo under each orientation
    2: TURNS.FLIP_LEFT_RIGHT,
    3: TURNS.ROTATE_180,
    4: TURNS.FLIP_TOP_BOTTOM,
    5: TURNS.TRANSPOSE,
    6: TURNS.ROTATE_90,
    7: TURNS.TRANSVERSE,
    8: TURNS.ROTATE_270,
}
SHOWN_AS = STORED_AS | {6: TURNS.ROTATE_270, 8: TURNS.ROTATE_90}


def test_every_format_that_is_opened_is_tried_here() -> None:
    assert {*MODES, "HEIF"} == set(FORMATS)  # HEIF from files
    assert not {*OTHER_FORMATS.values()} & {*FORMATS, *FORMATS.values()}


def picture(width: int = 120, height: int = 90) -> Image.Image:
    """Four quarters of different colours: all rotations and mirrorings look different."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 20, 20)
    pixels[: height // 2, width // 2 :] = (20, 250, 20)
    pixels[height // 2 :, : width // 2] = (20, 20, 250)
    pixels[height // 2 :, width // 2 :] = (230, 230, 20)
    return Image.fromarray(pixels)


def encode(photo: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, format_name, **options)
    return buffer.getvalue()


def in_mode(photo: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(np.asarray(photo.convert("L")).astype(np.int32) * 1000)
    return photo.convert(mode)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


@given(
    st.sampled_from([(name, mode) for name in SEVERAL_FORMATS for mode in MODES[name]]),
    st.integers(MIN_SIDE, 700),
    st.integers(MIN_SIDE, 700),
)
@settings(deadline=None, max_examples=60)
def test_every_format_mode_and_size_becomes_the_models_square(
    kind: tuple[str, str], width: int, height: int
) -> None:
    format_name, mode = kind
    pixels = decode_photo(encode(in_mode(picture(width, height), mode), format_name))
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable


@pytest.mark.parametrize("format_name", SEVERAL_FORMATS)
def test_formats_give_the_same_picture(format_name: str) -> None:
    photo = picture()
    expected = np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    lossless = format_name in ("PNG", "GIF", "BMP", "TIFF")
    pixels = decode_photo(encode(photo, format_name, **({} if lossless else {"quality": 95})))
    assert difference(pixels, expected) <= (0 if lossless else 4)


@pytest.mark.parametrize("mode", ["L", "I;16", "I", "F"])
def test_grey_of_any_depth_keeps_its_brightness(mode: str) -> None:
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (64, 1)))
    expected = decode_photo(encode(ramp, "PNG"))
    deep = decode_photo(encode(in_mode(ramp, mode), "TIFF"))
    assert difference(deep, expected) < 1


@given(st.floats(-1e30, 1e30), st.floats(1e-3, 1e30))
@settings(deadline=None)
def test_of_grey_without_a_fixed_white_darkest_is_black_and_brightest_white(
    low: float, span: float
) -> None:
    levels = np.full((80, 90), low, np.float32)
    levels[:, 30:60], levels[:, 60:] = low + abs(low) + span, np.nan
    photo = _decode(encode(Image.fromarray(levels), "TIFF"))  # here, since a child takes 50 ms
    assert list(photo.pixels[100, [10, 112, 214], 0]) == [0, pytest.approx(255, abs=1), 0]


def test_grey_of_a_single_level_is_black() -> None:
    assert not _decode(encode(Image.new("F", (20, 20), 7.5), "TIFF")).pixels.any()


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_holes_in_a_float_picture_leave_its_brightness(hole: float) -> None:
    ramp = np.tile(np.arange(256, dtype=np.float32), (64, 1))
    with_holes = ramp.copy()
    with_holes[:2, :2] = hole
    expected, pixels = (
        decode_photo(encode(Image.fromarray(values), "TIFF")) for values in (ramp, with_holes)
    )
    assert np.array_equal(pixels[40:], expected[40:])


def test_a_phones_heic_is_the_same_picture_and_never_taken_cut() -> None:
    heic = Path("tests/pictures/cat.heic").read_bytes()
    jpeg = Path("tests/pictures/cat.jpg").read_bytes()
    assert difference(decode_photo(heic), decode_photo(jpeg)) < 4
    for end in range(0, len(heic), 1000):
        with pytest.raises(InvalidPhotoException):
            decode_photo(heic[:end])


def test_transparent_pixels_become_white() -> None:
    photo = Image.new("RGBA", (50, 50), (255, 0, 0, 0))
    assert decode_photo(encode(photo, "PNG")).min() == 255
    palette = Image.new("P", (50, 50), 0)
    assert decode_photo(encode(palette, "GIF", transparency=0)).min() == 255


def test_an_animation_is_its_first_frame() -> None:
    frames = [picture(), Image.new("RGB", (120, 90), "black")]
    for format_name in ("GIF", "WEBP"):
        animation = encode(frames[0], format_name, save_all=True, append_images=frames[1:])
        assert difference(decode_photo(animation), decode_photo(encode(frames[0], "PNG"))) < 12


@given(
    st.sampled_from(["PNG", "JPEG", "WEBP"]),
    st.integers(MIN_SIDE, 300),
    st.integers(1, 3),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_of_a_tall_or_wide_photo_the_middle_is_seen_at_four_to_three(
    format_name: str, side: int, times: int, tall: bool
) -> None:
    side -= side % 3  # so that the middle is of whole pixels
    if side < MIN_SIDE:
        return
    long = side * 4 // 3
    middle = picture(long, side)
    photo = Image.new("RGB", (long * times, side), "white")  # a middle with white on its sides
    photo.paste(middle, ((photo.width - long) // 2, 0))
    if tall:
        middle, photo = (one.transpose(Image.Transpose.ROTATE_90) for one in (middle, photo))
    lossless = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    seen = read_photo(encode(photo, format_name, **lossless[format_name]))
    assert seen.seen_size == middle.size
    assert difference(seen.pixels, decode_photo(encode(middle, "PNG"))) < 3
    assert seen.size == photo.size


def test_a_photo_no_longer_than_four_to_three_is_seen_whole() -> None:
    photo = picture(400, 300)
    expected = np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    assert (decode_photo(encode(photo, "PNG")) == expected).all()


def sent(upright: Image.Image, orientation: int, format_name: str, **options: Any) -> bytes:
    """An upright photo as a camera stores and sends it under an EXIF orientation."""
    stored = upright if orientation == 1 else upright.transpose(STORED_AS[orientation])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encode(stored, format_name, exif=exif, **options)


def check_turned(photo: DecodedPhoto, upright: Image.Image, orientation: int) -> None:
    expected = decode_photo(encode(upright, "PNG"))
    assert difference(photo.pixels, expected) < 5
    assert photo.orientation == orientation
    assert photo.upright_size == upright.size
    assert photo.size == (upright.size if orientation < 5 else upright.size[::-1])


TURNED: dict[str, dict[str, Any]] = {
    "JPEG": {}, "MPO": {}, "PNG": {}, "WEBP": {}, "TIFF": {}, "AVIF": {},
    "TIFF, LZW": {"compression": "tiff_lzw"},
    "TIFF, JPEG": {"compression": "jpeg"},
    "TIFF, big": {"big_tiff": True},
    "TIFF, pages": {"save_all": True, "append_images": [picture(30, 20)]},
}  # fmt: skip


@pytest.mark.parametrize("kind", TURNED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_photo_upright(kind: str, orientation: int) -> None:
    data = sent(picture(), orientation, kind.split(",")[0], **TURNED[kind])
    check_turned(read_photo(data), picture(), orientation)


@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]),
    st.integers(1, 8),
    st.integers(MIN_SIDE, 500),
    st.integers(MIN_SIDE, 500),
)
@settings(deadline=None, max_examples=40)
def test_a_photo_of_any_size_and_orientation_has_both_its_sizes(
    format_name: str, orientation: int, width: int, height: int
) -> None:
    data = sent(picture(width, height), orientation, format_name)
    photo = _decode(data)  # here, since a child takes 50 ms
    assert photo.upright_size == (width, height)
    assert photo.size == ((width, height) if orientation < 5 else (height, width))
    assert photo.orientation == orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_by_its_own_properties_alone(orientation: int) -> None:
    rotations, mirrors = {3: 2, 5: 1, 6: 3, 7: 3, 8: 1}, {2: 1, 4: 0, 5: 0, 7: 0}
    turns = [
        box(kind, bytes([table[orientation]]))
        for kind, table in ((b"irot", rotations), (b"imir", mirrors))
        if orientation in table
    ]
    tag = struct.pack("<4sIHHHIII", b"II*\0", 8, 1, ExifTags.Base.Orientation, 3, 1, orientation, 0)
    exif = Item(b"Exif", bytes(4) + tag, [], [1])  # phones write it too, and it is ignored
    plain = read_photo(heif({1: heic_item()}, 1))
    photo = read_photo(heif({1: heic_item().having(*turns), 2: exif}, 1))
    expected = Image.fromarray(plain.pixels)
    if orientation > 1:
        expected = expected.transpose(SHOWN_AS[orientation])
    assert difference(photo.pixels, np.asarray(expected)) < 1
    assert photo.upright_size == (plain.size if orientation < 5 else plain.size[::-1])
    assert (photo.size, photo.orientation) == (photo.upright_size, 1)


XMP = b'<x tiff:Orientation="6"/>'
WAYS_TO_WRITE_6: dict[str, tuple[bytes, dict[int, TiffEntry | None]]] = {
    "short": (b"", {274: (3, 1, 6)}),
    "long": (b"", {274: (4, 1, 6)}),
    "rational": (struct.pack("<II", 6, 1), {274: (5, 1, 808)}),
    "XMP": (XMP, {700: (1, len(XMP), 808)}),
    "text, which Pillow leaves to us": (b"", {274: (2, 2, ord("6"))}),
}


@pytest.mark.parametrize("way", WAYS_TO_WRITE_6)
def test_a_tiff_is_turned_once_however_its_orientation_is_written(way: str) -> None:
    behind, tags = WAYS_TO_WRITE_6[way]
    levels = np.zeros((20, 40), np.uint8)
    levels[:10, 20:] = 255  # in the upper right corner, which 6 turns to the lower right one
    photo = read_photo(tiff(40, 20, levels.tobytes() + behind, tags))
    assert (photo.size, photo.upright_size, photo.orientation) == ((40, 20), (20, 40), 6)
    corners = photo.pixels[[10, 10, -10, -10], [10, -10, 10, -10], 0]
    assert list(corners) == [0, 0, 0, 255]


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("of_exif", "counts"), [(None, 6), (1, 1), (3, 3)])
def test_an_orientation_in_xmp_counts_where_exif_has_none(
    format_name: str, of_exif: int | None, counts: int
) -> None:
    options: dict[str, Any] = {"xmp": XMP}
    if format_name == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP)
        options = {"pnginfo": text}
    exif = Image.Exif()
    if of_exif:
        options["exif"] = exif
        exif[ExifTags.Base.Orientation] = of_exif
    if format_name == "TIFF":
        options = {"tiffinfo": {700: XMP, **exif}}
    assert _decode(encode(picture(), format_name, **options)).orientation == counts


def test_an_avif_is_turned_by_its_own_properties_and_not_by_xmp() -> None:
    turned = sent(picture(), 6, "AVIF", xmp=XMP.replace(b"6", b"3"))
    assert _decode(turned).orientation == 6
    assert _decode(encode(picture(), "AVIF", xmp=XMP)).orientation == 1


def test_exif_behind_the_pixels_of_a_png_counts() -> None:
    png = sent(picture(), 6, "PNG")
    start = png.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], "big")
    moved = png[:start] + png[end:-12] + png[start:end] + png[-12:]
    check_turned(read_photo(moved), picture(), 6)


@pytest.mark.parametrize("value", [0, 9, 200, 65_535])
def test_an_orientation_that_does_not_exist_counts_as_none(value: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    for format_name in ("JPEG", "TIFF"):
        check_turned(read_photo(encode(picture(), format_name, exif=exif)), picture(), 1)


@given(st.binary(max_size=200))
@example(b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0x\0\0\0\0\0\0\0")  # an orientation of "x"
@settings(deadline=None, max_examples=50)
def test_broken_exif_does_not_spoil_a_photo(junk: bytes) -> None:
    exif = b"Exif\x00\x00" + junk
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    jpeg = encode(picture(), "JPEG")
    pixels = decode_photo(jpeg[:2] + segment + jpeg[2:])
    assert np.array_equal(pixels, decode_photo(jpeg))


@pytest.mark.parametrize("format_name", [*SEVERAL_FORMATS, "progressive"])
def test_a_photo_cut_anywhere_is_refused(format_name: str) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8))
    if format_name == "progressive":
        whole = encode(noise.resize((500, 500)), "JPEG", progressive=True)
    else:
        whole = encode(noise, format_name)
    # These two are decoded in a child process, which takes 50 ms with PyTorch loaded.
    step = len(whole) // 40 if format_name in ("TIFF", "AVIF") else 10
    for end in [*range(0, len(whole), step), len(whole) - 3]:
        with pytest.raises(InvalidPhotoException):
            decode_photo(whole[:end])


@pytest.mark.parametrize("lost", [1, 2, 12, 20])
def test_a_jpeg_or_png_without_its_end_mark_counts_as_truncated(lost: int) -> None:
    for format_name in ("JPEG", "PNG"):
        with pytest.raises(InvalidPhotoException, match=r"^photo is truncated"):
            decode_photo(encode(picture(1000, 800), format_name)[:-lost])


def test_a_damaged_photo_is_distinguished_from_a_truncated_one() -> None:
    png = encode(picture(), "PNG")
    with pytest.raises(InvalidPhotoException, match=r"^photo is damaged: .*; send the whole"):
        decode_photo(png[:45] + bytes(40) + png[85:])


def test_junk_after_a_whole_photo_is_overlooked() -> None:
    jpeg = encode(picture(), "JPEG")
    assert np.array_equal(decode_photo(jpeg + b"junk" * 100), decode_photo(jpeg))


@given(st.binary(max_size=400), st.sampled_from(SEVERAL_FORMATS), st.integers(0, 300))
@settings(deadline=None, max_examples=150)
def test_hostile_bytes_raise_nothing_but_photo_exceptions(
    junk: bytes, format_name: str, position: int
) -> None:
    whole = encode(picture(), format_name)
    spoiled = whole[:position] + junk + whole[position + len(junk) :]
    for data in (junk, spoiled):
        assert status(data) in (200, 400, 413, 415)


def status(data: bytes) -> int:
    """The HTTP status of a photo; any other exception than a PhotoException passes through."""
    try:
        decode_photo(data)
    except PhotoException as error:
        return error.status
    return 200


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    whole = encode(Image.new("L", (16, 16)), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


def test_a_photo_with_too_many_pixels_is_refused_by_its_header() -> None:
    with pytest.raises(
        PhotoTooLargeException, match="has 16.0 megapixels; the limit for PNG is 16:"
    ):
        decode_photo(png_header(1_000_001, 16))
    with pytest.raises(PhotoTooLargeException, match=f"{MAX_MEGAPIXELS} for other formats"):
        decode_photo(png_header(60_000, 60_000))
    with pytest.raises(InvalidPhotoException, match="truncated"):
        decode_photo(png_header(1_000_000, 16))


def test_a_big_jpeg_is_taken_where_a_png_is_not() -> None:
    big = Image.new("L", (5000, 4000), 100)
    phones = encode(big, "MPO", save_all=True, append_images=[big])  # a JPEG, with another behind
    for jpeg in (encode(big, "JPEG"), phones):
        assert decode_photo(jpeg).mean() == pytest.approx(100, abs=1)
    with pytest.raises(PhotoTooLargeException):
        decode_photo(encode(big, "PNG"))
    too_big = Image.new("L", (10_001, 5100))
    with pytest.raises(PhotoTooLargeException, match=f"{MAX_MEGAPIXELS_JPEG} megapixels for JPEG"):
        decode_photo(encode(too_big, "JPEG"))


@pytest.mark.parametrize("size", [(3000, 900), (900, 3000)])
def test_a_big_jpeg_is_as_sharp_as_a_png(size: tuple[int, int]) -> None:
    chess = np.indices((90, 90)).sum(axis=0, dtype=np.uint8) % 2 * 255
    photo = Image.fromarray(chess).resize(size, Image.Resampling.NEAREST)
    jpeg, png = (decode_photo(encode(photo, format_name)) for format_name in ("JPEG", "PNG"))
    assert difference(jpeg, png) < 2


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
@pytest.mark.parametrize("size", [(15, 100), (100, 15), (1, 1)])
def test_a_photo_with_a_side_under_16_pixels_is_refused(
    size: tuple[int, int], format_name: str
) -> None:
    with pytest.raises(
        InvalidPhotoException, match=r"^photo has {}x{} .* at least 16".format(*size)
    ):
        decode_photo(encode(Image.new("RGB", size), format_name))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"<!doctype html><p>hello", "not a photo"),
        (b"\x00" * 100, "not a photo"),
    ],
)
def test_what_is_no_photo_is_named_so(data: bytes, message: str) -> None:
    with pytest.raises(InvalidPhotoException, match=message):
        decode_photo(data)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_a_photo_without_line_ends_as_from_curl_is_recognised(format_name: str) -> None:
    photo = encode(picture(200, 150), format_name)
    with pytest.raises(InvalidPhotoException, match="lost .* as with curl -d; .*--data-binary"):
        decode_photo(photo.translate(None, b"\0\r\n"))
    with pytest.raises(InvalidPhotoException, match=r"^(?!.*curl)"):
        decode_photo(photo[:40])


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7", "PDF"),
        (b"  <svg xmlns=''>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "XML"),
        (b"8BPS\0\1", "Photo"),
        (b"II*\0\x10\0\0\0CR\2\0", "Canon raw"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "Canon raw"),
        (b"FUJIFILMCCD-RAW 0201", "Fujifilm raw"),
        (b"IIU\0\x18\0\0\0", "Panasonic raw"),
        (b"IIRO\x08\0\0\0", "Olympus raw"),
        (b"II\xbc\1", "JPEG XR"),
    ],
)
def test_formats_that_are_not_opened_are_named_beside_those_that_are(
    data: bytes, name: str
) -> None:
    with pytest.raises(UnsupportedPhotoException, match=f"{name}.*JPEG, PNG, .*HEIC"):
        decode_photo(data)


def test_pillow_formats_outside_the_list_are_not_opened() -> None:
    for format_name in ("PPM", "ICO", "TGA", "PCX"):
        with pytest.raises(PhotoException):
            decode_photo(encode(picture(64, 64), format_name))


def test_every_format_is_loaded_before_a_child_process_needs_it() -> None:
    """Otherwise each child would import them again."""
    program = "from handler.photo import FORMATS, Image; print(sorted({*FORMATS} - {*Image.OPEN}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("size", [(8_192, 6_144), (5_712, 4_284)])
def test_phones_may_send_what_their_sensors_give(size: tuple[int, int]) -> None:
    """50 megapixels of JPEG, and 24.5 of HEIC."""
    is_jpeg = size[0] > 6_000
    with Image.new("L", size) as photo:
        photo.format = "JPEG" if is_jpeg else "HEIF"
        limit = MAX_MEGAPIXELS_JPEG if is_jpeg else MAX_MEGAPIXELS_HEIF
        _check_size(photo, limit, photo.format)
        with pytest.raises(PhotoTooLargeException):
            _check_size(photo, limit // 2, photo.format)
