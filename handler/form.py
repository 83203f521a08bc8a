"""Read the file fields of a form (multipart/form-data, RFC 7578)."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from handler.header import kind_of, parameters_of
from handler.photo import InvalidPhotoException, PhotoTooLargeException
from handler.request import HOW_TO_SEND, MAX_PHOTOS

MAX_PARTS = 16  # text fields included
MAX_HEADER_BYTES = 8192  # per part; its name and file name take a few hundred
MAX_HEADERS = 16  # per part
MAX_BOUNDARY_BYTES = 70  # RFC 2046
# CPU time. The largest regular form takes 0.02 s; one with lines that all begin like its boundary
# takes 5 s.
MAX_FORM_SECONDS = 1
_BY_CLIENT = "let your HTTP client write the form, for example curl -F photo=@photo.jpg"

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # errors go to the client


def boundary_of(content_type: str) -> bytes:
    """The boundary in a form's Content-Type. Raises InvalidPhotoException if missing or wrong."""
    try:
        boundary = parameters_of(content_type).get("boundary", "").encode("latin-1", "replace")
    except ValueError as error:
        raise InvalidPhotoException(
            f"the form's Content-Type has {error}: {content_type[:200]}; {_BY_CLIENT}"
        ) from None
    if not boundary:
        raise InvalidPhotoException(f"the form's Content-Type has no boundary; {_BY_CLIENT}")
    if len(boundary) > MAX_BOUNDARY_BYTES:
        raise InvalidPhotoException(
            f"the form's boundary has {len(boundary)} characters; the limit is "
            f"{MAX_BOUNDARY_BYTES} (RFC 2046); {_BY_CLIENT}"
        )
    return boundary


def file_fields(chunks: Iterable[bytes], boundary: bytes) -> dict[str, bytes]:
    """The files of a form, read from `chunks`, by field; text fields are skipped.

    Raises InvalidPhotoException for a form that is malformed, truncated, without file or with too
    many parts, and PhotoTooLargeException after MAX_FORM_SECONDS.
    """
    form = _Form()
    parser = form.parser(boundary)
    end = time.thread_time() + MAX_FORM_SECONDS
    try:
        # RFC 2046 allows text before the first boundary. Here it becomes the content of part 0.
        parser.write(b"--%b\r\n\r\n\r\n" % boundary)
        for chunk in chunks:
            if time.thread_time() > end:
                raise PhotoTooLargeException(
                    f"the form takes over {MAX_FORM_SECONDS} s to read; {_BY_CLIENT}"
                )
            parser.write(chunk)
    except MultipartParseError as error:
        raise form.malformed(str(error)) from None
    return form.finished(boundary)


