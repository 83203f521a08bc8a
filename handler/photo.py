"""From the bytes of one photo to the pixels that the model sees: the only preprocessing there is.

Training, evaluation and serving call `decode_photo`; nothing else touches pixels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pi_heif
from PIL import ExifTags, Image, UnidentifiedImageError

SIDE = 224  # pixels; the model's first linear layer fixes it
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
MIN_SIDE = 16  # pixels; nothing can be told from less
MAX_MEGAPIXELS = 16  # a photo that must be decoded whole takes 4 bytes a pixel
MAX_MEGAPIXELS_JPEG = 50  # libjpeg shrinks while it decodes
PNG_END = b"IEND\xaeB`\x82"

pi_heif.register_heif_opener()
# Pillow warns above 89 megapixels and raises above 179; the limits here are lower and answer 413.
Image.MAX_IMAGE_PIXELS = None

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What people send beside photos; naming it tells them more than "not a photo".
_OTHER_FORMATS = {
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"<svg": "SVG",
    b"II*\x00\x10\x00\x00\x00CR": "Canon raw",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x01\x00": "icon",
}


class PhotoException(Exception):
    """A photo that gets no prediction; carries the HTTP answer. Raised only as a subclass."""

    status: int
    phrase: str  # ASCII: TorchServe writes it into the status line


class InvalidPhotoException(PhotoException):
    status, phrase = 400, "Bad Request"


class PhotoTooLargeException(PhotoException):
    status, phrase = 413, "Payload Too Large"


class UnsupportedPhotoException(PhotoException):
    status, phrase = 415, "Unsupported Media Type"


def decode_photo(data: bytes) -> np.ndarray:
    """Return the photo in `data` upright, squashed to the model's square: uint8 (224, 224, 3), RGB.

    Only the first frame of an animation counts. A file counts as truncated when a byte that the
    picture needs, or the end mark of a JPEG or PNG, is missing. Alpha is laid over white.

    Raises InvalidPhotoException (empty, not a photo, truncated, damaged, a side under 16 pixels),
    PhotoTooLargeException (over 50 megapixels in a JPEG, over 16 in any other format) or
    UnsupportedPhotoException (a format that is not opened).
    """
    with open_photo(data) as photo, _damage_is_invalid():
        if photo.format in ("JPEG", "MPO"):
            photo.draft(None, (2 * SIDE, 2 * SIDE))  # at least twice the target, or sharpness goes
        photo.load()
        if photo.format == "PNG" and PNG_END not in data:  # Pillow overlooks its loss
            raise InvalidPhotoException("photo is truncated: no end mark; send the whole file")
        turn = _UPRIGHT.get(orientation(photo))
        photo = _to_rgb_or_rgba(photo)
        # Squashed, not cropped: most training photos come squashed, and a crop cuts off ears.
        photo = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
        if photo.mode == "RGBA":
            white = Image.new("RGBA", photo.size, "white")
            photo = Image.alpha_composite(white, photo).convert("RGB")
        return np.array(photo if turn is None else photo.transpose(turn))


@contextmanager
def open_photo(data: bytes) -> Iterator[Image.Image]:
    """Open the photo in `data` by its header alone and check format and size; pixels come later.

    Raises the same exceptions as `decode_photo`.
    """
    if not data:
        raise InvalidPhotoException("photo is empty; send the bytes of a photo")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF and palettes: the photo still opens
        with _damage_is_invalid():
            try:
                photo = Image.open(io.BytesIO(data), formats=FORMATS)
            except UnidentifiedImageError:
                raise _unidentified(data) from None
        with photo:
            _check_size(photo)
            yield photo


@contextmanager
def _damage_is_invalid() -> Iterator[None]:
    """Hostile bytes make decoders raise nearly anything: whatever it is, the photo is at fault."""
    try:
        yield
    except (PhotoException, MemoryError):
        raise
    except Exception as error:
        kind = "truncated" if "truncated" in str(error) else "damaged"
        raise InvalidPhotoException(f"photo is {kind}: {error}; send the whole file") from error


def _unidentified(data: bytes) -> PhotoException:
    head = data[:64].lstrip()
    for magic, name in _OTHER_FORMATS.items():
        if head.startswith(magic):
            return UnsupportedPhotoException(f"{name} is not opened; send {', '.join(FORMATS)}")
    return InvalidPhotoException(
        f"not a photo, or cut off in its header ({len(data)} bytes); send {', '.join(FORMATS)}"
    )


def _check_size(photo: Image.Image) -> None:
    width, height = photo.size
    if min(width, height) < MIN_SIDE:
        raise InvalidPhotoException(
            f"photo is {width}x{height} pixels; send one of at least {MIN_SIDE} on each side"
        )
    limit = MAX_MEGAPIXELS_JPEG if photo.format in ("JPEG", "MPO") else MAX_MEGAPIXELS
    if width * height > limit * 1_000_000:
        raise PhotoTooLargeException(
            f"photo has {width * height / 1e6:.1f} megapixels; "
            f"{photo.format} is taken up to {limit}: send a smaller copy"
        )


def orientation(photo: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the EXIF data can't be read."""
    try:
        return int(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF makes Pillow raise nearly anything; the pixels are still good
        return 1


def _to_rgb_or_rgba(photo: Image.Image) -> Image.Image:
    """RGBA where the photo has transparency, else RGB; deeper grey is scaled to 8 bits."""
    if photo.mode.startswith("I;16"):  # Pillow's own conversion clips instead of scaling
        photo = Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    elif photo.mode in ("I", "F"):  # no fixed white: darkest becomes black, brightest white
        levels = np.nan_to_num(np.asarray(photo, dtype=np.float64))
        levels = (levels - levels.min()) / max(float(np.ptp(levels)), 1e-9)
        photo = Image.fromarray((levels * 255).astype(np.uint8))
    mode = "RGBA" if photo.has_transparency_data else "RGB"
    return photo if photo.mode == mode else photo.convert(mode)
