"""How many workers are started under a container's limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.server import sizes, torchserve

CORES = len(os.sched_getaffinity(0))


def limit(monkeypatch: pytest.MonkeyPatch, folder: Path, **files: str) -> None:
    """Let these be the files of the cgroup; __ stands for / in their names."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_max", ".max")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text}\n")
    monkeypatch.setattr(sizes, "CGROUPS", folder)


def test_without_a_limit_the_configuration_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit(monkeypatch, tmp_path, memory_max="max")
    assert sizes.workers_that_fit(1) is None


def test_without_a_quota_all_cores_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit(monkeypatch, tmp_path, cpu_max="max 100000")
    assert sizes.cores() == CORES


@given(st.integers(1, 16_000), st.integers(1, 2), st.integers(5, 1600))
def test_workers_that_are_started_fit(
    tmp_path_factory: pytest.TempPathFactory, megabytes: int, versions: int, hundredths: int
) -> None:  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("cgroup")
        bytes_, quota = str(megabytes * 10**6), f"{hundredths * 1000} 100000"
        limit(monkeypatch, folder, memory_max=bytes_, cpu_max=quota)
        if megabytes < sizes.LEAST + (versions - 1) * sizes.WORKER:
            with pytest.raises(sizes.NotServed, match="MB of memory are too little"):
                sizes.workers_that_fit(versions)
            return
        workers = sizes.workers_that_fit(versions)
    assert 1 <= workers <= min(CORES, max(1, -(-hundredths // 100)))
    needed = sizes.OTHERS + versions * workers * sizes.WORKER
    assert needed <= megabytes or workers == 1


def test_cgroups_of_the_first_version_count_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {
        "memory__memory.limit_in_bytes": str(4 * 2**30),
        "cpu__cpu.cfs_quota_us": "50000", "cpu__cpu.cfs_period_us": "100000",
    }  # fmt: skip
    limit(monkeypatch, tmp_path, **files)
    assert sizes.workers_that_fit(1) == 1


def test_torchserves_heap_holds_paths_alone_where_memory_is_limited(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for memory, expected in ("max", []), (str(2**30), ["-Xmx96m", "-XX:MaxDirectMemorySize=64m"]):
        limit(monkeypatch, tmp_path, memory_max=memory)
        assert torchserve.heap() == expected
