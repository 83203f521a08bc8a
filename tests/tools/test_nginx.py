"""What becomes of nginx's lines."""

from __future__ import annotations

import io
import json
import os
import threading

import pytest

from tests.tools.test_sizes import tool


def passed_on(text: str) -> list[dict[str, object]]:
    reading, writing = os.pipe()
    output = io.StringIO()
    thread = threading.Thread(target=tool("nginx").pass_on, args=(reading, output))
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
