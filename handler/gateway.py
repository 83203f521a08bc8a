"""Read the photos of a request that came through the gateway.

The gateway writes the body into a file and passes on only the headers below. Clients can't set
them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from handler.flat_json import data_of
from handler.form import boundary_of, file_fields
from handler.header import kind_of
from handler.upload_folder import open_upload

THROUGH_GATEWAY = "X-Upload"  # "true" on each request, even without a body
FILE = "X-Upload-File"  # the path; missing if the body is empty
TYPE = "X-Upload-Type"  # the client's own Content-Type

CHUNK = 2**16  # bytes of a form that are read at a time


def through_gateway(headers: dict[str, Any]) -> bool:
    return headers.get(THROUGH_GATEWAY) == "true"


def uploaded_fields(headers: dict[str, Any]) -> dict[str, Any]:
    """The undecoded photos in the upload that `headers` name, by field, as from `photo_fields`.

    Raises InvalidPhotoException for a wrong path, form or JSON, UploadGoneException if the client
    has disconnected, and ServiceUnavailableException if the file can't be read.
    """
    path, content_type = str(headers.get(FILE, "")), str(headers.get(TYPE, ""))
    if not path:
        return {"body": b""}
    kind = kind_of(content_type)
    with open_upload(path) as file:
        if kind == "multipart/form-data":
            boundary = boundary_of(content_type)
            return dict(file_fields(iter(partial(file.read, CHUNK), b""), boundary))
        body = file.read()
    return {"body": {"data": data_of(body)} if kind == "application/json" else body}
