"""The gateway's upload folder: the only place where the handler reads files of clients."""

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
FOLDER = "CATSDOGS_UPLOADS"  # the environment variable that names it
# nginx makes a folder each time it starts, and in it a file for each upload.
_BELOW = re.compile(rb"/([^/\0]+)/([0-9]{10,20})")
_SAFELY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO would block
# A symbolic link, a file where a folder should be, a socket, too long a name.
_WRONG_PATH = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENAMETOOLONG)
_INSTEAD = "send the photo itself, as curl -T photo.jpg does"


@contextmanager
def open_upload(path: str) -> Iterator[BinaryIO]:
    """Open the gateway's file at `path`, which is FOLDER/<folder>/<digits>, and nothing else.

    Raises InvalidPhotoException for another path or anything but a regular file of at most 12 MiB,
    UploadGoneException for a file that is not there, and ServiceUnavailableException where the file
    can't be read, also for an OSError in the `with` block.
    """
    levels = _levels(path)
    try:
        with ExitStack() as stack:
            descriptor = None
            # Each level is opened inside the descriptor of the one above, so that a folder which
            # somebody exchanges meanwhile can't lead out.
            for level, kind in zip(levels, (os.O_DIRECTORY, os.O_DIRECTORY, 0), strict=True):
                descriptor = os.open(level, _SAFELY | kind, dir_fd=descriptor)
                stack.callback(os.close, descriptor)
            assert descriptor is not None
            _check(os.fstat(descriptor))
            yield stack.enter_context(open(descriptor, "rb", closefd=False))
    except OSError as error:
        raise _what_failed(error, levels[0]) from error


def _levels(path: str) -> tuple[bytes, bytes, bytes]:
    """The upload folder, the folder in it and the file in that."""
    root = os.fsencode(os.environ.get(FOLDER, "")).rstrip(b"/")
    if not root.startswith(b"/"):
        raise InvalidPhotoException(
            f"X-Upload-File is set, but this server has no upload folder ({FOLDER}); {_INSTEAD}"
        )
    given = path.encode("latin-1", "replace")  # TorchServe makes a character of each byte
    below = _BELOW.fullmatch(given.removeprefix(root)) if given.startswith(root) else None
    if not below or below[1] in (b".", b".."):
        raise InvalidPhotoException(
            f"X-Upload-File is {path[:100]!r}, which is not a file of the upload folder; {_INSTEAD}"
        )
    return root, below[1], below[2]


def _check(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _not_a_file()
    if status.st_size > MAX_UPLOAD_BYTES:
        raise InvalidPhotoException(
            f"X-Upload-File has {status.st_size} bytes; the limit is {MAX_UPLOAD_BYTES}: "
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
        f"the upload can't be read: {error.strerror}; send it again later"
    )
