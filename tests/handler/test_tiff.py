from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from handler.photo import InvalidPhotoException, UnsupportedPhotoException, _decode
from testing.hostile import encode
from testing.hostile.layouts import KINDS, PALETTE, PHOTOMETRIC, SIDE, Layout, file_of, tiff_of
from testing.hostile.tiff import tiff

ROW, COLUMN = np.mgrid[:SIDE, :SIDE]
PICTURE = np.stack([COLUMN * 8, ROW * 8, (COLUMN * 5 + ROW * 3) % 256], axis=2).astype(np.uint8)
GREY = np.where(ROW < 20, COLUMN * 255 // (SIDE - 1), 255 - ROW * 5).astype(np.uint8)
OPAQUE = np.full((SIDE, SIDE, 1), 255, np.uint8)
LAYOUTS = [
    Layout(*way) for way in itertools.product((False, True), (False, True), (1, 8), (False, True))
] + [Layout(big_endian, False, 32_773, False) for big_endian in (False, True)]
DEEP = {"1", "4", "8", "12 in 16", "16"}
READ = {  # by colour: kinds of samples; all others are refused by name
    "WhiteIsZero": {"1", "4", "8", "12 in 16", "16", "float 32"},
    "BlackIsZero": DEEP | {"12", "32", "signed 16", "signed 32", "float 32"},
    "grey and alpha": {"8"},
    "RGB": {"8", "12 in 16", "16"},
    "RGBA": {"8", "12 in 16", "16"},
    "RGBX": {"8", "12 in 16", "16"},
    "palette": {"1", "4", "8"},
    "CMYK": {"8", "12 in 16", "16"},
    "YCbCr": {"8"},
    "Lab": {"8"},
}
REFUSED_LAYOUTS = {  # of kinds that are read otherwise
    "grey and alpha": lambda layout: layout.planar,
    "Lab": lambda layout: layout.planar,
}
REFUSED_BIG_ENDIAN = {("BlackIsZero", "12")}


def samples_of(colour: str) -> np.ndarray:
    if colour in ("RGBA", "RGBX"):
        return np.concatenate([PICTURE, OPAQUE], axis=2)
    if colour == "CMYK":
        return np.concatenate([255 - PICTURE, 255 - OPAQUE], axis=2)
    if colour == "YCbCr":
        return np.asarray(Image.fromarray(PICTURE).convert("YCbCr"))
    if colour == "Lab":
        profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        lab = ImageCms.profileToProfile(Image.fromarray(PICTURE), *profiles, outputMode="LAB")
        return np.asarray(lab)
    if colour == "RGB":
        return PICTURE
    grey = GREY[:, :, None]
    if colour == "WhiteIsZero":
        return 255 - grey
    return np.concatenate([grey, OPAQUE], axis=2) if colour == "grey and alpha" else grey


def shown(colour: str, kind: str) -> np.ndarray:
    """The picture in 8 bits."""
    if colour == "palette":
        return PALETTE[GREY >> 8 - KINDS[kind].bits].astype(np.uint8)
    picture = PICTURE if colour in ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "Lab") else GREY
    bits = min(8, KINDS[kind].bits)
    return (picture >> 8 - bits) * (255 // (2**bits - 1))


@pytest.mark.parametrize("colour", PHOTOMETRIC)
@pytest.mark.parametrize("kind", KINDS)
def test_a_tiff_of_any_layout_is_the_8_bit_picture_or_refused(colour: str, kind: str) -> None:
    expected = None
    for layout in LAYOUTS:
        data = tiff_of(samples_of(colour), colour, kind, layout)
        if is_read(colour, kind, layout):
            if expected is None:
                expected = _decode(encode(Image.fromarray(shown(colour, kind)), "PNG")).pixels
            difference = np.abs(_decode(data).pixels.astype(int) - expected).mean()
            assert difference < (6 if kind == "12 in 16" else 2), layout
        else:
            with pytest.raises(
                UnsupportedPhotoException, match=r"^TIFF of .* is not supported; send"
            ):
                _decode(data)


def is_read(colour: str, kind: str, layout: Layout) -> bool:
    if (colour, kind) in REFUSED_BIG_ENDIAN and layout.big_endian:
        return False
    refused = REFUSED_LAYOUTS.get(colour, lambda layout: False)
    return kind in READ[colour] and not refused(layout)


@pytest.mark.parametrize(
    ("colour", "kind", "name"),
    [
        ("RGB", "float 32", "TIFF of 32-bit floating-point RGB"),
        ("BlackIsZero", "float 64", "TIFF of 64-bit floating-point grey"),
        ("grey and alpha", "16", "TIFF of 16-bit unsigned grey with extra samples"),
    ],
)
def test_the_layout_that_is_not_opened_is_named(colour: str, kind: str, name: str) -> None:
    data = tiff_of(samples_of(colour), colour, kind, LAYOUTS[0])
    with pytest.raises(
        UnsupportedPhotoException, match=f"^{name} is not supported; send JPEG, PNG"
    ):
        _decode(data)


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({50_706: (1, 4, 0x401)}, r"camera raw \(DNG\)"),
        ({262: (3, 1, 32_803)}, "camera raw"),
        ({254: (4, 1, 1), 330: (4, 1, 8)}, "camera raw"),
        ({259: (3, 1, 34_712)}, "TIFF of compression 34712"),
    ],
)
def test_raw_photos_are_named_instead_of_their_previews(
    tags: dict[int, tuple[int, int, int]], name: str
) -> None:
    with pytest.raises(UnsupportedPhotoException, match=f"^{name} is not supported"):
        _decode(tiff(20, 20, changed=tags))


