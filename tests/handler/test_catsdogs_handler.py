from __future__ import annotations

import base64
import gc
import io
import json
import logging
import re
import weakref
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from ts.context import Context, RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from handler import catsdogs_handler
from handler.catsdogs_handler import PROBE, CatsDogsHandler
from handler.metrics import _warn_of_undeclared
from handler.photo import MAX_DECODE_SECONDS
from handler.request import MAX_PHOTOS
from testing.hostile import jpeg_sized

FILE = {"content-type": "image/jpeg"}
TEXT = {"content-type": ""}


def jpeg(seed: int = 0, side: int = 64) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


class Server:
    """Calls the handler as TorchServe's worker does, and keeps its answers."""

    def __init__(self, weights: Path, metrics: Any = None, **options: str) -> None:
        self.context = Context(
            model_name="catsdogs",
            model_dir=str(weights.parent),
            manifest={"model": {"modelVersion": "3.1"}},
            batch_size=8,
            gpu=None,
            mms_version=None,
            metrics=metrics,
            model_yaml_config=options,
        )
        self.handler = CatsDogsHandler()
        self.handler.initialize(self.context)

    def answer(
        self, *requests: dict[str, Any], headers: list[dict[str, Any]] | None = None
    ) -> list[tuple[int, dict[str, Any]]]:
        answers = self.raw_answers(*requests, headers=headers)
        json.dumps(answers)  # TorchServe fails the whole batch for values that JSON lacks
        return answers

    def raw_answers(
        self, *requests: dict[str, Any], headers: list[dict[str, Any]] | None = None
    ) -> list[tuple[int, Any]]:
        given_headers = headers or [{} for _ in requests]
        self.context.request_processor = [RequestProcessor(dict(h)) for h in given_headers]
        bodies = self.handler.handle(list(requests), self.context)
        assert len(bodies) == len(requests)
        return [(self.context.get_response_status(n)[0], body) for n, body in enumerate(bodies)]


@pytest.fixture(scope="module")
def server(weights: Path) -> Server:
    return Server(weights)


def test_a_photo_gets_the_promised_answer(server: Server) -> None:
    ((status, body),) = server.answer({"body": bytearray(jpeg())})
    assert status == 200
    assert list(body) == ["label", "confidence", "probabilities", "certain", "model_version"]
    assert body["confidence"] == body["probabilities"][body["label"]]
    assert body["confidence"] == max(body["probabilities"].values())
    assert all(value == round(value, 4) for value in body["probabilities"].values())
    assert sum(body["probabilities"].values()) == pytest.approx(1, abs=2e-4)
    assert body["certain"] is False
    assert body["model_version"] == "3.1"
    assert server.context.get_response_content_type(0) == "application/json"


def test_body_form_and_json_give_the_same_answer(server: Server) -> None:
    photo = jpeg()
    encoded = base64.b64encode(photo).decode()
    answers = server.answer(
        {"body": bytearray(photo)},
        {"photo": bytearray(photo)},
        {"anything": bytearray(photo), "note": bytearray(b"hello")},
        {"body": {"data": encoded}},
        headers=[{}, {"photo": FILE}, {"anything": FILE, "note": TEXT}, {"body": FILE}],
    )
    assert all(answer == answers[0] for answer in answers)


def test_one_bad_photo_leaves_its_batch_unharmed(server: Server) -> None:
    photos = [jpeg(n) for n in range(8)]
    alone = [server.answer({"body": photo})[0] for photo in photos]
    photos[3] = photos[3][:-300]
    together = server.answer(*({"body": photo} for photo in photos))
    status, body = together.pop(3)
    assert status == 400
    assert body["code"] == 400
    assert body["type"] == "InvalidPhotoException"
    assert body["message"].startswith("photo is truncated")
    alone.pop(3)
    for (_, one), (status, other) in zip(alone, together, strict=True):
        assert status == 200
        assert other["label"] == one["label"]
        assert other["confidence"] == pytest.approx(one["confidence"], abs=2e-4)


