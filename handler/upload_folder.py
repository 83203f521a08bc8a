"""Open files in the gateway's upload folder, the only place where the handler reads uploads."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from handler.photo import (
    InvalidPhotoException,
    PhotoException,
    ServiceUnavailableException,
    UploadGoneException,
)

MAX_UPLOAD_BYTES = 12 * 2**20  # max_request_size in config.properties
FOLDER = "CATSDOGS_UPLOADS"  # the environment variable with its path
# nginx creates a folder at each start, and in it one file per upload.
_BELOW = re.compile(rb"/([^/\0]+)/([0-9]{10,20})")
_SAFELY = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
)  # a FIFO would block without O_NONBLOCK
# A symbolic link, a file instead of a folder, a socket, a name that is too long.
_WRONG_PATH = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENAMETOOLONG)
_INSTEAD = "send the photo itself, for example with curl -T photo.jpg"


@contextmanager
def open_upload(path: str) -> Iterator[BinaryIO]:
    """Open the gateway's file at `path`, which must be FOLDER/<folder>/<digits>.

    Raises InvalidPhotoException for another path or anything but a regular file of at most 12 MiB,
    UploadGoneException for a missing file, and ServiceUnavailableException if the file can't be
    read, also for an OSError in the `with` block.
    """
    levels = _levels(path)
    try:
        with ExitStack() as stack:
            descriptor = None
            # Each level is opened relative to the descriptor of its parent, so that replacing a
            # folder meanwhile can't lead outside.
            for level, kind in zip(levels, (os.O_DIRECTORY, os.O_DIRECTORY, 0), strict=True):
                descriptor = os.open(level, _SAFELY | kind, dir_fd=descriptor)
                stack.callback(os.close, descriptor)
            assert descriptor is not None
            _check(os.fstat(descriptor))
            yield stack.enter_context(open(descriptor, "rb", closefd=False))
    except OSError as error:
        raise _what_failed(error, levels[0]) from error


def _levels(path: str) -> tuple[bytes, bytes, bytes]:
    """The upload folder, the folder in it and the file in the latter."""
    root = os.fsencode(os.environ.get(FOLDER, "")).rstrip(b"/")
    if not root.startswith(b"/"):
        raise InvalidPhotoException(
            f"X-Upload-File is set, but this server has no upload folder ({FOLDER}); {_INSTEAD}"
        )
    given = path.encode("latin-1", "replace")  # TorchServe turns each byte into a character
    below = _BELOW.fullmatch(given.removeprefix(root)) if given.startswith(root) else None
    if not below or below[1] in (b".", b".."):
        raise InvalidPhotoException(
            f"X-Upload-File is {path[:100]!r}, which is not a file in the upload folder; {_INSTEAD}"
        )
    return root, below[1], below[2]


def _check(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _not_a_file()
    if status.st_size > MAX_UPLOAD_BYTES:
        raise InvalidPhotoException(
            f"X-Upload-File has {status.st_size} bytes; the limit is {MAX_UPLOAD_BYTES}; "
            "send a smaller copy"
        )


def _not_a_file() -> InvalidPhotoException:
    return InvalidPhotoException(
        f"X-Upload-File is not a regular file in a regular folder; {_INSTEAD}"
    )


def _what_failed(error: OSError, root: bytes) -> PhotoException:
    if error.errno == errno.ENOENT and error.filename != root:
        return UploadGoneException("the upload is gone: its client has disconnected")
    if error.errno in _WRONG_PATH:
        return _not_a_file()
    return ServiceUnavailableException(
        f"the upload can't be read: {error.strerror}; try again later"
    )
