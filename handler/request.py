"""Extract the bytes of photos from a request as TorchServe passes it to the handler."""

from __future__ import annotations

import base64
from typing import Any

from handler.photo import InvalidPhotoException

MAX_PHOTOS = 8  # per request; more would delay the rest of the batch
PART_OVERHEAD = 1024  # bytes; headers and boundary of a part need less, a photo more
_PLAIN = bytes.maketrans(b"-_", b"+/")  # from the URL-safe alphabet
_WHITE_SPACE = b" \t\n\r\v\f"
# Characters of base64 that may be escaped in a URI. Python's `unquote` needs half a gigabyte for
# 12 MB of "%41".
_QUOTED = {b"%2B": b"+", b"%2F": b"/", b"%3D": b"=", b"%20": b"", b"%0A": b"", b"%0D": b""}
HOW_TO_SEND = (
    "send a photo as the body (curl -T photo.jpg), as a file field of a form "
    '(curl -F photo=@photo.jpg) or as JSON {"data": "<base64>"}'
)


def photo_fields(request: dict[str, Any], headers: dict[str, Any]) -> dict[str, Any]:
    """The undecoded photos in `request`, by field, as TorchServe passes it with `headers`.

    Raises InvalidPhotoException for a form without file fields, with more than 8, or with two of
    the same name.
    """
    if _lost_bytes(request, headers) > PART_OVERHEAD * (len(request) + 1):
        raise InvalidPhotoException(
            "the form has a field twice; name each photo's field differently"
        )
    if set(request) <= {"body"}:  # the raw body, or a form with one field called body
        return request or {"body": b""}
    # TorchServe puts each part's content type among the headers; a text field has none.
    files = {
        field: content
        for field, content in request.items()
        if headers.get(field) != {"content-type": ""}
    }
    if not files:
        raise InvalidPhotoException(f"the form has no file field; {HOW_TO_SEND}")
    if len(files) > MAX_PHOTOS:
        raise InvalidPhotoException(
            f"the form has {len(files)} file fields; send at most {MAX_PHOTOS} in one request"
        )
    return files


def _lost_bytes(request: dict[str, Any], headers: dict[str, Any]) -> int:
    """Bytes of the body that are in no field: of duplicate fields, TorchServe keeps the last."""
    if not all(isinstance(content, (bytes, bytearray)) for content in request.values()):
        return 0  # parsed by TorchServe, so that its length is unknown
    lengths = [v for name, v in headers.items() if name.lower() == "content-length"]
    # Java accepts any number of leading zeros, Python only 4,300 digits.
    sent = next((int(v[-18:]) for v in lengths if isinstance(v, str) and v.isdecimal()), 0)
    return sent - sum(map(len, request.values()))


def photo_bytes(content: Any) -> bytes:
    """The photo's bytes in a body or field: raw, or base64 in JSON that TorchServe has parsed.

    Raises InvalidPhotoException for anything else.
    """
    if isinstance(content, (bytes, bytearray)):
        if content.startswith(b"{"):  # no photo starts like this; TorchServe has not parsed it
            raise InvalidPhotoException(
                f"the content is invalid JSON, or was not sent as application/json; {HOW_TO_SEND}"
            )
        return bytes(content)
    if isinstance(content, dict) and isinstance(content.get("data"), str):
        return _from_base64(content["data"])
    kind = "text" if isinstance(content, str) else "JSON without a `data` string"
    raise InvalidPhotoException(f"the content is {kind}, not a photo; {HOW_TO_SEND}")


def _from_base64(text: str) -> bytes:
    """Decode base64 of either alphabet, with or without padding, also in a `data:` URI."""
    if not text.isascii():
        raise InvalidPhotoException("`data` is not base64: it is not ASCII; encode the photo")
    data = text.encode()
    if data[:5].lower() == b"data:":
        head, comma, data = data.partition(b",")
        if not comma or head[-7:].lower() != b";base64":
            raise InvalidPhotoException("`data` is a URI without base64; send data:;base64,...")
        for quoted, plain in _QUOTED.items():
            data = data.replace(quoted, plain).replace(quoted.lower(), plain)
    data = data.translate(_PLAIN, _WHITE_SPACE).rstrip(b"=")
    data += b"=" * (-len(data) % 4)
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise InvalidPhotoException(f"`data` is not base64: {error}; encode the photo") from None
