"""The rows of tools/classify, whatever the photos are called and wherever a row is cut off."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testing.repository import REPOSITORY
from tests.tools import program as programs


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return programs.load("classify")


answers = st.booleans().map(
    lambda refused: (
        {"error": 'no "photo",\r\nat all'}
        if refused
        else {"label": "cat", "confidence": 0.9, "certain": True, "model_version": "1.1"}
    )
)
# Of files: bytes that are no UTF-8 come as lone surrogates.
names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0") | st.characters(
        min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]
    ), min_size=1,
)  # fmt: skip


@given(st.dictionaries(names, answers, min_size=1), st.sampled_from(["csv", "json"]), st.data())
def test_of_rows_cut_off_anywhere_the_whole_ones_are_read(
    program: ModuleType, rows: dict[str, dict[str, object]], kind: str, data: st.DataObject
) -> None:
    lines = [program.line({"file": name, **answer}, kind) for name, answer in rows.items()]
    parts = [part.encode(errors="surrogateescape") for part in [program.HEADS[kind], *lines]]
    whole = b"".join(parts)
    cut = data.draw(st.integers(len(parts[0]), len(whole)))
    kept = program.whole_rows(whole[:cut], kind)
    number = sum(len(b"".join(parts[: n + 1])) <= cut for n in range(1, len(parts)))
    assert kept == b"".join(parts[: number + 1])
    assert program.read_rows(kept.decode(errors="surrogateescape"), kind) == {
        name: "error" in rows[name] for name in list(rows)[:number]
    }


def test_of_a_folder_photos_are_taken_by_name_or_contents_and_the_others_counted(
    program: ModuleType, tmp_path: Path
) -> None:
    jpeg = (REPOSITORY / "tests/pictures/cat.jpg").read_bytes()
    heic = (REPOSITORY / "tests/pictures/cat.heic").read_bytes()
    for name, data in {
        "a.jfif": jpeg, "b.JPE": jpeg, "c.mpo": jpeg, "d.apng": b"", "e": jpeg, "f.hif": heic,
        "g.bin": heic, "h/notes.txt": b"text", "h/raw.nef": b"II*\0", "h/.thumbnails/i.jpg": jpeg,
        "h/._i.jpg": jpeg, "h/film.mov": b"\0\0\0\x14ftypqt  ",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    left_out: dict[str, list[str]] = {}
    found = program.find_photos(
        [tmp_path], lambda path, reason: left_out.setdefault(reason, []).append(path)
    )
    assert "".join(path.name[0] for path in found) == "abcdefg"
    assert {reason: len(paths) for reason, paths in left_out.items()} == {
        "hidden": 2, "no photo by name or content": 3,
    }  # fmt: skip
    line = program.counted(left_out)
    assert "2 hidden (" in line
    assert f"; 3 no photo by name or content ({tmp_path}/h/film.mov, ...)" in line
    hidden = tmp_path / "h/.thumbnails"
    assert program.find_photos([hidden], left_out.get) == [hidden / "i.jpg"]  # it was named


@contextmanager
def busy(retry_after: str) -> Iterator[str]:
    """The address of a server that is, and asks to be left alone for so long."""

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(503)
            self.send_header("Retry-After", retry_after)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("retry_after", ["1", "86400", "9" * 5000, "-1", "Fri, 27 Nov 2026", ""])
def test_however_long_a_busy_server_wants_it_to_wait_it_does_so_within_its_patience(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, retry_after: str
) -> None:
    monkeypatch.setattr(program, "PATIENCE", 2)
    waits: list[float] = []
    with busy(retry_after) as url:
        server = program.Server(url, concurrency=1)
        monkeypatch.setattr(server.stopped, "wait", waits.append)
        assert server.ask_until_answered(b"") == (503, {})
    assert waits
    assert all(0 <= seconds <= 2 for seconds in waits)
