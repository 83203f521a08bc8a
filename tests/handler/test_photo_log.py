from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handler.photo import InvalidPhotoException
from handler.photo_log import log_photo, request_id
from handler.upload import Upload, read_upload
from testing.repository import REPOSITORY

CAT = (REPOSITORY / "tests/pictures/cat.jpg").read_bytes()
PREDICTION = {"label": "cat", "confidence": 0.9, "probabilities": {}, "certain": True}


def logged(caplog: pytest.LogCaptureFixture, upload: Upload, answer: dict[str, Any]) -> Any:
    with caplog.at_level("INFO"):
        log_photo("an-id", 1, upload, answer, 0.01234)
    (record,) = caplog.records
    return json.loads(record.getMessage())


def test_a_prediction_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    line = logged(caplog, read_upload(CAT), PREDICTION)
    time = datetime.fromisoformat(line.pop("time"))
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60
    assert line == {
        "request_id": "an-id", "photo": 1, "status": 200, "milliseconds": 12.3, "bytes": len(CAT),
        "pixels": "451x300", "label": "cat", "confidence": 0.9, "certain": True,
    }  # fmt: skip


def test_an_error_is_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    answer = {"code": 400, "type": "InvalidPhotoException", "message": "photo is truncated"}
    line = logged(caplog, read_upload(CAT[:-100]), answer)
    del line["time"]
    assert line == {
        "request_id": "an-id", "photo": 1, "status": 400, "type": "InvalidPhotoException",
        "milliseconds": 12.3, "bytes": len(CAT) - 100,
    }  # fmt: skip


def test_a_request_that_is_wrong_as_a_whole_has_no_bytes(caplog: pytest.LogCaptureFixture) -> None:
    line = logged(caplog, Upload(InvalidPhotoException("no file field")), {"code": 400})
    assert "bytes" not in line


def test_base64_counts_the_bytes_of_the_photo() -> None:
    import base64

    upload = read_upload({"data": base64.b64encode(CAT).decode()})
    assert upload.bytes == len(CAT)
    assert isinstance(upload.decoded, np.ndarray)


@pytest.mark.parametrize(
    "given", [None, "", "two\nlines", '{"time": ', "a" * 129, "é", {"content-type": "image/jpeg"}]
)
def test_an_id_that_could_be_anything_gives_way_to_torchserves(given: Any) -> None:
    assert request_id({"X-Request-Id": given}, "own") == "own"
    assert request_id({}, "own") == "own"
    assert request_id({"X-Request-Id": "from-gateway_1.2"}, "own") == "from-gateway_1.2"


def test_the_lines_are_recognised_by_their_beginning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        log_photo("an-id", 1, read_upload(CAT), PREDICTION, 0.01)
    assert caplog.records[0].getMessage().startswith('{"time": ')
    assert Path(REPOSITORY, "log4j2.xml").read_text().count(r"\{&quot;time&quot;: .*") == 2
