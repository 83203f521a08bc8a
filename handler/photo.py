"""Decode the bytes of a photo into the pixels that the model sees: the only preprocessing.

Training, evaluation and serving call `decode_photo`, or `read_photo` if they also need the size as
sent. No other code preprocesses pixels.
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
from typing import Any, NamedTuple

import numpy as np
import pi_heif
from PIL import (
    AvifImagePlugin,
    ExifTags,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from handler.parts import count_scans, without_metadata
from handler.pixels import samples_of, to_rgb_or_rgba
from handler.sandbox import CRASHES, KEPT_WAITING, run_sandboxed
from handler.tiff import misread_tiff, read_natively
from handler.unopened import other_format, unopened

SIDE = 224  # pixels; the model's first linear layer fixes it
LONGEST = 4 / 3  # ratio of the long to the short side; longer photos are cropped to it
# Pillow's names of the formats, and those that people use.
FORMATS = {
    "JPEG": "JPEG", "PNG": "PNG", "WEBP": "WebP", "GIF": "GIF", "BMP": "BMP", "TIFF": "TIFF",
    "AVIF": "AVIF", "HEIF": "HEIC",
}  # fmt: skip
MIN_SIDE = 16  # pixels; smaller photos can't be classified
MAX_MEGAPIXELS = 16  # a photo that must be decoded whole takes 4 bytes per pixel
MAX_MEGAPIXELS_HEIF = 25  # phones write 24.5, which fit because HEIC is decoded to 3 bytes
MAX_MEGAPIXELS_JPEG = 51  # libjpeg shrinks while it decodes; sensors "of 50" have up to 50.4
MAX_MEGAPIXELS_CMYK = 36  # JPEG; a progressive one is stored whole, in 8 bytes per pixel (RGB: 6)
MAX_SCANS = 32  # of a JPEG; encoders write 10, and each scan of a large one takes up to 55 ms
# Limits of one decode, so that a hostile file only delays its batch. The largest accepted photos
# need 290 megabytes (51 megapixels of progressive JPEG), 270 (TIFF), 250 (WebP), 190 (AVIF), 160
# (HEIC), 140 (GIF) or 125 (PNG), and up to 1.1 seconds on a server's core.
MAX_DECODE_MEGABYTES = 400
MAX_DECODE_SECONDS = 3  # CPU time
PNG_END = b"IEND\xaeB`\x82"
# The start of a JPEG scan with its length, which excludes most chance matches in other parts.
_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
# How Pillow (-9), libavif and libheif say that an allocation failed.
_OUT_OF_MEMORY = re.compile(r"out of memory|allocati|decoder error -9", re.IGNORECASE)

pi_heif.register_heif_opener(
    thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
)
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a worker has one core, and each thread needs memory
Image.init()  # here, or each child process would import all formats again
# It fails for a resolution of one byte, and nothing here needs it.
JpegImagePlugin.JpegImageFile._read_dpi_from_exif = lambda self: None  # type: ignore[method-assign]
# Pillow raises above twice this, some plugins before they allocate; `_check_size` has the limits.
Image.MAX_IMAGE_PIXELS = MAX_MEGAPIXELS_JPEG * 1_000_000 // 2
PngImagePlugin.MAX_TEXT_CHUNK = 2**24  # bytes unpacked; the default of 2**20 refuses large profiles
PngImagePlugin.MAX_TEXT_MEMORY = 2**24
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # errors go to the client

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations that swap width and height
_HEADER = struct.Struct(
    ">III"
)  # width, height, orientation; a child process sends it before the pixels


class PhotoException(Exception):
    """A photo without a prediction, with its HTTP status. Only subclasses are raised."""

    status: int
    phrase: str  # ASCII; TorchServe writes it into the status line

    def answer(self) -> dict[str, Any]:
        """The error for the client, in TorchServe's format."""
        return {"code": self.status, "type": type(self).__name__, "message": str(self)}


class InvalidPhotoException(PhotoException):
    status, phrase = 400, "Bad Request"


class PhotoTooLargeException(PhotoException):
    status, phrase = 413, "Payload Too Large"


