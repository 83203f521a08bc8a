"""Log one line of JSON per photo to the worker's standard output.

log4j2.xml writes these lines to photos.log. They contain no photo, file name or client data.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from handler.upload import Upload

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")  # as the gateway accepts it from clients

logger = logging.getLogger(__name__)


def log_photo(
    request: str, position: int, upload: Upload, answer: dict[str, Any], seconds: float
) -> None:
    """Write the line of one photo with its `answer`; missing values are left out.

    `position` is the number of the photo in its request, from 1; `seconds` is the time of its batch
    in the handler.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": request,
        "photo": position,
        "status": answer.get("code", 200),
        "type": answer.get("type"),
        "milliseconds": round(seconds * 1000, 1),
        "bytes": upload.bytes,
        "pixels": upload.size and "{}x{}".format(*upload.size),
        "label": answer.get("label"),
        "confidence": answer.get("confidence"),
        "certain": answer.get("certain"),
    }
    logger.info(json.dumps({name: value for name, value in line.items() if value is not None}))


def request_id(headers: dict[str, Any], own: str) -> str:
    """X-Request-Id, which the gateway sets; TorchServe's `own` id if it is missing or invalid."""
    given = headers.get("X-Request-Id")
    return given if isinstance(given, str) and REQUEST_ID.fullmatch(given) else own