def test_several_file_fields_are_answered_by_name(server: Server) -> None:
    fields = {"one": jpeg(1), "cut": jpeg(2)[:-300], "two": jpeg(3)}
    ((status, body),) = server.answer(fields, headers=[dict.fromkeys(fields, FILE)])
    assert status == 200
    assert list(body["photos"]) == ["one", "cut", "two"]
    assert body["photos"]["cut"]["code"] == 400
    ((_, alone),) = server.answer({"body": jpeg(3)})
    assert body["photos"]["two"] == alone


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "photo is empty"),
        ({"body": b""}, "photo is empty"),
        ({"note": bytearray(b"text")}, "no file field"),
        ({"body": {"photo": "x"}}, "JSON without a `data` string"),
        ({"body": [1, 2]}, "JSON without a `data` string"),
        ({"body": {"data": "***"}}, "not base64"),
        ({"body": b"{"}, "the content is invalid JSON"),
        ({"body": b'{"data": "iVBORw0KGgo="}'}, "not sent as application/json"),
        ({"body": {"data": "é"}}, "not base64"),
        ({"body": "hello"}, "the content is text"),
        ({f"p{n}": b"x" for n in range(MAX_PHOTOS + 1)}, "at most 8"),
    ],
)
def test_wrong_requests_get_the_reason(
    server: Server, request_: dict[str, Any], message: str
) -> None:
    headers = {field: TEXT if field == "note" else FILE for field in request_}
    ((status, body),) = server.answer(request_, headers=[headers])
    assert status == body["code"] == 400
    assert message in body["message"]


@pytest.mark.parametrize(
    ("photo", "status"),
    [
        (jpeg(side=15), (400, "Bad Request")),
        (jpeg_sized(jpeg(), 60_000, 60_000), (413, "Payload Too Large")),
        (b"%PDF-1.7", (415, "Unsupported Media Type")),
    ],
)
def test_an_error_goes_into_the_status_line(
    server: Server, photo: bytes, status: tuple[int, str]
) -> None:
    server.answer({"body": jpeg()}, {"body": photo})
    assert server.context.get_response_status(0)[0] == 200
    assert server.context.get_response_status(1) == status


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["body", "data", "photo", "describe", "explain", "url_path", ""]),
            st.binary(max_size=50) | JSON,
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_request_makes_the_handler_raise(server: Server, requests: list[dict[str, Any]]) -> None:
    answers = server.answer(*requests, {"body": jpeg()})
    assert answers[-1][0] == 200


def test_more_photos_than_fit_one_pass_are_all_answered(server: Server) -> None:
    requests = [{f"p{n}": jpeg(8 * r + n) for n in range(8)} for r in range(3)]
    answers = server.answer(*requests, headers=[dict.fromkeys(r, FILE) for r in requests])
    for request, (_, body) in zip(requests, answers, strict=True):
        for field in ("p0", "p7"):
            ((_, alone),) = server.answer({"body": request[field]})
            assert body["photos"][field]["confidence"] == pytest.approx(
                alone["confidence"], abs=2e-4
            )


def test_a_form_may_call_the_photo_body_and_not_say_what_it_is(server: Server) -> None:
    photo = jpeg()
    as_body, in_form = server.answer({"body": photo}, {"body": photo}, headers=[{}, {"body": TEXT}])
    assert in_form == as_body


def test_line_breaks_in_base64_are_overlooked(server: Server) -> None:
    photo = jpeg()
    lines = base64.encodebytes(photo).decode()
    broken, whole = server.answer({"body": {"data": lines}}, {"body": photo})
    assert broken == whole


def test_names_that_torchserve_uses_change_no_answer(server: Server) -> None:
    """A client's own header "explain" counts: only the gateway can distinguish it."""
    photo = jpeg()
    ((_, expected),) = server.answer({"body": photo})
    (_, beside) = server.answer(
        {"body": photo}, {"explain": photo}, headers=[{}, {"explain": FILE}]
    )
    assert beside == (200, expected)
    for name in ("describe", "url_path"):
        answers = server.answer(
            {"body": photo}, {name: photo}, headers=[{name: "True"}, {name: FILE}]
        )
        assert answers == [(200, expected)] * 2


def test_describe_tells_about_the_model_beside_predictions(server: Server) -> None:
    answers = server.answer({}, {"body": jpeg()}, headers=[{"describe": "True"}, {}])
    (_, about), (_, prediction) = answers
    assert about["version"] == "3.1"
    assert about["classes"] == ["cat", "dog"]
    assert about["parameters"] == 26_145_922
    assert about["backend"] == server.handler.predictor.backend
    assert "label" in prediction


