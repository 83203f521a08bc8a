"""A server as a child process of tools/serve, and what its logs and addresses tell."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

import psutil
from files import Held, hold
from ports import Listener
from settings import LOG, NotServed, logs_to_stdout

MOST_WORDS = 4  # lines of a log
# Stacks but for their errors, and what a good start says as well.
NOISE = re.compile(
    r"\s|$|Traceback |During handling |WARNING: |nvidia-smi |Model server started"
    r"|Invalid model config in mar, minWorkers:0"
)


class Child:
    """A server that this process started and understands."""

    name: str
    option: str  # of --only
    logs: tuple[str, ...]  # that tell why it ended; each start empties the first

    def __init__(self, only: str | None) -> None:
        self.alone = only == self.option  # the other one runs in a container beside this
        self.process: subprocess.Popen[bytes] | None = None
        self.lock: TextIO | None = None
        self.began: dict[str, int] = {}  # where logs, as far as they are files, were at its start

    @classmethod
    def lock_file(cls) -> Path:
        return LOG / f"{cls.option}.lock"

    def claim(self) -> None:
        """For this process's life, before anything is started or logged.

        Raises NotServed where another process runs one from this folder.
        """
        try:
            LOG.mkdir(parents=True, exist_ok=True)
            self.lock = hold(self.lock_file())
        except Held as error:
            raise NotServed(f"catsdogs is served here already, by process {error}") from None
        except OSError as error:
            raise unwritable(error) from error

    def listeners(self) -> list[Listener]:
        """Raises NotServed for what is no port."""
        raise NotImplementedError

    def start(self) -> None:
        """Raises NotServed when that can't be."""
        raise NotImplementedError

    def wait_until_ready(self, deadline: float) -> None:
        """Raises NotServed when it ends before, or when `deadline` (of time.monotonic) passes."""
        raise NotImplementedError

    def addresses(self) -> dict[str, str]:
        """For people, by name."""
        raise NotImplementedError

    def loaded(self) -> list[dict[str, Any]]:
        """Versions of the model that it runs."""
        return []

    def trouble(self) -> str:
        """What only a new start helps against, or ""."""
        return ""

    def tend(self) -> None:
        """What it needs once a second."""

    def reload(self) -> None:
        """Take up what has changed of its settings."""

    def run(self, command: list[str | Path], environment: dict[str, str]) -> None:
        """Raises NotServed where the program is not installed, or its log can't be written."""
        try:
            with nullcontext() if logs_to_stdout() else (LOG / self.logs[0]).open("w") as output:
                if output:
                    self.began = {name: size(LOG / name) for name in self.logs}
                self.process = self.spawn(command, environment, output)
        except OSError as error:
            raise unwritable(error) from error

    def spawn(
        self,
        command: list[str | Path],
        environment: dict[str, str],
        output: TextIO | int | None,
    ) -> subprocess.Popen[bytes]:
        """In a session of its own, so that Ctrl-C reaches this process alone.

        Raises NotServed where the program is not installed.
        """
        try:
            return subprocess.Popen(
                command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True, preexec_fn=self.before_exec,
            )  # fmt: skip
        except OSError as error:
            raise NotServed(
                f"{self.name} can't be started: {error.filename or command[0]}: {error.strerror}"
            ) from error

    def before_exec(self) -> None:
        """Runs in the child before its program: it ends when this process is killed."""
        if sys.platform == "linux":
            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def last_words(self) -> list[str]:
        """The ends of its logs since its start, each line once and without what is always there."""
        words: dict[str, None] = {}
        for name, began in self.began.items():
            lines = map(message, since(LOG / name, began))
            once = dict.fromkeys(line for line in reversed(list(lines)) if not NOISE.match(line))
            words |= dict.fromkeys(reversed(list(once)[:MOST_WORDS]))
        return list(words)

    def stop(self, seconds: float = 30) -> None:
        """SIGTERM, and SIGKILL for what is left of it and its children after `seconds`."""
        if self.process is None or self.ended():
            return
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _, alive = psutil.wait_procs(family, timeout=5)
        for process in alive:
            process.kill()


def is_good(url: str) -> bool:
    try:
        with get(url):
            return True
    except (OSError, http.client.HTTPException):
        return False


def get(url: str) -> Any:
    """The answer of a server on this machine, never through a proxy of the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(url, timeout=5)


def unwritable(error: OSError) -> NotServed:
    """Of the folder of the logs."""
    return NotServed(
        f"{error.filename or LOG}: {error.strerror}; LOG_LOCATION names another folder"
    )


def last_words(servers: list[Child]) -> str:
    """What the logs tell about why one has ended or is in trouble."""
    culprits = [server for server in servers if server.ended()] or servers
    lines = [line for server in culprits for line in server.last_words()]
    return f"; last words in {LOG}:\n" + "\n".join(lines) if lines else ""


def message(line: str) -> str:
    """Without what log4j2.xml puts before it, or tools/nginx.py around it."""
    if line.startswith('{"time"'):
        return str(json.loads(line)["message"])
    return re.sub(r"^\S+ [A-Z]+ +\S+ - ", "", line)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def since(path: Path, began: int) -> list[str]:
    """The lines after `began` bytes; all where the log has been started anew."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    return data[began if began <= len(data) else 0 :].decode(errors="replace").splitlines()
