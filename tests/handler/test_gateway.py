from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from urllib3 import encode_multipart_formdata

from handler import catsdogs_handler, upload_folder
from handler.gateway import uploaded_fields
from handler.photo import read_photo
from handler.request import photo_bytes
from handler.upload import Upload
from tests.handler.memory import memory
from tests.handler.test_catsdogs_handler import EXPLAIN, FILE, MODEL, Server, counted, jpeg

Headers = dict[str, Any]
EMPTY: dict[str, Any] = {"body": bytearray()}  # as TorchServe passes a request without a body


@pytest.fixture(scope="module")
def server(weights: Path) -> Server:
    return Server(weights)


@pytest.fixture
def counting(weights: Path) -> Server:
    metrics = MetricsCacheYamlImpl("handler/metrics.yaml")
    metrics.initialize_cache()
    metrics.model_name = "catsdogs"
    return Server(weights, metrics)


class Gateway:
    """Writes uploads into files, as nginx does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "1764192000"
        self.folder.mkdir(exist_ok=True)
        self.uploads = 0

    def headers(self, body: bytes, content_type: str | None = None, **others: Any) -> Headers:
        """The headers that TorchServe gets instead of `body`."""
        headers = {"X-Upload": "true", "Content-Type": "application/octet-stream", **others}
        if content_type is not None:
            headers["X-Upload-Type"] = content_type
        if body:
            self.uploads += 1
            path = self.folder / f"{self.uploads:010}"
            path.write_bytes(body)
            headers["X-Upload-File"] = str(path)
        return headers

    def leave(self, headers: Headers) -> Headers:
        """The client of this request disconnects."""
        Path(headers["X-Upload-File"]).unlink()
        return headers


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setenv("CATSDOGS_UPLOADS", str(tmp_path))
    return Gateway(tmp_path)


def answer(server: Server, *headers: Headers) -> list[tuple[int, dict[str, Any]]]:
    return server.answer(*[EMPTY] * len(headers), headers=list(headers))


def in_form(*photos: bytes, **named: bytes) -> tuple[bytes, str]:
    fields = {f"photo{number}": photo for number, photo in enumerate(photos)} | named
    return encode_multipart_formdata({name: ("x.jpg", photo) for name, photo in fields.items()})


def in_json(photo: bytes) -> tuple[bytes, str]:
    return json.dumps({"data": base64.b64encode(photo).decode()}).encode(), "application/json"


@given(st.binary(min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_photo_has_the_same_bytes_raw_in_a_form_and_in_json(
    gateway: Gateway, photo: bytes
) -> None:
    for content_type in (None, "image/jpeg"):
        assert uploaded_fields(gateway.headers(photo, content_type)) == {"body": photo}
    ((_, content),) = uploaded_fields(gateway.headers(*in_form(photo))).items()
    assert content == photo
    ((name, content),) = uploaded_fields(gateway.headers(*in_json(photo))).items()
    assert name == "body"
    assert photo_bytes(content) == photo


@pytest.mark.parametrize(
    ("encode", "content_type"),
    [
        (bytes, None),
        (bytes, ""),
        (bytes, "image/jpeg"),
        (bytes, "application/x-www-form-urlencoded"),
        (bytes, "Application/X-WWW-Form-Urlencoded; charset=utf-8"),
        (bytes, "text/plain"),
        (bytes, "multipart/mixed; boundary=b"),
        (bytes, "application/jsonlines"),
        (bytes, ';"; nonsense'),
        (bytes, "é\0"),
        (lambda photo: in_json(photo)[0], "application/json"),
        (lambda photo: in_json(photo)[0], "APPLICATION/JSON ; charset=UTF-8"),
        (lambda photo: in_json(photo)[0], 'application/json; charset="'),
        (lambda photo: b"\xef\xbb\xbf" + in_json(photo)[0], "application/json;charset=utf-8"),
        (lambda photo: in_form(photo)[0], "Multipart/Form-Data"),
        (lambda photo: in_form(body=photo)[0], "multipart/form-data;charset=utf-8"),
    ],
)
def test_a_photo_gets_one_answer_however_it_is_sent(
    server: Server,
    gateway: Gateway,
    encode: Callable[[bytes], bytes],
    content_type: str | None,
) -> None:
    body = encode(jpeg())
    if content_type and "form-data" in content_type.lower():
        content_type += f"; boundary={body.split()[0][2:].decode()}"
    ((status, answered),) = answer(server, gateway.headers(body, content_type))
    assert (status, answered) == server.answer({"body": jpeg()})[0]
    assert status == 200


@pytest.mark.parametrize("request_", [EMPTY, {}, {"body": bytearray(b"x")}])
@pytest.mark.parametrize(
    "others",
    [
        {"describe": "True"},
        {"describe": "True", "explain": "True"},
        {"X-Upload-Type": "application/json"},
        {"X-Upload-Type": "multipart/form-data; boundary=b", "describe": "True"},
        {"Content-Length": "5", "url_path": "x"},
    ],
)
def test_a_request_without_a_body_is_an_empty_photo_whatever_its_headers(
    server: Server, gateway: Gateway, request_: dict[str, Any], others: Headers
) -> None:
    headers = {**gateway.headers(b""), **others}
    ((status, answered),) = server.answer(request_, headers=[headers])
    assert status == 400
    assert answered["message"] == "photo is empty; send the bytes of a photo"


def test_json_that_is_not_declared_gets_the_same_message_as_before(
    server: Server, gateway: Gateway
) -> None:
    body, _ = in_json(jpeg())
    types = ("text/json", "application/x-www-form-urlencoded", None)
    for status, answered in answer(server, *(gateway.headers(body, kind) for kind in types)):
        assert status == 400
        assert (
            "the content is invalid JSON, or was not sent as application/json"
            in answered["message"]
        )


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"x", "multipart/form-data", "has no boundary"),
        (b"x", "multipart/form-data; boundary=b", "no line of the body is --b"),
        (b"[]", "application/json", "the JSON is not one object"),
        (b'{"data": "?"}', "application/json", "`data` is not base64"),
        (b'{"data": ""}', "application/json", "photo is empty"),
        (b"x", None, "not a photo"),
    ],
)
def test_an_upload_that_is_wrong_as_a_whole_harms_no_other(
    server: Server, gateway: Gateway, body: bytes, content_type: str | None, message: str
) -> None:
    good = gateway.headers(jpeg())
    first, wrong, last = answer(server, good, gateway.headers(body, content_type), good)
    assert (first[0], wrong[0], last[0]) == (200, 400, 200)
    assert wrong[1]["code"] == 400
    assert wrong[1]["type"] == "InvalidPhotoException"
    assert message in wrong[1]["message"]


def test_field_names_that_torchserve_uses_are_ordinary(server: Server, gateway: Gateway) -> None:
    names = ("describe", "explain", "url_path", "body", "X-Upload", "X-Upload-File")
    photos = {name: jpeg(number) for number, name in enumerate(names)}
    ((status, answered),) = answer(server, gateway.headers(*in_form(**photos)))
    assert status == 200
    assert list(answered["photos"]) == list(names)
    for name, photo in photos.items():
        ((_, alone),) = answer(server, gateway.headers(*in_form(**{name: photo})))
        assert alone["label"] == answered["photos"][name]["label"]


def test_one_photo_is_explained_and_several_are_not(server: Server, gateway: Gateway) -> None:
    one, two = (gateway.headers(*in_form(*[jpeg()] * n), **EXPLAIN) for n in (1, 2))
    explained, refused = server.raw_answers(EMPTY, EMPTY, headers=[one, two])
    assert Image.open(io.BytesIO(explained[1])).format == "PNG"
    assert refused[0] == 400
    assert "one photo per request" in refused[1]["message"]


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of photos.log."""
    logged = [record for record in caplog.records if record.name == "handler.photo_log"]
    return [json.loads(record.getMessage()) for record in logged]