class UnsupportedPhotoException(PhotoException):
    status, phrase = 415, "Unsupported Media Type"


class ServiceUnavailableException(PhotoException):
    """A fault of the server. TorchServe and the gateway use the same name."""

    status, phrase = 503, "Service Unavailable"


class UploadGoneException(PhotoException):
    """The client has disconnected, and the gateway has deleted its upload. No one reads this."""

    status, phrase = 410, "Gone"


class DecodedPhoto(NamedTuple):
    """The result of one decode. libheif rotates HEIF itself, so its size is upright too."""

    pixels: np.ndarray  # uint8 (224, 224, 3), RGB, upright
    size: tuple[int, int]  # width and height as sent
    orientation: int  # as sent, 1 to 8 as in EXIF

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the upright photo."""
        return self.size[::-1] if self.orientation in _ON_ITS_SIDE else self.size

    @property
    def seen_size(self) -> tuple[int, int]:
        """Width and height of the part that the model sees, upright."""
        left, top, right, bottom = middle_of(self.upright_size)
        return round(right - left), round(bottom - top)


def decode_photo(data: bytes) -> np.ndarray:
    """The pixels of `read_photo`: uint8 (224, 224, 3), RGB. Raises the same exceptions."""
    return read_photo(data).pixels


def read_photo(data: bytes) -> DecodedPhoto:
    """Decode the photo in `data`, rotate it upright, crop it to its middle and resize it.

    Only the first frame of an animation is used. A file is truncated if a byte that the picture
    needs, or the end marker of a JPEG or PNG, is missing. Transparency becomes white.

    Raises InvalidPhotoException (empty, not a photo, truncated, damaged, a side under 16 pixels),
    PhotoTooLargeException (over the MAX_MEGAPIXELS of its format, or more than
    MAX_DECODE_MEGABYTES or MAX_DECODE_SECONDS to decode), UnsupportedPhotoException (an
    unsupported format) or ServiceUnavailableException (no process for its decoder).
    """
    # libavif, libheif and libtiff can't be interrupted and trust the file: 2 kB of AVIF unpack to
    # 268 megapixels whatever its header says, a HEIC can repeat one picture a million times, and
    # pi-heif 1.4 crashes if the type of its metadata is not UTF-8.
    if data[4:8] == b"ftyp" or data[:2] in (b"II", b"MM"):
        return _decode_sandboxed(data)
    return _decode(data)


def _decode(data: bytes) -> DecodedPhoto:
    """Decode `data`; if Pillow fails on its metadata, again without metadata."""
    end = time.thread_time() + MAX_DECODE_SECONDS  # for both attempts
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
    """Whether the pixels may be valid: for invalid ones, Pillow's decoders raise an OSError.

    A text or profile that unpacks to more than its limit is a bomb, so it stays refused.
    """
    if error is None or isinstance(error, UnidentifiedImageError):
        return error is not None
    return not isinstance(error, OSError) and "MAX_TEXT" not in str(error)


def _decode_once(data: bytes, end: float) -> DecodedPhoto:
    with _open_photo(data, end) as photo:
        size = _size_as_sent(photo)
        samples = samples_of(photo)
        if photo.format == "PNG" and data[12:16] == b"IHDR":
            photo.info["interlace"] = data[28]  # a text of this name would replace it
        if isinstance(photo, TiffImagePlugin.TiffImageFile):
            if name := misread_tiff(photo):
                raise _unsupported(name)
            read_natively(photo)
        if photo.format in ("JPEG", "MPO"):
            _check_scans(data)
            photo.draft(None, (2 * SIDE, 2 * SIDE))  # at least twice the target, to stay sharp
            _check_size(photo, MAX_MEGAPIXELS, "such a narrow JPEG")  # hardly or not shrunk
        # Pillow's load() rotates a TIFF upright and drops its orientation.
        by_pillow = _orientation(photo) if photo.format == "TIFF" else 1
        photo.load()
        if photo.format == "PNG" and PNG_END not in data:  # Pillow doesn't notice
            raise InvalidPhotoException("photo is truncated: no end marker; send the whole file")
        # Not before load(): Pillow would decode a PNG to search for EXIF data after its pixels.
        by_us = _orientation(photo)
        photo = to_rgb_or_rgba(photo, samples)
        photo = resized(photo)
        if photo.mode == "RGBA":
            white = Image.new("RGBA", photo.size, "white")
            photo = Image.alpha_composite(white, photo).convert("RGB")
        upright = photo if by_us == 1 else photo.transpose(_UPRIGHT[by_us])
        return DecodedPhoto(np.array(upright), size, by_pillow if by_us == 1 else by_us)


def resized(photo: Image.Image) -> Image.Image:
    """The middle of a photo in 224 x 224 pixels.

    Stretched to a square, like most training photos. Uncropped, a phone's 9:20 would become twice
    as slim as those.
    """
    box = middle_of(photo.size)
    return photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box, reducing_gap=2.0)


def middle_of(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of a photo (width, height) that the model sees: left, top, right, bottom."""
    width, height = size
    left = max(0.0, width - LONGEST * height) / 2
    top = max(0.0, height - LONGEST * width) / 2
    return left, top, width - left, height - top


