"""Attacks that an earlier gateway did not withstand, and similar ones."""

from __future__ import annotations

import json
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import requests

from testing.abuse import HEAD, connect
from testing.load import CAT, Load
from testing.repository import CLASSES
from testing.servers import Server, new_server, started, wait_until

MEGABYTE = 2**20
FORM = "multipart/form-data; boundary=x"


@pytest.fixture
def door(server: Server) -> str:
    return server.address("gateway")


@pytest.fixture(scope="module")
def slow_server(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker that takes 3 s for each batch, as the slowest photos do."""
    folder = tmp_path_factory.mktemp("slow")
    shutil.copytree(archives, folder / "archives")
    archive = folder / "archives/catsdogs.mar"
    with zipfile.ZipFile(archives / "catsdogs.mar") as old, zipfile.ZipFile(archive, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "handler/predictor.py":
                wait = b"        __import__('time').sleep(3 if len(pixels) else 0)\n"
                body = b"        passes = ["
                assert data.count(body) == 1
                data = data.replace(body, wait + body)
            new.writestr(name, data)
    Path(f"{archive}.sha256").unlink()
    (folder / "server").mkdir()
    server = new_server(folder / "server", folder / "archives")
    server.environment |= {"TS_DEFAULT_WORKERS_PER_MODEL": "1", "CATSDOGS_CLIENT_LIMIT": "off"}
    with started(server):
        yield server


def send(url: str, body: bytes, kind: str) -> requests.Response:
    return requests.post(url, data=body, headers={"Content-Type": kind}, timeout=60)


def uploads(server: Server) -> list[Path]:
    return list((server.folder / "logs/uploads").glob("*/*"))


def memory(server: Server, name: str) -> int:
    """Resident megabytes of Java, or of the public nginx with its workers."""
    process = server.process(name)
    family = [process] if name == "java" else [process, *process.children()]
    return int(sum(one.memory_info().rss for one in family) / 1e6)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.05, 0.4])
def test_photos_whose_clients_leave_are_neither_kept_nor_computed(
    slow_server: Server, seconds: float
) -> None:
    body = CAT + bytes(10 * MEGABYTE - len(CAT))
    workers, before = slow_server.workers(), memory(slow_server, "java")
    for _ in range(30):
        with suppress(OSError), connect(slow_server) as client:
            client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(seconds)
    wait_until(lambda: not uploads(slow_server), 10)
    began = time.monotonic()
    answer = requests.post(f"{slow_server.address('gateway')}/predict", data=CAT, timeout=60)
    assert answer.json()["label"] in CLASSES
    assert time.monotonic() - began < 15  # the batch before it and its own, not thirty
    assert slow_server.workers() == workers
    assert memory(slow_server, "java") < before + 64


@pytest.mark.slow
def test_slow_large_uploads_leave_room_for_small_photos_and_take_no_memory(
    server: Server,
) -> None:
    with ExitStack() as clients:
        stalled = [clients.enter_context(connect(server)) for _ in range(60)]
        for client in stalled:
            client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (11 * MEGABYTE))
        part = bytes(MEGABYTE)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda client: [client.sendall(part) for _ in range(10)], stalled))
        assert memory(server, "nginx") < 64
        assert memory(server, "java") < 400
    wait_until(lambda: not uploads(server))


@pytest.mark.slow
def test_an_address_has_a_share_and_the_others_theirs(own_server: Server) -> None:
    """Slow uploads from one address occupy at most 64 places."""
    own_server.environment |= {"CATSDOGS_TRUSTED_PROXIES": "127.0.0.1"}
    own_server.start()
    door = f"{own_server.address('gateway')}/predict"

    def ask(address: str) -> int:
        headers = {"X-Forwarded-For": address}
        return requests.post(door, data=CAT, headers=headers, timeout=30).status_code

    with ExitStack() as clients:
        for _ in range(80):
            client = clients.enter_context(connect(own_server))
            client.sendall(
                HEAD + b"X-Forwarded-For: 203.0.113.7\r\nContent-Length: 100000\r\n\r\nx"
            )
        time.sleep(1)
        assert ask("203.0.113.7") == 503
        assert ask("203.0.113.8") == 200
    wait_until(lambda: ask("203.0.113.7") == 200)


def test_idle_connections_keep_no_probe_waiting(server: Server) -> None:
    with ExitStack() as clients:
        for _ in range(1100):
            clients.enter_context(connect(server))
        for path in ("ready", "health", "metrics/gateway"):
            began = time.monotonic()
            asked = requests.get(f"{server.address('gateway_metrics')}/{path}", timeout=30)
            assert asked.status_code == 200
            assert time.monotonic() - began < 5
        assert requests.put(f"{server.address('gateway')}/predict", data=CAT, timeout=30).ok


def test_readiness_requests_never_keep_photos_out(server: Server, door: str) -> None:
    def ask(path: str) -> int:
        return requests.get(f"{door}/{path}", timeout=60).status_code

    with ThreadPoolExecutor(70) as pool, Load(server, clients=4) as load:
        asked = [pool.submit(ask, path) for path in ("ready", "health", "model/info") * 70]
        assert {future.result() for future in asked} == {200}
        load.wait_for(8)
    assert not load.failed()


@pytest.mark.slow
def test_ready_holds_while_slow_photos_are_answered_and_ends_with_them(
    slow_server: Server,
) -> None:
    ready = f"{slow_server.address('gateway_metrics')}/ready"
    with Load(slow_server, clients=40) as load:
        load.wait_for(8)
        for _ in range(5):
            began = time.monotonic()
            assert requests.get(ready, timeout=30).status_code == 200
            assert time.monotonic() - began < 4  # 2 if nothing else runs
        (worker,) = slow_server.workers()
        worker.suspend()
        try:
            wait_until(lambda: requests.get(ready, timeout=30).status_code == 503, 60)
            health = ready.replace("ready", "health")
            assert requests.get(health, timeout=30).status_code == 200  # the gateway's own
        finally:
            worker.resume()
            load.stopping.set()
    wait_until(lambda: requests.get(ready, timeout=30).status_code == 200, 90)


@pytest.mark.slow
def test_forms_of_many_parts_and_deep_json_cost_nobody_memory(server: Server, door: str) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    form = part * (12 * MEGABYTE // len(part) - 1) + b"--x--\r\n"
    deep = b"[" + b'{"":{}},' * (MEGABYTE * 12 // 8 - 2) + b"0]"
    kinds = {"multipart/form-data; boundary=x": form, "application/json": deep}
    processes = [server.process("java"), *server.workers()]
    before = [process.memory_info().rss for process in processes]
    with ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(send, f"{door}/predict", data, kind)
            for kind, data in kinds.items()
            for _ in range(3)
        ]
        for future in asked:
            assert future.result().status_code == 400, future.result().text
    grown = [
        (process.memory_info().rss - rss) / 1e6
        for process, rss in zip(processes, before, strict=True)
    ]
    assert max(grown) < 150, grown
    assert [server.process("java"), *server.workers()] == processes


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (FORM, b'--x\r\nContent-Disposition: form-data; name=""\r\n\r\n0'),
        (FORM, b"--x\r\nContent-Disposition: form-data\r\n\r\n0\r\n--x--"),
        ("multipart/form-data", b"--x\r\n\r\n0\r\n--x--\r\n"),
        ("Multipart/Form-Data; boundary=x", b"--x--\r\n"),
        ("Application/JSON", b"{}"),
        ("APPLICATION/X-WWW-FORM-URLENCODED", b"a=b"),
        ("application/json", b'[{"":{}}]'),
        ("\xff\xfe", b"nothing"),
        ("x" * 9000, b"nothing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_body_is_the_clients_fault(door: str, kind: str, body: bytes) -> None:
    headers = {"Content-Type": kind.encode("latin1")}
    answer = requests.post(f"{door}/predict", data=body, headers=headers, timeout=30)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == 400
    assert len(answer.json()["message"]) > 20


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_errors_of_the_handler_reach_the_client_in_its_words(door: str, kind: str) -> None:
    answer = requests.post(
        f"{door}/predict",
        data=json.dumps({"data": "é!"}),
        headers={"Content-Type": kind},
        timeout=30,
    )
    assert answer.status_code == 400
    assert "`data` is not base64" in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "//explain", 404), ("POST", "//predictions/catsdogs/9", 404),
        ("POST", "/predictions/catsdogs/9", 404), ("POST", "/%65xplain", 404),
        ("HEAD", "/model/info", 200), ("HEAD", "/ready", 200), ("HEAD", "/", 200),
    ],
)  # fmt: skip
def test_each_spelling_of_a_path_has_one_meaning(
    server: Server, method: str, path: str, status: int
) -> None:
    with connect(server) as client:
        client.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert int(answer.split()[1]) == status
    if method == "HEAD":
        assert answer.endswith(b"\r\n\r\n")


def test_large_cookies_are_the_clients_own_affair(door: str) -> None:
    headers = {"Cookie": "x" * 9 * 1024}
    assert requests.post(f"{door}/predict", data=CAT, headers=headers, timeout=30).ok
    assert requests.get(f"{door}/ready", headers=headers, timeout=30).ok
    identity = {"Content-Encoding": "identity"}
    assert requests.post(f"{door}/predict", data=CAT, headers=identity, timeout=30).ok


@pytest.mark.parametrize(
    "request_",
    [
        b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", b"\x16\x03\x01\x02\x00",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nC: " + b"a" * 40_000 + b"\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=range(10),
)  # fmt: skip
def test_each_malformed_request_is_answered_in_json(server: Server, request_: bytes) -> None:
    with connect(server) as client:
        client.sendall(request_ if request_.endswith(b"\r\n") else request_ + b"\r\n\r\n")
        client.shutdown(socket.SHUT_WR) if b"\x16" in request_ else None
        answer = client.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in head
    assert json.loads(body)["code"] == int(head.split()[1])


def test_only_the_gateway_names_an_upload(server: Server, door: str) -> None:
    """A client's own headers of this kind change no answer."""
    headers = {"X-Upload-File": "/etc/passwd", "X-Upload-Type": "application/json", "X-Error": "{}"}
    answer = requests.post(f"{door}/predict", data=CAT, headers=headers, timeout=30)
    assert answer.json()["label"] in CLASSES
    assert not [name for name in answer.headers if name.startswith("X-Upload")]
    wait_until(lambda: not uploads(server))  # the answer comes first


def test_what_lies_in_the_upload_folder_is_for_its_owner_alone(slow_server: Server) -> None:
    door = f"{slow_server.address('gateway')}/predict"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(requests.post, door, data=CAT, timeout=60)
        wait_until(lambda: uploads(slow_server))
        (upload,) = uploads(slow_server)
        assert upload.stat().st_mode & 0o777 == 0o600
        assert upload.parent.stat().st_mode & 0o777 == 0o700
        assert answer.result().status_code == 200
    assert psutil.Process().uids().real == upload.parent.stat().st_uid
    wait_until(lambda: not uploads(slow_server))
