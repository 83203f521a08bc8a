from __future__ import annotations

import io
import struct
import time

import numpy as np
import pytest
from PIL import ExifTags, Image

from handler import parts
from handler.parts import count_scans, jpeg_segments, without_metadata
from handler.photo import (
    MAX_SCANS,
    InvalidPhotoException,
    UnsupportedPhotoException,
    decode_photo,
    read_photo,
)
from testing.hostile import chunk, encode, good_pictures, picture, with_scans
from testing.hostile.jpeg import BROKEN_SEGMENTS, in_jpeg, segment
from testing.hostile.png import BROKEN_CHUNKS, behind_pixels, in_png

BROKEN = {name: in_jpeg(side) for name, side in BROKEN_SEGMENTS.items()}
BROKEN |= {name: in_png(side) for name, side in BROKEN_CHUNKS.items()}
BEHIND = {name: behind_pixels(side) for name, side in BROKEN_CHUNKS.items()}
PNG, JPEG = good_pictures()["PNG"], good_pictures()["JPEG"]
PROGRESSIVE = good_pictures()["JPEG, progressive"]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_leave_the_pixels_as_they_are(name: str) -> None:
    whole = JPEG if name in BROKEN_SEGMENTS else PNG
    for broken in (BROKEN[name], BEHIND.get(name, whole)):
        assert np.array_equal(decode_photo(broken), decode_photo(whole))


@pytest.mark.parametrize("name", BROKEN)
def test_a_photo_with_broken_metadata_is_refused_where_it_is_cut(name: str) -> None:
    for end in range(8, len(BROKEN[name]) - 3, len(BROKEN[name]) // 20):
        with pytest.raises(InvalidPhotoException):
            decode_photo(BROKEN[name][:end])


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_broken_metadata_leave_the_orientation(format_name: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    whole = encode(picture(), format_name, exif=exif)
    side = segment(0xEE, b"Adobe") if format_name == "JPEG" else chunk(b"gAMA", b"")
    start = 2 if format_name == "JPEG" else 33
    photo = read_photo(whole[:start] + side + whole[start:])
    assert (photo.orientation, photo.upright_size) == (6, (90, 120))
    assert np.array_equal(photo.pixels, decode_photo(whole))


def test_a_sound_transparency_stays_with_broken_metadata() -> None:
    red = Image.new("RGB", (40, 30), "red")
    whole = encode(red, "PNG", transparency=(255, 0, 0))
    assert decode_photo(whole[:33] + chunk(b"gAMA", b"") + whole[33:]).min() == 255


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_the_segments_that_tell_colours_stay_with_broken_metadata(mode: str) -> None:
    options = {"keep_rgb": True} if mode == "RGB" else {}
    whole = encode(picture().convert(mode), "JPEG", **options)
    broken = whole[:2] + segment(0xE2, b"ICC_PROFILE\0") + whole[2:]
    assert np.array_equal(decode_photo(broken), decode_photo(whole))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\xff\xd8" + JPEG[20:40], PNG[:60], b"BM"]
)
def test_of_what_is_cut_off_or_of_another_format_nothing_is_left_out(data: bytes) -> None:
    assert without_metadata(data) is None


def test_a_file_in_more_parts_than_any_photo_has_is_not_gone_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "MAX_PARTS", 100)
    broken = chunk(b"gAMA", b"") + chunk(b"prVt", b"") * 100
    assert without_metadata(in_png(broken)) is None
    with pytest.raises(ValueError, match="more than 100 segments"):
        without_metadata(in_jpeg(b"\xff\xfe\0\2" * 100))


def test_the_bound_on_the_parts_of_a_file_keeps_it_quick() -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match="more than"):
        list(jpeg_segments(b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000))
    assert time.process_time() - started < 1


SEVERAL = {
    "MPO": encode(picture(), "MPO", save_all=True, append_images=[picture()] * 4, progressive=True),
    "a burst": PROGRESSIVE * 12,
    "a motion photo": PROGRESSIVE + b"\0\0\0\x18ftypmp42" + PROGRESSIVE[2:] * 12,
    "a gain map": PROGRESSIVE + with_scans(PROGRESSIVE, MAX_SCANS),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_scans_behind_the_end_mark_do_not_count(kind: str) -> None:
    assert np.array_equal(decode_photo(SEVERAL[kind]), decode_photo(PROGRESSIVE))
    assert count_scans(SEVERAL[kind]) == 10


def test_an_end_mark_within_a_segment_ends_no_scans() -> None:
    hidden = PROGRESSIVE[:-2] + segment(0xE5, b"\xff\xd9") + PROGRESSIVE[-2:]
    assert count_scans(with_scans(hidden, 30)) == 40
    thumbnail = segment(0xE1, b"Exif\0\0" + PROGRESSIVE)
    assert count_scans(PROGRESSIVE[:2] + thumbnail + PROGRESSIVE[2:]) == 10


@pytest.mark.parametrize(
    ("place", "value", "name"),
    [(1, 0xC5, "hierarchical JPEG"), (4, 12, "12-bit JPEG"), (9, 2, "JPEG of 2 components")],
)
def test_a_jpeg_of_a_kind_that_is_not_opened_is_named(place: int, value: int, name: str) -> None:
    frame = JPEG.index(b"\xff\xc0") + place
    with pytest.raises(UnsupportedPhotoException, match=f"^{name} is not supported; send JPEG, "):
        decode_photo(JPEG[:frame] + bytes([value]) + JPEG[frame + 1 :])


def test_a_lossless_jpeg_is_opened() -> None:
    levels = np.tile(np.arange(0, 256, 2, dtype=np.uint8), (40, 1))
    expected = decode_photo(encode(Image.fromarray(levels), "PNG"))
    assert np.array_equal(decode_photo(lossless_jpeg(levels)), expected)


def lossless_jpeg(levels: np.ndarray) -> bytes:
    """Encode differences of levels as in ITU-T T.81, Annex H, in 5 bits and as many more."""
    before = np.concatenate([np.r_[128, levels[:-1, 0]][:, None], levels[:, :-1]], axis=1)
    bits = ""
    for step in (levels.astype(int) - before).ravel().tolist():
        count = abs(step).bit_length()
        code = step if step > 0 else step + (1 << count) - 1
        bits += f"{count:05b}" + (f"{code:0{count}b}" if count else "")
    bits += "1" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    height, width = levels.shape
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])  # 17 codes of 5 bits
    frame = struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0)
    head = segment(0xC4, table) + segment(0xC3, frame) + segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
    return b"\xff\xd8" + head + packed + b"\xff\xd9"


def test_an_avif_with_broken_exif_is_read_without() -> None:
    whole = encode(picture(), "AVIF", exif=b"Exif\0\0" + Image.Exif().tobytes()[6:])
    start = whole.rfind(b"Exif", 0, whole.find(b"mdat"))
    assert start > 0
    place = whole.find(b"II*\0", whole.find(b"mdat"))
    place = place if place > 0 else whole.find(b"MM\0*", whole.find(b"mdat"))
    broken = whole[:place] + b"none" + whole[place + 4 :]
    with pytest.raises(ValueError, match="Exif"), Image.open(io.BytesIO(broken)) as photo:
        photo.load()
    assert np.array_equal(decode_photo(broken), decode_photo(whole))