def _decode_sandboxed(data: bytes) -> DecodedPhoto:
    """`_decode` in a child process, which may crash, and which the kernel ends in time."""

    def photo_or_error() -> bytes:
        try:
            photo = _decode(data)
            return _HEADER.pack(*photo.size, photo.orientation) + photo.pixels.tobytes()
        except PhotoException as error:
            return f"{type(error).__name__} {error}".encode()

    try:
        answer, ended = run_sandboxed(photo_or_error, MAX_DECODE_MEGABYTES, MAX_DECODE_SECONDS)
    except OSError as error:
        raise ServiceUnavailableException(
            f"photo can't be decoded now: {error.strerror}; try again later"
        ) from None
    if len(answer) == _HEADER.size + SIDE * SIDE * 3:
        width, height, orientation = _HEADER.unpack_from(answer)
        pixels = np.frombuffer(bytearray(answer), np.uint8, offset=_HEADER.size)
        return DecodedPhoto(pixels.reshape(SIDE, SIDE, 3), (width, height), orientation)
    for kind in PhotoException.__subclasses__():
        name = f"{kind.__name__} ".encode()
        if answer.startswith(name):
            raise kind(answer.removeprefix(name).decode())
    if ended == KEPT_WAITING:
        raise ServiceUnavailableException(
            "the server is too busy to decode this photo; try again later"
        )
    if ended in CRASHES:
        raise InvalidPhotoException("photo is damaged: its decoder crashed; send it as a JPEG")
    raise _too_much()


class _TimedFile(io.BytesIO):
    """A file that stops Pillow in time: it reads block by block, even a million tiny ones."""

    def __init__(self, data: bytes, end: float) -> None:
        super().__init__(data)
        self.reads = 0
        self.end = end

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads % 16 == 0 and time.thread_time() > self.end:  # reading the clock takes 0.5 µs
            raise _too_much()
        return super().read(size)


@contextmanager
def _open_photo(data: bytes, end: float) -> Iterator[Image.Image]:
    """Open the photo in `data` and check format and size by its header, without decoding pixels.

    `end` is the limit of this thread's CPU time (time.thread_time). Raises the same exceptions as
    `read_photo`, also for errors in the `with` block.
    """
    if not data:
        raise InvalidPhotoException("photo is empty; send the bytes of a photo")
    if name := other_format(data):
        raise _unsupported(name)
    # A complete file of these formats has zero bytes, in the lengths of its parts.
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG", b"RIFF")) and b"\0" not in data:
        raise InvalidPhotoException(
            "photo is truncated, or has lost its zero bytes and line ends, as with curl -d; "
            "send it with curl -T or --data-binary"
        )
    with warnings.catch_warnings(), _damage_is_invalid():
        warnings.simplefilter("ignore")  # unusual EXIF and palettes: the photo still opens
        try:
            photo = Image.open(_TimedFile(data, end), formats=tuple(FORMATS))
        except UnidentifiedImageError as error:
            raise InvalidPhotoException(
                f"not a photo, or truncated in its header ({len(data)} bytes); "
                f"send {', '.join(FORMATS.values())}"
            ) from error
        with photo:
            if photo.format == "HEIF":
                _check_size(photo, MAX_MEGAPIXELS_HEIF, "HEIC")
            elif photo.format not in ("JPEG", "MPO"):
                _check_size(photo, MAX_MEGAPIXELS, str(photo.format))
            elif photo.mode == "CMYK":
                _check_size(photo, MAX_MEGAPIXELS_CMYK, "a CMYK JPEG")
            else:
                _check_size(photo, MAX_MEGAPIXELS_JPEG, "JPEG")
            yield photo


