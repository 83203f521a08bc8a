"""From any of Pillow's modes to 8 bits of red, green and blue, with alpha where there is any."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

TOP_OF_12_BITS = 4095  # of 65,535


class Samples(NamedTuple):
    """What a file says of its samples and Pillow forgets as it decodes them."""

    deep: bool  # 16 bits, of which Pillow keeps 8 in a colour
    white_is_zero: bool  # in grey, which Pillow turns round in no more than 8 bits
    unsigned: bool  # of 32 bits, which Pillow takes for signed


def samples_of(photo: Image.Image) -> Samples:
    """To be asked before the pixels are decoded."""
    deep = photo.format in ("PNG", "TIFF") and ";16" in str(getattr(photo, "tile", ""))
    if not isinstance(photo, TiffImagePlugin.TiffImageFile):
        return Samples(deep, white_is_zero=False, unsigned=False)
    white_is_zero = photo.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    unsigned = photo.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == 1
    return Samples(deep, white_is_zero, unsigned)


def to_rgb_or_rgba(photo: Image.Image, samples: Samples) -> Image.Image:
    """RGBA where the photo has transparency, else RGB; deeper samples are scaled to 8 bits."""
    if photo.mode.startswith("I;16") or photo.mode in ("I", "F"):
        grey = _grey(photo, samples.unsigned)
        photo = Image.fromarray(~grey if samples.white_is_zero else grey)
    elif samples.deep:
        photo = _stretched(photo)
    if photo.format == "BMP" and photo.mode == "RGBA" and not photo.getchannel("A").getbbox():
        photo = photo.convert("RGB")  # an alpha that was never written; browsers show the colours
    mode = "RGBA" if photo.has_transparency_data else "RGB"
    return photo if photo.mode == mode else photo.convert(mode)


def _grey(photo: Image.Image, unsigned: bool) -> np.ndarray:
    """Deep grey as uint8 (H, W)."""
    if photo.mode.startswith("I;16"):  # Pillow's own conversion clips instead of scaling
        values = np.asarray(photo)
        return (values >> (4 if values.max() <= TOP_OF_12_BITS else 8)).astype(np.uint8)
    values = np.array(photo)
    return _levels((values.view(np.uint32) if unsigned else values).astype(np.float32, copy=False))


def _stretched(photo: Image.Image) -> Image.Image:
    """Colours of 12 bits in 16, nearly black in 8, as bright as they are meant to be."""
    tops = np.array(photo.getextrema(), int).reshape(-1, 2)[:, 1]
    small = tops <= TOP_OF_12_BITS >> 8
    if not small[: len(tops) - photo.mode.endswith("A")].all():
        return photo
    factors = np.where(small, 17, 1)
    return photo.point(np.minimum(np.outer(factors, range(256)), 255).ravel().tolist())


def _levels(values: np.ndarray) -> np.ndarray:
    """Grey without a fixed white, (H, W) float32, to uint8: darkest becomes black, brightest white.

    What is no number becomes black. Works in place: the largest photo takes 64 MB as it is.
    """
    known = np.isfinite(values)
    low = float(values.min(where=known, initial=np.inf))
    span = float(values.max(where=known, initial=-np.inf)) - low
    values -= low
    values *= 255 / span if span > 1e-9 else 0
    return np.clip(np.nan_to_num(values, copy=False), 0, 255, out=values).astype(np.uint8)
