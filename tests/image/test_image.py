"""The image on a real Docker engine."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from tests.conftest import CLASSES, REPOSITORY
from tests.e2e.load import CAT, REFUSED, Load
from tests.e2e.servers import wait_until
from tests.image.conftest import HARDENED, SECONDS_TO_START, Container, docker
from training.archive import archive

Start = Callable[..., Container]


def test_with_all_rights_dropped_it_classifies_and_logs_json(start: Start) -> None:
    container = start(*HARDENED, "--memory", "3g", "--cpus", "2")
    wait_until(lambda: container.state()["Health"]["Status"] == "healthy", SECONDS_TO_START)
    answer = requests.post(f"{container.address()}/predict", data=CAT, timeout=30)
    assert answer.json()["label"] in CLASSES
    assert container.run("id", "-u").strip() == "10001"
    assert "CapEff:\t0000000000000000" in container.run("cat", "/proc/1/status")
    registered = "import urllib.request as u; u.urlopen(u.Request(%r, method='POST'))"
    url = "http://127.0.0.1:8081/models?url=catsdogs.mar"
    with pytest.raises(AssertionError, match="405"):
        container.run("python", "-c", registered % url)
    lines = container.logs().splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert any(line.get("label") in CLASSES for line in told)  # of the photo
    assert any(line.get("request", {}).get("uri") == "/predict" for line in told)
    others = [line for line in lines if not line.startswith("{")]
    assert len(others) < 40, others


def test_nothing_is_written_but_in_tmp(start: Start) -> None:
    container = start()
    wait_until(container.ready, SECONDS_TO_START)
    assert requests.post(f"{container.address()}/predict", data=CAT, timeout=30).status_code == 200
    changed = [line.split()[1] for line in docker("diff", container.name).splitlines()]
    assert [path for path in changed if not f"{path}/".startswith("/tmp/")] == []
    # Beside /tmp, what everybody may write by Debian's custom; read-only where the root is.
    find = "find / -xdev -writable -not -type l -not -path '/tmp*' 2>/dev/null; true"
    assert set(container.run("sh", "-c", find).split()) <= {"/run/lock", "/var/tmp"}


def test_what_is_there_serves_and_nothing_else(start: Start) -> None:
    container = start("--entrypoint", "sleep", command=("600",))
    assert sorted(container.run("ls", "/app").split()) == [
        "config.properties", "gateway", "handler", "log4j2.xml", "model_store", "tools"
    ]  # fmt: skip
    packages = container.run("ls", "/opt/venv/lib/python3.11/site-packages").lower()
    for name in ("mlflow", "pytest", "dvc", "model_archiver", "nvidia", "triton"):
        assert name not in packages
    for program in ("gcc", "cc", "make", "git"):
        assert container.run("sh", "-c", f"command -v {program} || true") == ""


def test_a_stop_under_load_loses_no_photo(start: Start) -> None:
    container = start(*HARDENED, "--memory", "3g", "--cpus", "2")
    wait_until(container.ready, SECONDS_TO_START)
    with Load(container, clients=8) as load:  # type: ignore[arg-type]
        load.wait_for(100)
        docker("stop", "--time", "60", container.name)
    state = container.state()
    assert state["ExitCode"] == 0
    assert load.good() >= 100
    lost = [a for a in load.failed() if a.status or a.error not in GONE]
    assert lost == []


def without_weights(archive: Path) -> None:
    """TorchServe's own archiver would make one, too."""
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(f"{archive}.part", "w") as part:
        for name in whole.namelist():
            if not name.endswith(".pt"):
                part.writestr(name, whole.read(name))
    Path(f"{archive}.part").replace(archive)


# What a client meets that nobody has taken, or, afterwards, an address that nobody has.
GONE = (*REFUSED, "OSError", "TimeoutError")


def test_alone_torchserve_waits_until_the_gateway_has_no_client_left(start: Start) -> None:
    gateway = start(*HARDENED, "--memory", "512m", command=("--only", "gateway"))
    network = f"container:{gateway.name}"
    torchserve = start(
        *HARDENED, "--network", network, "--memory", "3g", command=("--only", "torchserve")
    )
    wait_until(gateway.ready, SECONDS_TO_START)
    with Load(gateway, clients=8) as load:  # type: ignore[arg-type]
        load.wait_for(100)
        docker("kill", "--signal", "TERM", torchserve.name, gateway.name)
        docker("wait", torchserve.name, gateway.name)
    assert torchserve.state()["ExitCode"] == gateway.state()["ExitCode"] == 0
    lost = [a for a in load.failed() if a.status or a.error not in GONE]
    assert lost == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda path: path.write_bytes(b"half an archive"), "is no archive"),
        (lambda path: path.unlink(), "is missing here"),
        (without_weights, "the workers can't load the model"),
    ],
)
def test_a_broken_archive_is_told_and_ends_it(
    start: Start, tmp_path: Path, fault: Callable[[Path], None], message: str
) -> None:
    archive(REPOSITORY / "models/catsdogs.pt", None, tmp_path / "catsdogs.mar")
    (tmp_path / "catsdogs.mar.sha256").unlink()
    fault(tmp_path / "catsdogs.mar")
    tmp_path.chmod(0o755)
    container = start(*HARDENED, "--volume", f"{tmp_path}:/app/model_store:ro")
    assert docker("wait", container.name).strip() == "2"
    (complaint,) = [line for line in container.logs().splitlines() if line.startswith("error: ")]
    assert message in complaint


def largest_photos() -> list[bytes]:
    """What takes most memory to decode: 50 megapixels of progressive JPEG, 16 of WebP and TIFF."""
    noise = np.random.default_rng(0).integers(0, 255, (100, 125, 3), np.uint8)
    photos = []
    for size, kind, options in (
        ((7900, 6300), "JPEG", {"progressive": True, "quality": 30}),
        ((4600, 3400), "WEBP", {"quality": 20}),
        ((4600, 3400), "TIFF", {"compression": "tiff_adobe_deflate"}),
    ):
        file = io.BytesIO()
        Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(file, kind, **options)
        photos.append(file.getvalue())
    assert all(len(photo) < 12 * 2**20 for photo in photos), [len(photo) for photo in photos]
    return photos


def used(container: Container, name: str) -> float:
    """Megabytes, by the container's cgroup of version 2 or 1; with files in /tmp."""
    old = {"memory.current": "usage_in_bytes", "memory.peak": "max_usage_in_bytes"}[name]
    paths = f"/sys/fs/cgroup/{name} /sys/fs/cgroup/memory/memory.{old}"
    return int(container.run("sh", "-c", f"cat {paths} 2>/dev/null; true")) / 1e6


@pytest.mark.parametrize(("cpus", "memory"), [("1", "1g"), ("2", "2g")])
def test_the_largest_photos_do_not_get_it_killed(start: Start, cpus: str, memory: str) -> None:
    container = start(*HARDENED, "--cpus", cpus, "--memory", memory, "--memory-swap", memory)
    wait_until(container.ready, SECONDS_TO_START)
    idle = used(container, "memory.current")
    assert re.search(rf"served by {cpus} workers", container.logs())
    photos = largest_photos() * 4

    def ask(photo: bytes) -> int:
        return requests.post(f"{container.address()}/predict", data=photo, timeout=60).status_code

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(ask, photos))
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    print(
        f"\n{cpus} CPU, {memory}: {idle:.0f} MB idle, {used(container, 'memory.peak'):.0f} at most"
    )
    assert not container.state()["OOMKilled"]
    assert container.ready()
    assert "died" not in container.logs()
