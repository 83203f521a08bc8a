"""tools/rollout on a real server under load: the wrong ones never become the default."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import requests
import torch
from PIL import Image

from testing.corrupt import HANDLER, corrupt
from testing.load import CAT, Load
from testing.repository import REPOSITORY, VERSION
from testing.servers import Server, wait_until
from training.archive import archive

PROGRAM = REPOSITORY / "tools/rollout"
SLEEPY = b"""
_handle = CatsDogsHandler.handle
def _slowly(self, data, context):
    import time
    time.sleep(2)
    return _handle(self, data, context)
CatsDogsHandler.handle = _slowly
"""


def labelled(folder: Path) -> Path:
    """A cat in three files and a dog, which the released weights tell apart."""
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
    pictures = REPOSITORY / "tests/pictures"
    for name in ("cat.jpg", "cat.heic"):
        shutil.copy(pictures / name, folder / "cat")
    mirrored = Image.open(pictures / "cat.jpg").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(folder / "cat/mirrored.png")
    shutil.copy(pictures / "dog.jpg", folder / "dog")
    return folder


def with_checksum(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    Path(f"{path}.sha256").write_text(f"{digest}  {path.name}\n")


def worse(store: Path, folder: Path) -> str:
    """Calls cats dogs, and dogs cats."""
    weights = REPOSITORY / "models/catsdogs.pt"
    state = torch.load(weights, weights_only=True)
    for name in ("fc3.weight", "fc3.bias"):
        state[name] = state[name].flip(0)
    torch.save(state, folder / "catsdogs.pt")
    card = json.loads(weights.with_suffix(".json").read_text())
    card["sha256"] = hashlib.sha256((folder / "catsdogs.pt").read_bytes()).hexdigest()
    (folder / "catsdogs.json").write_text(json.dumps(card))
    archive(folder / "catsdogs.pt", "3.1", store / "catsdogs-3.1.mar")
    return "catsdogs-3.1.mar"


def slow(store: Path) -> str:
    path = store / "catsdogs-3.2.mar"
    archive(REPOSITORY / "models/catsdogs.pt", "3.2", path)
    with zipfile.ZipFile(path) as source:
        files = {name: source.read(name) for name in source.namelist() if name[-1] != "/"}
    files[HANDLER] += SLEEPY
    with zipfile.ZipFile(path, "w") as target:
        for name, content in files.items():
            target.writestr(name, content)
    with_checksum(path)
    return path.name


def wrong_ones(store: Path, folder: Path) -> dict[str, str]:
    """Archives that must not become the default, with the reason that is printed."""
    sick = store / "catsdogs-3.3.mar"
    corrupt(store / "catsdogs.mar", "weights that are not numbers", "3.3", sick)
    with_checksum(sick)
    return {
        worse(store, folder): "its accuracy is only 0.0%",
        slow(store): "times as long, more than 1.5",
        sick.name: "its workers die while they load it",
    }


def roll_out(
    server: Server, name: str, photos: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    path = f"model_store/{name}"
    return server.run(sys.executable, PROGRAM, path, photos, "--watch", "5", *options)


@pytest.mark.slow
def test_no_request_is_lost_and_the_wrong_ones_never_become_the_default(
    own_server: Server, tmp_path: Path
) -> None:
    photos = labelled(tmp_path / "photos")
    wrong = wrong_ones(own_server.folder / "model_store", tmp_path)
    own_server.start()

    with Load(own_server, clients=4) as load:
        load.wait_for(20)
        for name, message in wrong.items():
            result = roll_out(own_server, name, photos)
            assert result.returncode == 1, result
            assert message in result.stdout
            assert f"{VERSION} stays" in result.stdout
            assert list(own_server.management.versions()) == [VERSION]

        # Four photos say little about speed on a busy machine.
        options = ("--canary", "20", "--max-slowdown", "10")
        done = roll_out(own_server, "catsdogs-3.0.mar", photos, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3.0 gets 20 % of the requests" in done.stdout
        assert "3.0 serves\n" in done.stdout
        assert list(own_server.management.versions()) == ["3.0"]
        assert own_server.management.default() == "3.0"
        load.wait_for(load.good() + 20)
    assert load.failed() == []

    # `make serve` finds that it runs.
    launcher = own_server.launcher().pid
    detached = own_server.serve("--detach")
    assert detached.returncode == 0
    assert "catsdogs 3.0 is served by" in detached.stdout
    assert own_server.launcher().pid == launcher
    # The next start serves it, too.
    assert own_server.serve("--stop").returncode == 0
    own_server.start()
    assert list(own_server.management.versions()) == ["3.0"]


@pytest.mark.slow
def test_ended_while_the_canary_has_its_share_it_goes_back(server: Server, tmp_path: Path) -> None:
    command = [
        sys.executable, PROGRAM, "model_store/catsdogs-3.0.mar", labelled(tmp_path / "photos"),
        "--canary", "50", "--max-slowdown", "100",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=server.folder, env=server.environment, stdout=subprocess.PIPE, text=True
    ) as rollout:
        rolling = server.folder / "logs/rollout.json"
        wait_until(lambda: rollout.poll() is not None or rolling.exists(), 120)
        wait_until(lambda: answers_by(server, "3.0"), 30)
        rollout.terminate()
        output, _ = rollout.communicate(timeout=60)
    assert rollout.returncode == 1, output
    assert "stopped" in output
    assert f"{VERSION} stays\n" in output
    assert list(server.management.versions()) == [VERSION]
    assert server.management.default() == VERSION
    assert not rolling.exists()
    assert all(not answers_by(server, "3.0") for _ in range(20))


def answers_by(server: Server, version: str) -> bool:
    """Whether that one answers a request which names none."""
    answer = requests.put(server.predictions, data=CAT, timeout=30)
    assert answer.status_code == 200
    return bool(answer.json()["model_version"] == version)


def test_what_can_not_be_begun_is_told_in_a_line(own_server: Server, tmp_path: Path) -> None:
    photos = labelled(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    store = own_server.folder / "model_store"
    shutil.copy(store / "catsdogs-3.0.mar", tmp_path)
    corrupt(store / "catsdogs.mar", "half an archive", "3.4", store / "catsdogs-3.4.mar")
    with_checksum(store / "catsdogs-3.4.mar")
    for arguments, message in (
        (["model_store/none.mar", photos], "none.mar is missing"),
        ([tmp_path / "catsdogs-3.0.mar", photos], "is not in model_store"),
        (["model_store/catsdogs-3.4.mar", photos], "is not an archive"),
        (["model_store/catsdogs-3.0.mar", tmp_path / "empty"], "no photos"),
        (["model_store/catsdogs-3.0.mar", photos], "Connection refused"),
    ):
        done = own_server.run(sys.executable, PROGRAM, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