def test_jobs_whose_clients_have_left_cost_nothing_and_harm_no_other(
    counting: Server,
    gateway: Gateway,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = []
    monkeypatch.setattr(
        "handler.upload.read_photo", lambda data: decoded.append(data) or read_photo(data)
    )
    photos = [jpeg(number) for number in range(4)]
    batch = [gateway.headers(photo) for photo in photos]
    forms = [gateway.headers(*in_form(photo)) for photo in photos[:2]]
    gateway.leave(batch[0])
    gateway.leave(batch[2])
    gateway.leave(forms[1])
    with caplog.at_level(logging.INFO):
        answers = answer(counting, *batch, *forms)
    assert [status for status, _ in answers] == [410, 200, 410, 200, 200, 410]
    assert decoded == [photos[1], photos[3], photos[0]]
    gone = {
        "code": 410,
        "type": "UploadGoneException",
        "message": "the upload is gone: its client has disconnected",
    }
    assert [body for status, body in answers if status == 410] == [gone] * 3
    assert counting.context.get_response_status(0) == (410, "Gone")
    # The gateway makes it a 503, with its own words.
    assert "X-Error" not in counting.context.get_response_headers(0)
    totals = counted(caplog)
    assert totals[f"prediction_requests_total {MODEL}"] == 3
    assert totals[f"prediction_batched_photos_total {MODEL}"] == 3
    assert not [name for name in totals if "errors" in name]
    assert len(lines(caplog)) == 3


def test_a_batch_of_jobs_whose_clients_have_left_is_no_batch(
    counting: Server,
    gateway: Gateway,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting.handler.predictor, "run", None)
    gone = [gateway.leave(gateway.headers(jpeg())) for _ in range(2)]
    with caplog.at_level(logging.INFO):
        answers = answer(counting, gone[0], {**gone[1], **EXPLAIN})
    assert [status for status, _ in answers] == [410, 410]
    assert not counted(caplog)
    assert not lines(caplog)


def test_an_upload_that_cannot_be_read_is_unavailable_and_counted(
    counting: Server, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    headers = gateway.headers(jpeg())
    gateway.folder.parent.rename(gateway.folder.parent.with_name("elsewhere"))
    with caplog.at_level(logging.INFO):
        ((status, body),) = answer(counting, headers)
    assert status == body["code"] == 503
    assert counting.context.get_response_status(0) == (503, "Service Unavailable")
    assert body["type"] == "ServiceUnavailableException"
    assert "the upload can't be read: No such file or directory" in body["message"]
    name = f"prediction_errors_total type:ServiceUnavailableException,{MODEL}"
    assert counted(caplog)[name] == 1
    assert [line["status"] for line in lines(caplog)] == [503]


def test_a_path_outside_is_refused_and_counted(
    counting: Server, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {**gateway.headers(b""), "X-Upload-File": "/etc/passwd"}
    with caplog.at_level(logging.INFO):
        ((status, body),) = answer(counting, headers)
    assert status == 400
    assert "X-Upload-File is '/etc/passwd', which is not a file in the upload" in body["message"]
    assert counted(caplog)[f"prediction_errors_total type:InvalidPhotoException,{MODEL}"] == 1


def test_each_upload_is_read_when_its_turn_to_be_decoded_comes(
    server: Server, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a batch holds only one upload in memory at a time."""
    events = []
    open_upload, read_upload = upload_folder.open_upload, catsdogs_handler.read_upload

    def opened(path: str) -> Any:
        events.append("read")
        return open_upload(path)

    def decoded(content: Any) -> Upload:
        events.append("decode")
        return read_upload(content)

    monkeypatch.setattr("handler.gateway.open_upload", opened)
    monkeypatch.setattr(catsdogs_handler, "read_upload", decoded)
    answer(server, *(gateway.headers(jpeg(number)) for number in range(3)))
    assert events == ["read", "decode"] * 3


def test_a_batch_holds_the_bytes_of_one_upload_at_a_time(server: Server, gateway: Gateway) -> None:
    large = jpeg() + b"\0" * 2_000_000
    batch = [gateway.headers(large) for _ in range(8)]
    answer(server, *batch)
    with memory() as taken:
        answer(server, *batch)
    assert taken.most < 2.5 * len(large)
    cut = [gateway.headers(b"\0" * 2_000_000) for _ in range(8)]
    with memory() as taken:
        answer(server, *cut)
    assert taken.kept < 1_000_000


def test_an_upload_for_which_there_is_no_memory_is_too_large(
    server: Server, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: bytes) -> str:
        raise MemoryError

    monkeypatch.setattr("handler.gateway.data_of", fail)
    wrong, good = answer(server, gateway.headers(*in_json(jpeg())), gateway.headers(jpeg()))
    assert (wrong[0], good[0]) == (413, 200)
    assert wrong[1]["message"] == "the request needs too much memory; send fewer photos"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Upload-File": "{path}"},
        {"X-Upload-File": "{path}", "X-Upload": "True"},
        {"X-Upload-File": "{path}", "X-Upload": "false"},
        {"X-Upload-File": "/etc/passwd", "X-Upload-Type": "application/json"},
        {"x-upload": "true", "X-Upload-File": "{path}"},
    ],
)
def test_torchserves_own_port_takes_bodies_as_before(
    server: Server, gateway: Gateway, headers: Headers
) -> None:
    """Unless X-Upload is set by the gateway."""
    path = gateway.headers(jpeg(1))["X-Upload-File"]
    given_headers = {name: value.format(path=path) for name, value in headers.items()}
    photo = jpeg(2)
    (expected,) = server.answer({"body": photo})
    assert server.answer({"body": photo}, headers=[given_headers]) == [expected]
    ((_, body),) = server.answer({}, headers=[{**given_headers, "describe": "True"}])
    assert body["classes"] == ["cat", "dog"]


def test_fields_of_a_form_on_torchserves_own_port_are_no_headers_of_the_gateway(
    server: Server,
) -> None:
    names = ("X-Upload", "X-Upload-File", "X-Upload-Type")
    ((status, body),) = server.answer(
        dict.fromkeys(names, jpeg()), headers=[dict.fromkeys(names, FILE)]
    )
    assert status == 200
    assert list(body["photos"]) == list(names)
    true = {"X-Upload": {"content-type": "true"}}
    assert server.answer({"X-Upload": jpeg()}, headers=[true]) == server.answer({"body": jpeg()})


@given(
    st.lists(
        st.fixed_dictionaries(
            {"X-Upload": st.just("true")},
            optional={
                "X-Upload-File": st.text() | st.just(FILE) | st.sampled_from(["a", "b", "c", "d"]),
                "X-Upload-Type": st.text()
                | st.just(FILE)
                | st.sampled_from(["application/json", "multipart/form-data; boundary=b"]),
                "describe": st.just("True"),
                "explain": st.sampled_from(["True", "false"]),
                "X-Request-Id": st.text(),
            },
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_headers_make_the_handler_raise(
    server: Server, gateway: Gateway, batch: list[Headers]
) -> None:
    bodies = {"a": b"x", "b": b"--b--", "c": b'{"data": "QQ=="}', "d": b"\xff\xd8\xff"}
    paths = {name: gateway.headers(body)["X-Upload-File"] for name, body in bodies.items()}
    for headers in batch:
        if isinstance(path := headers.get("X-Upload-File"), str):
            headers["X-Upload-File"] = paths.get(path, path)
    answers = answer(server, *batch, gateway.headers(jpeg()))
    assert [status for status, _ in answers] == [400] * len(batch) + [200]