@contextmanager
def _damage_is_invalid() -> Iterator[None]:
    """Turn exceptions into PhotoException: decoders raise nearly anything for hostile bytes."""
    try:
        yield
    except PhotoException:
        raise
    except Image.DecompressionBombError:
        raise PhotoTooLargeException(
            f"photo has too many pixels; the limit is {MAX_MEGAPIXELS_JPEG} megapixels for JPEG, "
            f"{MAX_MEGAPIXELS_HEIF} for HEIC, {MAX_MEGAPIXELS} for other formats: send a smaller "
            "copy"
        ) from None
    except MemoryError:
        raise _too_much() from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if _OUT_OF_MEMORY.search(reason):
            raise _too_much() from None
        if "MAX_TEXT" in reason:
            raise InvalidPhotoException(
                f"a text or colour profile of the photo unpacks to over "
                f"{PngImagePlugin.MAX_TEXT_CHUNK >> 20} MiB; send it without metadata"
            ) from error
        kind = "truncated" if "truncated" in reason.lower() else "damaged"
        raise InvalidPhotoException(f"photo is {kind}: {reason}; send the whole file") from error


def _too_much() -> PhotoTooLargeException:
    return PhotoTooLargeException(
        f"photo takes over {MAX_DECODE_SECONDS} seconds or {MAX_DECODE_MEGABYTES} megabytes to "
        "decode; send it as a plain JPEG"
    )


def _unsupported(name: str) -> UnsupportedPhotoException:
    return UnsupportedPhotoException(f"{name} is not supported; send {', '.join(FORMATS.values())}")


def _check_size(photo: Image.Image, limit: int, kind: str) -> None:
    width, height = photo.size
    if min(width, height) < MIN_SIDE:
        raise InvalidPhotoException(
            f"photo has {width}x{height} pixels; each side needs at least {MIN_SIDE}: send a "
            "larger copy"
        )
    if width * height > limit * 1_000_000:
        raise PhotoTooLargeException(
            f"photo has {width * height / 1e6:.1f} megapixels; "
            f"the limit for {kind} is {limit}: send a smaller copy"
        )


def _check_scans(data: bytes) -> None:
    scans = len(_SCAN.findall(data))
    if scans > MAX_SCANS:  # includes pictures after the end marker, as in bursts and motion photos
        scans = count_scans(data)
    if scans > MAX_SCANS:
        raise PhotoTooLargeException(
            f"photo has {scans} scans; the limit for JPEG is {MAX_SCANS}: save it as a plain JPEG"
        )


def _size_as_sent(photo: Image.Image) -> tuple[int, int]:
    if isinstance(photo, TiffImagePlugin.TiffImageFile):  # its `size` is upright
        return photo.tag_v2[ExifTags.Base.ImageWidth], photo.tag_v2[ExifTags.Base.ImageLength]
    return photo.size


def _orientation(photo: Image.Image) -> int:
    """The orientation, 1 to 8, from EXIF or, without it, from XMP; 1 without both.

    Browsers ignore XMP; Pillow's `exif_transpose`, through which many photos went, doesn't.
    """
    if photo.format == "AVIF":
        photo.info.pop("xmp", None)  # as in HEIC, only its own properties count, which Pillow reads
    try:
        value = int(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises nearly anything for broken EXIF; the pixels are still valid
        return 1
    return value if value in _UPRIGHT else 1
