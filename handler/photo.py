"""From the bytes of one photo to the pixels that the model sees: the only preprocessing there is.

Training, evaluation and serving call `decode_photo`, or `read_photo` where they also need the size
that was sent; nothing else touches pixels.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pi_heif
from PIL import (
    AvifImagePlugin,
    ExifTags,
    Image,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from handler.apart import CRASHES, run_apart
from handler.parts import count_scans, without_metadata
from handler.pixels import samples_of, to_rgb_or_rgba
from handler.tiff import misread_tiff, read_natively
from handler.unopened import other_format, unopened

SIDE = 224  # pixels; the model's first linear layer fixes it
LONGEST = 4 / 3  # of the long side to the short one; what a longer photo has more is cut off
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
MIN_SIDE = 16  # pixels; nothing can be told from less
MAX_MEGAPIXELS = 16  # a photo that must be decoded whole takes 4 bytes a pixel
MAX_MEGAPIXELS_JPEG = 50  # libjpeg shrinks while it decodes
MAX_MEGAPIXELS_CMYK = 36  # in a JPEG; a progressive one is kept whole, in 8 bytes a pixel (RGB: 6)
MAX_SCANS = 32  # of a JPEG; encoders write 10, and each goes over the whole picture: up to 55 ms
# What one decode may take, so that a hostile file delays its batch and no more. The largest photos
# that are taken need 290 megabytes (50 megapixels of progressive JPEG), 270 (TIFF), 250 (WebP), 190
# (AVIF), 140 (GIF, HEIC) or 125 (PNG), and up to 1.1 seconds on a core of a server.
MAX_DECODE_MEGABYTES = 400
MAX_DECODE_SECONDS = 3  # of processor time
PNG_END = b"IEND\xaeB`\x82"
# The start of a scan of a JPEG with its length, which tells it from most chance in other parts.
_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")

pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a worker has one core, and each thread takes memory
# Pillow raises above twice this, some plugins before they allocate; `_check_size` has the limits.
Image.MAX_IMAGE_PIXELS = MAX_MEGAPIXELS_JPEG * 1_000_000 // 2
PngImagePlugin.MAX_TEXT_CHUNK = 2**24  # bytes unpacked; the default of 2**20 refuses big profiles
PngImagePlugin.MAX_TEXT_MEMORY = 2**24
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what is wrong goes to the client

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)  # of the orientations
_HEADER = struct.Struct(">III")  # width, height, orientation; a child process sends pixels after it


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


class ServiceUnavailableException(PhotoException):
    """The server's fault; TorchServe and the gateway call theirs by the same name."""

    status, phrase = 503, "Service Unavailable"


class UploadGoneException(PhotoException):
    """The client has left, and the gateway has deleted its upload: nobody reads the answer."""

    status, phrase = 410, "Gone"


