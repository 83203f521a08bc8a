"""Convert any of Pillow's modes to RGB or RGBA with 8 bits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

TOP_OF_12_BITS = 4095  # of 65,535
_FACTORS = {"L;2": 85, "L;4": 17}  # by Pillow's name of a PNG's samples


class Samples(NamedTuple):
    """Properties of a file's samples that Pillow drops when it decodes them."""

    deep: bool  # 16 bits, of which Pillow keeps 8 per colour
    white_is_zero: bool  # grey that Pillow inverts only up to 8 bits
    unsigned: bool  # 32 bits, which Pillow reads as signed
    factor: int  # from grey of 2 or 4 bits to Pillow's 8


def samples_of(photo: Image.Image) -> Samples:
    """The samples of `photo`; call it before the pixels are decoded."""
    deep = photo.format in ("PNG", "TIFF") and ";16" in str(getattr(photo, "tile", ""))
    if not isinstance(photo, TiffImagePlugin.TiffImageFile):
        tiles = photo.tile if isinstance(photo, PngImagePlugin.PngImageFile) else []
        factor = _FACTORS.get(str(tiles[0].args), 1) if tiles else 1
        return Samples(deep, white_is_zero=False, unsigned=False, factor=factor)
    white_is_zero = photo.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    unsigned = photo.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == 1
    return Samples(deep, white_is_zero, unsigned, factor=1)


def to_rgb_or_rgba(photo: Image.Image, samples: Samples) -> Image.Image:
    """RGBA if the photo has transparency, else RGB; deeper samples are scaled to 8 bits."""
    if photo.mode == "La":  # premultiplied; Pillow converts it to nothing else
        photo = photo.convert("LA")
    if photo.mode.startswith("I;16") or photo.mode in ("I", "F"):
        photo = _grey_photo(photo, samples)
    else:
        photo = _with_key(photo, samples)
        photo = _stretched(photo) if samples.deep else photo
    if photo.format == "BMP" and photo.mode == "RGBA" and not photo.getchannel("A").getbbox():
        photo = photo.convert("RGB")  # an alpha channel that was never written; browsers ignore it
    mode = "RGBA" if photo.has_transparency_data else "RGB"
    return photo if photo.mode == mode else photo.convert(mode)


def _grey_photo(photo: Image.Image, samples: Samples) -> Image.Image:
    """Grey of over 8 bits as L, or as LA if the file names a transparent level."""
    grey = _grey(photo, samples.unsigned)
    whole = Image.fromarray(~grey if samples.white_is_zero else grey)
    if isinstance(level := photo.info.get("transparency"), int):
        opaque = (np.asarray(photo) != level).astype(np.uint8) * np.uint8(255)
        whole.putalpha(Image.fromarray(opaque))
    return whole


def _with_key(photo: Image.Image, samples: Samples) -> Image.Image:
    """With the transparent colour of a PNG in 8 bits, like its pixels; Pillow keeps the file's."""
    key = photo.info.get("transparency")
    if photo.mode == "L" and isinstance(key, int):
        photo.info["transparency"] = key * samples.factor
    elif samples.deep and isinstance(key, tuple):
        photo.info["transparency"] = tuple(level >> 8 for level in key)
        return photo.convert("RGBA")  # before the pixels are brightened
    return photo


def _grey(photo: Image.Image, unsigned: bool) -> np.ndarray:
    """Grey of over 8 bits as uint8 (H, W)."""
    if photo.mode.startswith("I;16"):  # Pillow's own conversion clips instead of scaling
        values = np.asarray(photo)
        return (values >> (4 if values.max() <= TOP_OF_12_BITS else 8)).astype(np.uint8)
    values = np.array(photo)
    return _levels((values.view(np.uint32) if unsigned else values).astype(np.float32, copy=False))


def _stretched(photo: Image.Image) -> Image.Image:
    """Brighten colours of 12 bits in 16, which are nearly black in 8 bits."""
    tops = np.array(photo.getextrema(), int).reshape(-1, 2)[:, 1]
    small = tops <= TOP_OF_12_BITS >> 8
    if not small[: len(tops) - photo.mode.endswith("A")].all():
        return photo
    factors = np.where(small, 17, 1)
    return photo.point(np.minimum(np.outer(factors, range(256)), 255).ravel().tolist())


def _levels(values: np.ndarray) -> np.ndarray:
    """Grey without a fixed white, (H, W) float32, as uint8: darkest is black, brightest white.

    NaN becomes black. Works in place, since the largest photo takes 64 MB.
    """
    known = np.isfinite(values)
    low = float(values.min(where=known, initial=np.inf))
    span = float(values.max(where=known, initial=-np.inf)) - low
    values -= low
    values *= 255 / span if span > 1e-9 else 0
    return np.clip(np.nan_to_num(values, copy=False), 0, 255, out=values).astype(np.uint8)
