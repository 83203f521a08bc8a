"""A photo of a request: decoded, with its properties."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np

from handler.photo import PhotoException, PhotoTooLargeException, read_photo
from handler.request import photo_bytes


@dataclass
class Upload:
    """A photo's pixels, uint8 (224, 224, 3), or the error that prevented decoding."""

    decoded: np.ndarray | PhotoException
    bytes: int | None = None  # None if the whole request is invalid
    size: tuple[int, int] | None = None  # width and height as sent; None after an error
    seen_size: tuple[int, int] | None = None  # of the part that the model sees, upright

    def __post_init__(self) -> None:
        if isinstance(self.decoded, PhotoException):
            _forget(self.decoded)


def _forget(error: BaseException) -> None:
    """Drop the frames of an exception and of its causes.

    They refer to the whole batch, which refers back to them: a cycle of megabytes that would stay
    in memory until Python's next full collection, thousands of photos later.
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
    """Decode the photo in the body or a field of a request, as TorchServe passes it."""
    length = None
    try:
        data = photo_bytes(content)
        length = len(data)
        photo = read_photo(data)
        return Upload(photo.pixels, length, photo.size, photo.seen_size)
    except PhotoException as error:
        return Upload(error, length)
    except MemoryError:
        return Upload(
            PhotoTooLargeException("photo needs too much memory; send a smaller copy"), length
        )
