"""What becomes of nginx's lines."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path

import pytest

from tools.server import nginx


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
    assert line.keys() == {"time", "level", "message"}


@pytest.mark.parametrize("line", ["", "nginx: [emerg] no port", "\udcff", '[error] "', "a\tb"])
def test_any_other_line_becomes_a_message(line: str) -> None:
    (found,) = passed_on(f"{line}\n")
    assert found["level"] == "error"


def test_a_line_of_the_access_log_stays_as_it_is() -> None:
    assert passed_on('{"status": 200}\n') == [{"status": 200}]


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