def test_a_tiff_with_broken_metadata_keeps_its_pixels_and_orientation() -> None:
    text = {
        282: (2, 4, 0x31313131),
        283: (2, 4, 0x31313131),
        296: (3, 1, 3),
    }  # a resolution of "111"
    turned = {ExifTags.Base.Orientation: (3, 1, 6)}
    levels = bytes(range(200)) * 4
    expected = _decode(tiff(40, 20, levels, turned))
    broken = tiff(40, 20, levels, text | turned)
    photo = _decode(broken)
    assert np.array_equal(photo.pixels, expected.pixels)
    assert (photo.orientation, photo.upright_size) == (6, (20, 40))
    with pytest.raises(InvalidPhotoException):
        _decode(broken[:-40])


def test_dark_grey_of_16_bits_stays_dark_above_12_bits() -> None:
    levels = np.tile(np.linspace(0, 4_200, SIDE, dtype=np.uint16), (SIDE, 1))
    assert _decode(encode(Image.fromarray(levels), "TIFF")).pixels.max() == 4_200 >> 8
    assert _decode(encode(Image.fromarray(np.minimum(levels, 4_095)), "PNG")).pixels.max() == 255


def test_halved_chroma_is_read_as_such() -> None:
    blue, red = ((1, 107, 93), (76, 85, 255))  # luminance and chroma
    blocks = [bytes([light] * 4 + chroma) for light, *chroma in (blue, red)]  # of 2 x 2 pixels
    rows = (blocks[0] * (SIDE // 4) + blocks[1] * (SIDE // 4)) * (SIDE // 2)
    tags = {
        256: ("H", [SIDE]), 257: ("H", [SIDE]), 258: ("H", [8] * 3), 259: ("H", [1]),
        262: ("H", [6]), 273: ("I", [8]), 277: ("H", [3]), 278: ("H", [SIDE]),
        279: ("I", [len(rows)]), 530: ("H", [2, 2]),
    }  # fmt: skip
    pixels = _decode(file_of(rows, tags, "<")).pixels.astype(int)
    assert np.abs(pixels[:, 200:] - (254, 0, 0)).max() < 3
    assert np.ptp(pixels[:, :100], axis=(0, 1)).max() == 0


def test_premultiplied_grey_lies_on_white() -> None:
    straight = np.concatenate([GREY[..., None], np.full((SIDE, SIDE, 1), 128, np.uint8)], axis=2)
    layout = Layout(False, False, 1, False)
    plain = tiff_of(straight, "grey and alpha", "8", layout)
    multiplied = straight.copy()
    multiplied[..., 0] = GREY.astype(int) * 128 // 255
    tag = struct.pack("<HHI", 338, 3, 1)
    data = tiff_of(multiplied, "grey and alpha", "8", layout).replace(tag + b"\2", tag + b"\1")
    difference = np.abs(_decode(data).pixels.astype(int) - _decode(plain).pixels)
    assert difference.max() <= 3


def test_a_big_endian_bigtiff_is_named() -> None:
    with pytest.raises(UnsupportedPhotoException, match="big-endian BigTIFF is not supported"):
        _decode(b"MM\0+\0\x08\0\0" + bytes(100))
