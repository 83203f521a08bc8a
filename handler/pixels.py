"""Convert any of Pillow's modes to RGB or RGBA with 8 bits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

TOP_OF_12_BITS = 4095  # of 65,535


class Samples(NamedTuple):
    """Properties of a file's samples that Pillow drops when it decodes them."""

    deep: bool  # 16 bits, of which Pillow keeps 8 per colour
    white_is_zero: bool  # grey that Pillow inverts only up to 8 bits
    unsigned: bool  # 32 bits, which Pillow reads as signed


def samples_of(photo: Image.Image) -> Samples:
    """The samples of `photo`; call it before the pixels are decoded."""
    deep = photo.format in ("PNG", "TIFF") and ";16" in str(getattr(photo, "tile", ""))
    if not isinstance(photo, TiffImagePlugin.TiffImageFile):
        return Samples(deep, white_is_zero=False, unsigned=False)
    white_is_zero = photo.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    unsigned = photo.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == 1
    return Samples(deep, white_is_zero, unsigned)


def to_rgb_or_rgba(photo: Image.Image, samples: Samples) -> Image.Image:
    """RGBA if the photo has transparency, else RGB; deeper samples are scaled to 8 bits."""
    if photo.mode.startswith("I;16") or photo.mode in ("I", "F"):
        grey = _grey(photo, samples.unsigned)
        photo = Image.fromarray(~grey if samples.white_is_zero else grey)
    elif samples.deep:
        photo = _stretched(photo)
    if photo.format == "BMP" and photo.mode == "RGBA" and not photo.getchannel("A").getbbox():
        photo = photo.convert("RGB")  # an alpha channel that was never written; browsers ignore it
    mode = "RGBA" if photo.has_transparency_data else "RGB"
    return photo if photo.mode == mode else photo.convert(mode)


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