class DecodedPhoto(NamedTuple):
    """What one decode returns. libheif turns a HEIF by itself: its size is upright, too."""

    pixels: np.ndarray  # uint8 (224, 224, 3), RGB, upright
    size: tuple[int, int]  # width and height as sent
    orientation: int  # as sent, 1 to 8 as in EXIF

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as people see it."""
        return self.size[::-1] if self.orientation in _ON_ITS_SIDE else self.size

    @property
    def seen_size(self) -> tuple[int, int]:
        """Width and height of the part that the model sees, as people see it."""
        left, top, right, bottom = middle_of(self.upright_size)
        return round(right - left), round(bottom - top)


def decode_photo(data: bytes) -> np.ndarray:
    """The pixels of `read_photo`: uint8 (224, 224, 3), RGB. Raises the same exceptions."""
    return read_photo(data).pixels


def read_photo(data: bytes) -> DecodedPhoto:
    """Decode the photo in `data` once: upright, its middle squashed to the model's square.

    Only the first frame of an animation counts. A file counts as truncated when a byte that the
    picture needs, or the end mark of a JPEG or PNG, is missing. Alpha is laid over white.

    Raises InvalidPhotoException (empty, not a photo, truncated, damaged, a side under 16 pixels),
    PhotoTooLargeException (over 50 megapixels in a JPEG, over 16 in any other format, or more
    than MAX_DECODE_MEGABYTES or MAX_DECODE_SECONDS to decode) or UnsupportedPhotoException (a
    format that is not opened).
    """
    # libavif, libheif and libtiff read a file in one go and believe it: 1 kB of AVIF unpacks to 268
    # megapixels whatever its header says, a HEIC can show one picture a million times over, and
    # pi-heif 1.4 crashes where the kind of its metadata is not UTF-8.
    if data[4:8] == b"ftyp" or data[:2] in (b"II", b"MM"):
        return _decode_apart(data)
    return _decode(data)


def _decode(data: bytes) -> DecodedPhoto:
    """The photo in `data`; where Pillow trips over its metadata, the photo without them."""
    end = time.thread_time() + MAX_DECODE_SECONDS  # of both tries
    try:
        try:
            return _decode_once(data, end)
        except InvalidPhotoException as error:
            with _damage_is_invalid():
                plain = without_metadata(data) if _may_be_of_metadata(error.__cause__) else None
            if plain is None:
                raise
        return _decode_once(plain, end)
    except InvalidPhotoException as error:
        with _damage_is_invalid():
            name = unopened(data, error.__cause__) if error.__cause__ else None
        if name:
            raise _unsupported(name) from error
        raise


def _may_be_of_metadata(error: BaseException | None) -> bool:
    """Whether the pixels may be good: where they are not, Pillow's decoders raise an OSError.

    A text or profile that unpacks to more than its limit is a bomb, and stays refused.
    """
    if error is None or isinstance(error, UnidentifiedImageError):
        return error is not None
    return not isinstance(error, OSError) and "MAX_TEXT" not in str(error)


def _decode_once(data: bytes, end: float) -> DecodedPhoto:
    with _open_photo(data, end) as photo:
        size = _size_as_sent(photo)
        samples = samples_of(photo)
        if isinstance(photo, TiffImagePlugin.TiffImageFile):
            if name := misread_tiff(photo):
                raise _unsupported(name)
            read_natively(photo)
        if photo.format in ("JPEG", "MPO"):
            _check_scans(data)
            photo.draft(None, (2 * SIDE, 2 * SIDE))  # at least twice the target, or sharpness goes
            _check_size(photo, MAX_MEGAPIXELS, "so narrow a JPEG")  # shrunk by little or nothing
        # Pillow's load() turns a TIFF upright and drops its orientation.
        turned = _orientation(photo) if photo.format == "TIFF" else 1
        photo.load()
        if photo.format == "PNG" and PNG_END not in data:  # Pillow overlooks its loss
            raise InvalidPhotoException("photo is truncated: no end mark; send the whole file")
        # Not before load(): Pillow would decode a PNG to look for EXIF data behind its pixels.
        to_turn = _orientation(photo)
        photo = to_rgb_or_rgba(photo, samples)
        # Squashed as most training photos come; but a phone's 9:20 would be twice as slim as those.
        box = middle_of(photo.size)
        photo = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        if photo.mode == "RGBA":
            white = Image.new("RGBA", photo.size, "white")
            photo = Image.alpha_composite(white, photo).convert("RGB")
        upright = photo if to_turn == 1 else photo.transpose(_UPRIGHT[to_turn])
        return DecodedPhoto(np.array(upright), size, turned if to_turn == 1 else to_turn)


def middle_of(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of a photo of this width and height that is looked at: left, top, right, bottom."""
    width, height = size
    left = max(0.0, width - LONGEST * height) / 2
    top = max(0.0, height - LONGEST * width) / 2
    return left, top, width - left, height - top


def _decode_apart(data: bytes) -> DecodedPhoto:
    """`_decode` in a child process, which may crash, and which the system ends in time."""

    def photo_or_error() -> bytes:
        try:
            photo = _decode(data)
            return _HEADER.pack(*photo.size, photo.orientation) + photo.pixels.tobytes()
        except PhotoException as error:
            return f"{error.status} {error}".encode()

    try:
        answer, ended = run_apart(photo_or_error, MAX_DECODE_MEGABYTES, MAX_DECODE_SECONDS)
    except OSError:  # no further process or memory is to be had
        raise _too_much() from None
    if len(answer) == _HEADER.size + SIDE * SIDE * 3:
        width, height, orientation = _HEADER.unpack_from(answer)
        pixels = np.frombuffer(bytearray(answer), np.uint8, offset=_HEADER.size)
        return DecodedPhoto(pixels.reshape(SIDE, SIDE, 3), (width, height), orientation)
    for kind in PhotoException.__subclasses__():
        if answer.startswith(b"%d " % kind.status):
            raise kind(answer[4:].decode())
    if ended in CRASHES:
        raise InvalidPhotoException("photo is damaged: its decoder crashed; send it as a JPEG")
    raise _too_much()


class _TimedFile(io.BytesIO):
    """Pillow reads block by block, so that a file of a million tiny ones comes to its end here."""

    def __init__(self, data: bytes, end: float) -> None:
        super().__init__(data)
        self.reads = 0
        self.end = end

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads % 16 == 0 and time.thread_time() > self.end:  # the clock takes 0.5 µs
            raise _too_much()
        return super().read(size)


