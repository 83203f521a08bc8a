"""A server as a child process of tools/serve, and what its logs and addresses tell."""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

import psutil
from files import Held, hold
from settings import LOG, NotServed, logs_to_stdout


class Child:
    """A server that this process started and understands."""

    name: str
    option: str  # of --only

    def __init__(self, only: str | None) -> None:
        self.alone = only == self.option  # the other one runs in a container beside this
        self.process: subprocess.Popen[bytes] | None = None
        self.lock: TextIO | None = None

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

    def run(self, command: list[str | Path], log: str, environment: dict[str, str]) -> None:
        """In a session of its own, so that Ctrl-C reaches this process alone.

        Raises NotServed where the program is not installed, or its log can't be written.
        """
        try:
            with nullcontext() if logs_to_stdout() else (LOG / log).open("w") as output:
                self.process = subprocess.Popen(
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


def last_words() -> str:
    """The ends of the logs that tell why a start failed, where they are files."""
    names = ("torchserve.log", "server.log", "model.log", "gateway-errors.log")
    files = [LOG / name for name in names if (LOG / name).is_file()]
    lines = [line for file in files for line in file.read_text().splitlines()[-8:]]
    return f"; last words in {LOG}:\n" + "\n".join(lines) if lines else ""
