"""The rows of tools/classify, whatever the photos are called and wherever a row is cut off."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import REPOSITORY

PATH = REPOSITORY / "tools/classify"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    sys.path.insert(0, str(PATH.parent))
    loader = SourceFileLoader("classify", str(PATH))
    spec = importlib.util.spec_from_loader("classify", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.path.remove(str(PATH.parent))
    return module


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
        "hidden": 2, "no photo by name or contents": 3,
    }  # fmt: skip
    line = program.counted(left_out)
    assert "2 hidden (" in line
    assert f"; 3 no photo by name or contents ({tmp_path}/h/film.mov, ...)" in line
    hidden = tmp_path / "h/.thumbnails"
    assert program.find_photos([hidden], left_out.get) == [hidden / "i.jpg"]  # it was named