@contextmanager
def _open_photo(data: bytes, end: float) -> Iterator[Image.Image]:
    """Open the photo in `data` by its header alone and check format and size; pixels come later.

    `end` is the time of this thread at which it counts as too much.

    Raises the same exceptions as `read_photo`, also for what is done with the photo meanwhile.
    """
    if not data:
        raise InvalidPhotoException("photo is empty; send the bytes of a photo")
    if name := other_format(data):
        raise _unsupported(name)
    # Whole, each of them has zero bytes, in the lengths of its parts.
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG", b"RIFF")) and b"\0" not in data:
        raise InvalidPhotoException(
            "photo is cut off, or has lost its zero bytes and line ends, as by curl -d; "
            "send it by curl -T or --data-binary"
        )
    with warnings.catch_warnings(), _damage_is_invalid():
        warnings.simplefilter("ignore")  # odd EXIF and palettes: the photo still opens
        try:
            photo = Image.open(_TimedFile(data, end), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise InvalidPhotoException(
                f"not a photo, or cut off in its header ({len(data)} bytes); "
                f"send {', '.join(FORMATS)}"
            ) from error
        with photo:
            if photo.format not in ("JPEG", "MPO"):
                _check_size(photo, MAX_MEGAPIXELS, str(photo.format))
            elif photo.mode == "CMYK":
                _check_size(photo, MAX_MEGAPIXELS_CMYK, "a CMYK JPEG")
            else:
                _check_size(photo, MAX_MEGAPIXELS_JPEG, "JPEG")
            yield photo


@contextmanager
def _damage_is_invalid() -> Iterator[None]:
    """Hostile bytes make decoders raise nearly anything: whatever it is, the photo is at fault."""
    try:
        yield
    except PhotoException:
        raise
    except Image.DecompressionBombError:
        raise PhotoTooLargeException(
            f"photo has too many pixels; JPEG is taken up to {MAX_MEGAPIXELS_JPEG} megapixels, "
            f"other formats up to {MAX_MEGAPIXELS}: send a smaller copy"
        ) from None
    except MemoryError:
        raise _too_much() from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        kind = "truncated" if "truncated" in reason.lower() else "damaged"
        raise InvalidPhotoException(f"photo is {kind}: {reason}; send the whole file") from error


def _too_much() -> PhotoTooLargeException:
    return PhotoTooLargeException(
        f"photo takes more than {MAX_DECODE_SECONDS} seconds or {MAX_DECODE_MEGABYTES} megabytes "
        "to decode; send it as a plain JPEG"
    )


def _unsupported(name: str) -> UnsupportedPhotoException:
    return UnsupportedPhotoException(f"{name} is not opened; send {', '.join(FORMATS)}")


def _check_size(photo: Image.Image, limit: int, kind: str) -> None:
    width, height = photo.size
    if min(width, height) < MIN_SIDE:
        raise InvalidPhotoException(
            f"photo is {width}x{height} pixels; send one of at least {MIN_SIDE} on each side"
        )
    if width * height > limit * 1_000_000:
        raise PhotoTooLargeException(
            f"photo has {width * height / 1e6:.1f} megapixels; "
            f"{kind} is taken up to {limit}: send a smaller copy"
        )


def _check_scans(data: bytes) -> None:
    scans = len(_SCAN.findall(data))
    if scans > MAX_SCANS:  # also of what is behind the end mark, as in bursts and motion photos
        scans = count_scans(data)
    if scans > MAX_SCANS:
        raise PhotoTooLargeException(
            f"photo has {scans} scans; JPEG is taken up to {MAX_SCANS}: save it as a plain JPEG"
        )


def _size_as_sent(photo: Image.Image) -> tuple[int, int]:
    if isinstance(photo, TiffImagePlugin.TiffImageFile):  # its `size` is the upright one
        return photo.tag_v2[ExifTags.Base.ImageWidth], photo.tag_v2[ExifTags.Base.ImageLength]
    return photo.size


def _orientation(photo: Image.Image) -> int:
    """The orientation, 1 to 8, as EXIF tells it, or XMP where EXIF doesn't; 1 where neither does.

    Browsers leave XMP aside; Pillow's own `exif_transpose`, which many photos passed, does not.
    """
    if photo.format == "AVIF":
        photo.info.pop("xmp", None)  # as in a HEIC, its own properties count, which Pillow reads
    try:
        value = int(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF makes Pillow raise nearly anything; the pixels are still good
        return 1
    return value if value in _UPRIGHT else 1
