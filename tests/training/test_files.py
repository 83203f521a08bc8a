from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.files import UsageError, save_torch


def test_who_writes_a_table_or_a_json_file_does_not_wait_for_torch() -> None:
    program = "import sys, training.markdown; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_a_disk_without_room_is_told_in_a_line_and_the_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_torch(tmp_path / "state.pt", {"a": torch.ones(3)})
    before = (tmp_path / "state.pt").read_bytes()

    def full(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UsageError, match=r"state\.pt: can't be written: .*; make room on its disk"):
        save_torch(tmp_path / "state.pt", {})
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("state.pt", before)]
