"""One photo of a request: decoded, with what can be told about it afterwards."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np

from handler.photo import (
    PhotoException,
    PhotoTooLargeException,
    decode_photo,
    open_photo,
    orientation,
)
from handler.request import photo_bytes

ON_THEIR_SIDE = (5, 6, 7, 8)  # of EXIF's orientations


@dataclass
class Upload:
    """A photo's pixels, uint8 (224, 224, 3), or the error that says why there are none."""

    decoded: np.ndarray | PhotoException
    bytes: int | None = None  # None where the request as a whole is wrong
    size: tuple[int, int] | None = None  # width and height as sent; None where there is an error
    on_its_side: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as people see it."""
        assert self.size is not None
        return self.size[::-1] if self.on_its_side else self.size

    def __post_init__(self) -> None:
        if isinstance(self.decoded, PhotoException):
            _forget(self.decoded)


def _forget(error: BaseException) -> None:
    """Drop the frames of an exception and of those that it came from.

    They refer to their callers and these to the whole batch, and back: a ring of megabytes that
    would stay until Python's next full collection, thousands of photos on.
    """
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        earlier = cause.__cause__ or cause.__context__
        cause.__traceback__ = cause.__cause__ = cause.__context__ = None
        cause = earlier


# The photos of one request, each with its answer.
Answered = list[tuple[Upload, dict[str, Any]]]


def read_upload(content: Any) -> Upload:
    """The photo in the body or a field of a request, as TorchServe hands it in."""
    length = None
    try:
        data = photo_bytes(content)
        length = len(data)
        pixels = decode_photo(data)
        with open_photo(data) as photo:  # its header once more: 0.1 ms
            return Upload(pixels, length, photo.size, orientation(photo) in ON_THEIR_SIDE)
    except PhotoException as error:
        return Upload(error, length)
    except MemoryError:
        return Upload(PhotoTooLargeException("photo needs more memory than there is"), length)