def test_describe_leaves_out_what_the_handler_alone_needs(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    internal = {
        "ood_score", "activation_ranges", "reference", "training", "params", "graph_sha256",
    }  # fmt: skip
    predictor = server.handler.predictor
    card = predictor.card | {"graph_sha256": "0" * 64}  # as `training archive` writes it
    monkeypatch.setattr(predictor, "card", card)
    assert internal <= card.keys()
    ((_, about),) = server.answer({}, headers=[{"describe": "True"}])
    assert about.keys() == card.keys() - internal - {"metrics"} | {
        *("figures", "version", "parameters", "backend")  # "figures": as clients know them
    }


@pytest.fixture
def counting(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with the metrics of metrics.yaml, which fails the test for any other metric."""

    def fail(name: str) -> None:
        pytest.fail(f"declare {name} in handler/metrics.yaml")

    monkeypatch.setattr("handler.metrics._warn_of_undeclared", fail)
    metrics = MetricsCacheYamlImpl("handler/metrics.yaml")
    metrics.initialize_cache()
    metrics.model_name = "catsdogs"
    return Server(weights, metrics)


def counted(caplog: pytest.LogCaptureFixture) -> dict[str, float]:
    """Sums of the metrics' lines, by name and labels."""
    totals: dict[str, float] = defaultdict(float)
    for record in caplog.records:
        if line := re.match(r"\[METRICS\](\w+)\.\w+:([^|]+)\|#(.*?)\|", record.getMessage()):
            totals[f"{line[1]} {line[3]}"] += float(line[2])
    return totals


MODEL = "ModelName:catsdogs,Level:Model"


def test_a_batch_is_counted_with_labels_in_the_declared_order(
    counting: Server, caplog: pytest.LogCaptureFixture
) -> None:
    form = {"one": jpeg(2), "cut": jpeg(3)[:-300], "pdf": b"%PDF-1.7"}
    headers = [{}, dict.fromkeys(form, FILE), {}]
    with caplog.at_level(logging.INFO):
        answers = counting.answer({"body": jpeg(1)}, form, {"body": b"no"}, headers=headers)
    totals = counted(caplog)
    seconds = totals.pop(f"prediction_latency_seconds {MODEL}")
    assert 0 < seconds < 30
    quantities = Counter[str]()
    for name in [name for name in totals if name.startswith("photo_quantity_total")]:
        quantities[re.findall(r"#?quantity:(\w+),bin:\d", name)[0]] += int(totals.pop(name))
    assert quantities == {"confidence": 2, "brightness": 2}
    labels = [answers[0][1]["label"], answers[1][1]["photos"]["one"]["label"]]
    expected = {
        "prediction_requests_total": 3, "prediction_batches_total": 1,
        "prediction_batched_photos_total": 2,
        "prediction_errors_total type:InvalidPhotoException,": 2,
        "prediction_errors_total type:UnsupportedPhotoException,": 1,
        **{f"predictions_by_class class_name:{name},": labels.count(name) for name in labels},
    }  # fmt: skip
    assert totals == {
        name + ("" if " " in name else " ") + MODEL: value for name, value in expected.items()
    }


def test_every_counter_is_there_from_the_start(
    weights: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    with caplog.at_level(logging.INFO):
        request.getfixturevalue("counting")
    totals = counted(caplog)
    assert set(totals.values()) == {0}
    declared = yaml.safe_load(Path("handler/metrics.yaml").read_text())["model_metrics"]
    assert {name.split()[0] for name in totals} == {row["name"] for row in declared["counter"]}
    assert sum("quantity:confidence" in name for name in totals) == 3
    assert sum("class_name" in name for name in totals) == 2
    assert sum("type:" in name for name in totals) == 4


def test_the_gateways_own_picture_is_neither_counted_nor_logged(
    counting: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        ((status, _),) = counting.answer({"body": jpeg()}, headers=[{PROBE: "true"}])
        assert status == 200
        assert not counted(caplog)
        assert not [r for r in caplog.records if r.name == "handler.photo_log"]
        counting.answer({"body": jpeg()}, {"body": jpeg()}, headers=[{PROBE: "true"}, {}])
    assert counted(caplog)[f"prediction_requests_total {MODEL}"] == 1
    assert counted(caplog)[f"prediction_batched_photos_total {MODEL}"] == 1


def test_a_refused_photo_doesnt_keep_its_batch_in_memory(server: Server) -> None:
    class Body(bytearray):
        """An object that a weak reference can watch."""

    body = Body(jpeg()[:-300])
    kept = weakref.ref(body)
    gc.disable()  # a reference cycle stays for thousands of photos
    try:
        server.answer({"body": body}, {"photo": "text"})
        del body
        assert kept() is None
    finally:
        gc.enable()


def test_each_photo_of_a_batch_has_a_line_with_its_requests_id(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    form = {"one": jpeg(1), "cut": jpeg(2)[:-300]}
    headers = [{"describe": "True"}, {"X-Request-Id": "b", **dict.fromkeys(form, FILE)}, {}]
    server.context.request_ids = {0: "own-0", 1: "own-1", 2: "own-2"}
    with caplog.at_level(logging.INFO, "handler.photo_log"):
        answers = server.answer({}, form, {"note": b"text"}, headers=headers[:2] + [{"note": TEXT}])
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    assert [(line["request_id"], line["photo"], line["status"]) for line in lines] == [
        ("b", 1, 200), ("b", 2, 400), ("own-2", 1, 400)
    ]  # fmt: skip
    assert lines[0]["label"] == answers[1][1]["photos"]["one"]["label"]
    assert lines[0]["pixels"] == "64x64"


def test_a_photo_of_a_request_without_any_id_has_a_line_all_the_same(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.context, "request_ids", None)
    with caplog.at_level(logging.INFO, "handler.photo_log"):
        server.answer({"body": jpeg()})
    (line,) = (json.loads(record.getMessage()) for record in caplog.records)
    assert (line["request_id"], line["photo"], line["status"]) == ("", 1, 200)


def test_a_server_with_other_metrics_still_gets_answers_and_warns(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_of_undeclared.cache_clear()  # once per process
    other = tmp_path / "metrics.yaml"
    other.write_text("model_metrics: {gauge: [{name: other, unit: ms, dimensions: [Level]}]}")
    metrics = MetricsCacheYamlImpl(str(other))
    metrics.initialize_cache()
    ((status, _),) = Server(weights, metrics).answer({"body": jpeg()})
    assert status == 200
    assert caplog.text.count("prediction_requests_total is not declared") == 1


def test_a_form_of_photos_that_take_too_long_is_answered_as_far_as_time_goes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catsdogs_handler, "SECONDS_PER_REQUEST", 0)
    form = {"first": jpeg(), "second": jpeg()}
    ((status, body),) = server.answer(form, headers=[dict.fromkeys(form, FILE)])
    assert status == 200
    assert "label" in body["photos"]["first"]
    assert body["photos"]["second"]["code"] == 413
    assert "send fewer at a time" in body["photos"]["second"]["message"]


def test_the_slowest_batch_ends_before_its_worker_is_killed() -> None:
    config = yaml.safe_load(
        Path(catsdogs_handler.__file__).with_name("model-config.yaml").read_text()
    )
    slowest = catsdogs_handler.SECONDS_PER_REQUEST + MAX_DECODE_SECONDS
    assert config["batchSize"] * slowest < config["responseTimeout"]


EXPLAIN = {"explain": "True"}


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "AVIF"])
def test_an_explanation_is_a_picture_of_the_photos_middle_upright(
    server: Server, format_name: str
) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # on its side
    Image.open(io.BytesIO(jpeg(1))).resize((80, 40)).save(buffer, format_name, exif=exif)
    ((status, png),) = server.raw_answers({"body": buffer.getvalue()}, headers=[EXPLAIN])
    assert status == 200
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    assert picture.height / picture.width == pytest.approx(4 / 3, rel=0.02)
    assert server.context.get_response_content_type(0) == "image/png"


def test_an_explanation_in_json_is_the_answer_with_a_map(server: Server) -> None:
    accept = {"Accept": "text/html, application/json;q=0.9"}
    photo = {"body": jpeg(1)}
    answers = server.answer(photo, photo, headers=[{**EXPLAIN, **accept}, {}])
    (_, explained), (_, predicted) = answers
    heat = explained.pop("map")
    assert explained == predicted
    assert np.shape(heat) == (28, 28)
    assert np.array_equal(heat, np.round(heat, 3))
    assert len(np.unique(heat)) > 2
    assert server.context.get_response_content_type(0) == "application/json"


def test_what_can_not_be_explained_gets_its_error_in_json(server: Server) -> None:
    form = {"one": jpeg(1), "two": jpeg(2)}
    headers = [EXPLAIN, {**EXPLAIN, **dict.fromkeys(form, FILE)}]
    (cut, several) = server.answer({"body": jpeg()[:-300]}, form, headers=headers)
    assert (cut[0], several[0]) == (400, 400)
    assert "truncated" in cut[1]["message"]
    assert "one photo per request" in several[1]["message"]
    assert server.context.get_response_status(1) == (400, "Bad Request")
    for number in (0, 1):
        assert server.context.get_response_content_type(number) == "application/json"


def test_explanations_are_logged_but_are_no_predictions(
    counting: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        counting.raw_answers({"body": jpeg(1)}, headers=[EXPLAIN])
    assert not counted(caplog)
    assert len([r for r in caplog.records if r.name == "handler.photo_log"]) == 1