class _Form:
    """The content read so far; each `on_` method is a callback of python-multipart's parser."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.part = -1  # 0 is the text before the first boundary
        self.ended = False
        self.content: bytearray | None = None  # of the current part; None if it is not a file

    def parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self.on_part_begin,
                "on_header_begin": self.on_header_begin,
                "on_header_field": self.on_header_field,
                "on_header_value": self.on_header_value,
                "on_header_end": self.on_header_end,
                "on_headers_finished": self.on_headers_finished,
                "on_part_data": self.on_part_data,
                "on_part_end": self.on_part_end,
                "on_end": self.on_end,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )

    def on_part_begin(self) -> None:
        self.part += 1
        if self.part > MAX_PARTS:
            raise InvalidPhotoException(
                f"the form has more than {MAX_PARTS} parts; send at most {MAX_PHOTOS} photos and "
                "few text fields"
            )
        self.headers: dict[bytes, bytes] = {}
        self.header_bytes = 0

    def on_header_begin(self) -> None:
        self.header_name, self.header_value = b"", b""
        self._count(len(b": \r\n"))

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self.header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self.header_value += data[start:end]

    def on_header_end(self) -> None:
        self.headers[self.header_name.lower()] = self.header_value

    def on_headers_finished(self) -> None:
        self.content = None
        if self.part:
            self.name, self.filename = self._names()
            if self.filename is not None or self._is_binary():
                self._check_encoding()
                self.content = bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self.content is not None:
            self.content += memoryview(data)[start:end]

    def on_part_end(self) -> None:
        content, self.content = self.content, None
        if content is None or not (content or self.filename):  # an empty file input
            return
        if self.name in self.files:
            raise InvalidPhotoException(
                f"the form has a field twice: {self.name[:100]}; "
                "name each photo's field differently"
            )
        if len(self.files) == MAX_PHOTOS:
            raise InvalidPhotoException(
                f"the form has more than {MAX_PHOTOS} file fields; "
                f"send at most {MAX_PHOTOS} in one request"
            )
        self.files[self.name] = bytes(content)

    def on_end(self) -> None:
        self.ended = True

    def finished(self, boundary: bytes) -> dict[str, bytes]:
        """The files, after the last chunk."""
        if not self.ended:
            raise InvalidPhotoException(
                "the form is truncated: its last boundary is missing; send the whole form"
                if self.part
                else f"no line of the body is --{boundary.decode('latin-1')} with CRLF at its "
                f"end, as the form's Content-Type says; {_BY_CLIENT}"
            )
        if not self.files:
            raise InvalidPhotoException(f"the form has no file field; {HOW_TO_SEND}")
        return self.files

    def malformed(self, reason: str) -> InvalidPhotoException:
        if reason.startswith("Maximum header"):
            return self._too_long()
        what = re.sub(r" (?:at )?\(?\d+\)?$", "", reason)  # positions are those in a chunk
        return InvalidPhotoException(
            f"the form is malformed near part {max(1, self.part)}: {what}; {_BY_CLIENT}"
        )

    def _count(self, size: int) -> None:
        self.header_bytes += size
        if self.header_bytes > MAX_HEADER_BYTES:
            raise self._too_long()

    def _too_long(self) -> InvalidPhotoException:
        return self._wrong(
            f"has more than {MAX_HEADER_BYTES} bytes or {MAX_HEADERS} lines of headers; "
            "shorten its name"
        )

    def _names(self) -> tuple[str, str | None]:
        """The field's name and its file name, which is None for a text field."""
        if b"content-disposition" not in self.headers:
            raise self._wrong(f"has no Content-Disposition; {_BY_CLIENT}")
        header = self.headers[b"content-disposition"].decode(errors="replace")
        if kind_of(header) != "form-data":
            raise self._wrong(
                f"has Content-Disposition {kind_of(header)[:100]!r} instead of form-data; "
                f"{_BY_CLIENT}"
            )
        try:
            parameters = parameters_of(header)
        except ValueError as error:
            raise self._wrong(f"has {error} in its Content-Disposition; {_BY_CLIENT}") from None
        if "name" not in parameters:
            raise self._wrong(f"has no name in its Content-Disposition; {_BY_CLIENT}")
        # RFC 7578 forbids filename*, but older clients send it for names beyond ASCII.
        return parameters["name"], parameters.get("filename", parameters.get("filename*"))

    def _is_binary(self) -> bool:
        """Whether it is a file by its type: some libraries send bytes without a file name."""
        kind = kind_of(self.headers.get(b"content-type", b"").decode(errors="replace"))
        return kind == "application/octet-stream" or kind.startswith("image/")

    def _check_encoding(self) -> None:
        header = self.headers.get(b"content-transfer-encoding", b"binary")
        encoding = header.decode(errors="replace").strip().lower()
        if encoding not in ("7bit", "8bit", "binary"):
            raise self._wrong(
                f"has Content-Transfer-Encoding {encoding[:100]!r}; send the raw bytes"
            )

    def _wrong(self, what: str) -> InvalidPhotoException:
        return InvalidPhotoException(f"part {self.part} of the form {what}")
