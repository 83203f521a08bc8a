"""No program waits for ever: not for a server, nor for a process."""

from __future__ import annotations

import ast
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from testing.repository import REPOSITORY
from tests.chart import helm
from tests.chart.conftest import needs_helm
from tests.tools.test_rollout import CAT, write_archive

TOOLS = REPOSITORY / "tools"
FILES = sorted(
    path
    for path in (*TOOLS.rglob("*"), *(REPOSITORY / "benchmarks").rglob("*.py"))
    if path.is_file() and path.suffix != ".pyc"
)
TIMED = {
    "subprocess.run", "subprocess.check_output", "subprocess.check_call", "subprocess.call",
    "socket.create_connection", "urllib.request.urlopen", "urllib3.PoolManager", "opener.open",
}  # fmt: skip
METHODS = {"get", "post", "put", "delete", "request"}  # of requests and its sessions
WAITS = {"wait", "communicate", "join"}  # of processes and threads
BLOCKS = {"recv", "recvfrom", "accept"}  # on sockets
# Which serve as long as their process lives.
SERVES = {("watcher.py", "self.lines.recv(4096)")}


def without_limit(path: Path) -> Iterator[str]:
    """The calls in a program that may wait for ever, as they stand there."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            has_limit = any(word.arg == "timeout" for word in node.keywords)
            owner, name = ast.unparse(node.func.value), node.func.attr
            asks = owner in ("requests", "session") and name in METHODS
            if (f"{owner}.{name}" in TIMED or asks) and not has_limit:
                yield ast.unparse(node)
            if name in WAITS and not (has_limit or node.args):
                yield ast.unparse(node)
            if name in BLOCKS and (path.name, ast.unparse(node)) not in SERVES:
                yield ast.unparse(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_each_wait_for_a_server_or_a_process_has_a_limit(path: Path) -> None:
    assert list(without_limit(path)) == []


def test_waits_without_a_limit_are_found(tmp_path: Path) -> None:
    waits = [
        "subprocess.run(['x'], check=True)", "process.wait()", "thread.join()", "requests.get(url)",
        "urllib3.PoolManager()", "urllib.request.urlopen(url)", "session.put(url, data=b'')",
        "socket.create_connection(('', 1))", "process.communicate()", "connection.recv(1)",
    ]  # fmt: skip
    limited = ["process.wait(5)", "subprocess.run(['x'], timeout=5)", "', '.join(words)"]
    (tmp_path / "x.py").write_text("\n".join([*waits, *limited]))
    assert list(without_limit(tmp_path / "x.py")) == waits


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        accepted = []

        def accept() -> None:
            with suppress(OSError):  # closed
                while True:
                    accepted.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection in accepted:
            connection.close()


@pytest.mark.slow
def test_a_server_that_accepts_and_never_answers_is_given_up_with_a_message(
    silent: int, tmp_path: Path
) -> None:
    """All at once, since each waits a minute."""
    (tmp_path / "model_store").mkdir()
    manifest = {"model": {"modelName": "catsdogs", "modelVersion": "3.0"}}
    write_archive(tmp_path / "model_store/catsdogs-3.0.mar", manifest)
    (tmp_path / "photos/cat").mkdir(parents=True)
    shutil.copy(CAT, tmp_path / "photos/cat")
    url = f"http://127.0.0.1:{silent}"
    environment = os.environ | {
        "TS_MANAGEMENT_ADDRESS": url, "CATSDOGS_HOST": "127.0.0.1", "CATSDOGS_PORT": str(silent),
        "CATSDOGS_METRICS_PORT": str(silent),
    }  # fmt: skip
    programs = {
        "smoke": (["smoke"], environment, 1, "FAILED  ready: "),
        "smoke for 3 s": (["smoke", "--wait", "3"], environment, 1, "FAILED  ready: "),
        "classify": (["classify", CAT], environment, 2, "doesn't answer"),
        "rollout": (
            ["rollout", "model_store/catsdogs-3.0.mar", "photos"], environment, 2, "timed out"
        ),
        "fetch": (["fetch", f"{url}/x.mar", "0" * 64, tmp_path], environment, 1, "timed out"),
    }  # fmt: skip
    began = time.monotonic()
    running = {
        name: subprocess.Popen(
            [sys.executable, TOOLS / words[0], *words[1:]], cwd=tmp_path, env=env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for name, (words, env, _, _) in programs.items()
    }  # fmt: skip
    try:
        for name, process in running.items():
            output, _ = process.communicate(timeout=max(1, began + 240 - time.monotonic()))
            _, _, code, message = programs[name]
            assert process.returncode == code, (name, output)
            assert message in output, name
            assert "Traceback" not in output, name
    finally:
        for process in running.values():
            process.kill()
            process.wait(10)


@pytest.mark.slow
@needs_helm
def test_a_cluster_that_accepts_and_never_answers_is_given_up_with_a_message(
    silent: int, tmp_path: Path
) -> None:
    named = {"name": "it"}
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [named | {"cluster": {"server": f"http://127.0.0.1:{silent}"}}],
        "users": [named | {"user": {}}],
        "contexts": [named | {"context": {"cluster": "it", "user": "it"}}],
    }  # fmt: skip
    (tmp_path / "config").write_text(json.dumps(config))
    program = helm.path()
    assert program
    path = f"{Path(program).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, TOOLS / "deploy", "pets"], capture_output=True, text=True, check=False,
        env=os.environ | {"KUBECONFIG": str(tmp_path / "config"), "PATH": path}, timeout=240,
    )  # fmt: skip
    assert done.returncode == 1
    assert "timed out after 60 seconds; can the cluster be reached?" in done.stderr
    assert "Traceback" not in done.stderr
