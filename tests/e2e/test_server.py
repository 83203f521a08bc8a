from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psutil
import pytest
import requests
import yaml
from PIL import Image

from handler.backend import computes_int8
from testing.load import CAT
from testing.repository import CARD, CLASSES, REPOSITORY
from testing.servers import Server
from tools.server.management import Refused

# The content type of curl -d and --data-binary.
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def put(server: Server, photo: bytes, path: str = "") -> requests.Response:
    return requests.put(server.predictions + path, data=photo, timeout=30)


def test_the_cat_is_a_cat_in_all_three_body_forms(server: Server) -> None:
    raw = put(server, CAT)
    form = requests.post(server.predictions, files={"photo": ("x.jpg", CAT)}, timeout=30)
    encoded = {"data": base64.b64encode(CAT).decode()}
    as_json = requests.post(server.predictions, json=encoded, timeout=30)
    for response in (raw, form, as_json):
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/json"
        assert response.json() == raw.json()
    assert raw.json()["label"] == "cat"


def test_a_truncated_photo_among_eight_at_once_spoils_no_other(server: Server) -> None:
    from tests.made_photos import made_photo

    photos = [CAT]
    for seed in range(7):
        path = server.folder / f"{seed}.jpg"
        made_photo("cat" if seed % 2 else "dog", seed).save(path, quality=95)
        photos.append(path.read_bytes())
    alone = [put(server, photo).json()["label"] for photo in photos]
    photos[3] = photos[3][:-500]
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(lambda photo: put(server, photo), photos))
        assert [r.status_code for r in responses] == [200] * 3 + [400] + [200] * 4
        assert "truncated" in responses.pop(3).json()["message"]
        assert [r.json()["label"] for r in responses] == alone[:3] + alone[4:]


def test_several_photos_in_one_form_are_answered_by_field(server: Server) -> None:
    files = {"one": ("1.jpg", CAT), "bad": ("2.jpg", CAT[:900])}
    response = requests.post(server.predictions, files=files, timeout=30)
    assert response.status_code == 200
    photos = response.json()["photos"]
    assert photos["one"]["label"] in CLASSES
    assert photos["bad"]["code"] == 400


def test_a_form_with_the_same_field_twice_gets_a_400(server: Server) -> None:
    for name in ("photo", "body"):
        files = [(name, ("1.jpg", CAT)), (name, ("2.jpg", CAT[:-1]))]
        response = requests.post(server.predictions, files=files, timeout=30)
        assert response.status_code == 400
        assert "a field twice" in response.json()["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": b""}, "empty"),
        ({"data": b"<html>"}, "not a photo"),
        ({"json": {"photo": "x"}}, "JSON without a `data` string"),
        ({"files": {"note": (None, "hello")}}, "no file field"),
        ({"data": {"note": "hello"}}, "not a photo"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, "JSON is not one object"),
        ({"data": CAT.translate(None, b"\0\r\n"), "headers": FORM}, "curl -T or --data-binary"),
        ({"data": b"hello", "headers": {"Content-Type": "text/plain"}}, "not a photo"),
    ],
)
def test_what_is_no_photo_gets_a_400_that_says_why(
    server: Server, options: dict[str, Any], message: str
) -> None:
    response = requests.post(server.predictions, timeout=30, **options)
    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["code"] == 400
    assert message in response.json()["message"]


def test_formats_that_are_not_opened_get_a_415(server: Server) -> None:
    response = put(server, b"%PDF-1.7 ...")
    assert response.status_code == response.json()["code"] == 415
    assert response.json()["type"] == "UnsupportedPhotoException"


def test_what_is_too_large_gets_a_413(server: Server) -> None:
    many_pixels = io.BytesIO()
    Image.new("L", (5000, 4000)).save(many_pixels, "PNG")
    response = put(server, many_pixels.getvalue())
    assert response.status_code == response.json()["code"] == 413
    assert response.json()["type"] == "PhotoTooLargeException"
    many_bytes = put(server, bytes(13 * 2**20))
    assert many_bytes.status_code == many_bytes.json()["code"] == 413
    assert put(server, CAT).status_code == 200


def test_unknown_models_and_versions_get_a_404(server: Server) -> None:
    other = f"{server.address('gateway')}/predictions/nothing"
    for response in (requests.put(other, data=CAT, timeout=30), put(server, CAT, "/9.9")):
        assert response.status_code == response.json()["code"] == 404


def without_nulls(value: Any) -> Any:
    """`value` as TorchServe passes it on, without null values."""
    if not isinstance(value, dict):
        return value
    return {key: without_nulls(item) for key, item in value.items() if item is not None}


def test_the_management_api_describes_the_model(server: Server) -> None:
    (model,) = server.management.ask("GET", "/catsdogs?customized=true")
    about = model["customizedMetadata"]
    internal = ("ood_score", "activation_ranges", "reference", "training", "params")
    names = {"metrics": "figures"}  # as clients know them
    card = {names.get(name, name): value for name, value in CARD.items() if name not in internal}
    assert about.items() >= without_nulls(card).items()
    assert not about.keys() & set(internal)
    assert about["parameters"] > 26_000_000
    assert about["version"] == model["modelVersion"] == put(server, CAT).json()["model_version"]
    assert about["backend"] == f"OpenVINO {'int8' if computes_int8() else 'f32'}"
    config = yaml.safe_load((REPOSITORY / "handler/model-config.yaml").read_text())
    assert model["batchSize"] == config["batchSize"]
    assert model["maxBatchDelay"] == config["maxBatchDelay"]


def test_a_version_is_registered_asked_and_unregistered(server: Server) -> None:
    server.management.register("catsdogs-3.0.mar")
    with pytest.raises(Refused, match=": 409 "):
        server.management.register("catsdogs-3.0.mar")
    assert put(server, CAT, "/3.0").json()["model_version"] == "3.0"
    assert put(server, CAT).json()["model_version"] != "3.0"
    server.management.unregister("3.0")
    assert put(server, CAT, "/3.0").status_code == 404
    assert put(server, CAT).status_code == 200


def test_nothing_listens_beyond_loopback(server: Server) -> None:
    listening = set()  # nginx's workers have their master's
    for process in server.processes():
        with suppress(psutil.NoSuchProcess):  # a decoder that has ended meanwhile
            listening |= {
                connection.laddr
                for connection in process.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            }
    assert len(listening) == 9
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
