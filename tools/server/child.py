"""A server as a child process of tools/serve: starting, stopping, and the errors in its logs."""

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
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TextIO

import psutil

from tools.server.locks import Held, hold
from tools.server.ports import Listener
from tools.server.settings import LOG, NotServed, logs_to_stdout

LAST_LINES = 4  # of each log
# Stack frames, and lines that a successful start writes as well.
NOISE = re.compile(
    r"\s|$|Traceback |During handling |WARNING: |nvidia-smi |Model server started"
    r"|Invalid model config in mar, minWorkers:0"
)


class Child:
    """A server that this process starts, watches and stops."""

    name: str
    option: str  # its name for --only
    logs: tuple[str, ...]  # where its errors are; each start empties the first

    def __init__(self, only: str | None) -> None:
        self.alone = only == self.option  # the other server runs in another container
        self.process: subprocess.Popen[bytes] | None = None
        self.lock: TextIO | None = None
        self.began: dict[str, int] = {}  # size of each log file at the start

    @classmethod
    def lock_file(cls) -> Path:
        return LOG / f"{cls.option}.lock"

    @classmethod
    def note(cls) -> Path:
        """It names the temporary folder of the last start."""
        return LOG / f"{cls.option}.tmp"

    def claim(self) -> None:
        """Lock this folder for the life of this process, before anything is started or logged.

        Raises NotServed if another process runs this server from this folder.
        """
        try:
            LOG.mkdir(parents=True, exist_ok=True)
            self.lock = hold(self.lock_file())
        except Held as error:
            raise NotServed(
                f"process {error} already serves from this folder; stop it first (make stop)"
            ) from None
        except OSError as error:
            raise unwritable(error) from error

    def listeners(self) -> list[Listener]:
        """Raises NotServed for an invalid port."""
        raise NotImplementedError

    def start(self) -> None:
        """Raises NotServed if it can't be started."""
        raise NotImplementedError

    def wait_until_ready(self, deadline: float) -> None:
        """Raises NotServed if it ends first, or at `deadline` (time.monotonic)."""
        raise NotImplementedError

    def addresses(self) -> dict[str, str]:
        """What tools/serve prints: addresses by name."""
        raise NotImplementedError

    def loaded(self) -> list[dict[str, Any]]:
        """Descriptions of the loaded versions of the model."""
        return []

    def trouble(self) -> str:
        """A condition that only a restart cures, or ""."""
        return ""

    def tend(self) -> None:
        """Regular work; called once a second."""

    def reload(self) -> None:
        """Apply changed settings."""

    def run(self, command: list[str | Path], environment: dict[str, str]) -> None:
        """Raises NotServed if the program is not installed or its log can't be written."""
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
        folder: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `command` in `folder`, in its own session so that Ctrl-C reaches only this process.

        Raises NotServed if the program is not installed.
        """
        try:
            return subprocess.Popen(
                command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, cwd=folder, start_new_session=True, preexec_fn=self.before_exec,
            )  # fmt: skip
        except OSError as error:
            raise NotServed(
                f"can't start {self.name}: {error.filename or command[0]}: {error.strerror}"
            ) from error

    def before_exec(self) -> None:
        """Make the child end when this process is killed. Runs in the child, before exec."""
        if sys.platform == "linux":
            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def how_it_ended(self) -> str:
        assert self.process
        return how_it_ended(self.process)

    def last_lines(self) -> list[str]:
        """The last lines of its logs since the start, without duplicates and NOISE."""
        words: dict[str, None] = {}
        for name, began in self.began.items():
            lines = map(message, since(LOG / name, began))
            once = dict.fromkeys(line for line in reversed(list(lines)) if not NOISE.match(line))
            words |= dict.fromkeys(reversed(list(once)[:LAST_LINES]))
        return list(words)

    def stop(self, seconds: float = 30) -> None:
        """Send SIGTERM; after `seconds`, SIGKILL to whatever is left of it and its children."""
        if self.process:
            end_session(self.process, seconds)


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    """Its exit status, or the signal that killed it."""
    code = process.poll()
    if code is None or code >= 0:
        return f"exit status {code}"
    killer = ", as Linux does if memory is short" if code == -signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{killer}"


def end_session(process: subprocess.Popen[bytes], seconds: float) -> None:
    """End `process` as `end` does, then the rest of its session, which may have outlived it."""
    if process.poll() is None:
        end(process, seconds)
    left = [other for other in psutil.process_iter() if session(other) == process.pid]
    for other in left:
        with suppress(psutil.Error):  # it has just ended
            other.terminate()
    _, alive = psutil.wait_procs(left, timeout=5)
    for other in alive:
        with suppress(psutil.Error):
            other.kill()


def session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:  # it has ended, or is another user's
        return None


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Send SIGTERM, and SIGKILL after `seconds`. Don't wait for a process stuck in the kernel."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)


def is_good(url: str) -> bool:
    try:
        with get(url):
            return True
    except (OSError, http.client.HTTPException):
        return False


def get(url: str) -> Any:
    """Ask a server on this machine, ignoring the proxies of the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(url, timeout=5)


def unwritable(error: OSError) -> NotServed:
    """For an error in the log folder."""
    return NotServed(
        f"{error.filename or LOG}: {error.strerror}; set LOG_LOCATION to another folder"
    )


def last_lines(servers: list[Child]) -> str:
    """The logs' explanation of why a server ended or is in trouble, or ""."""
    culprits = [server for server in servers if server.ended()] or servers
    lines = [line for server in culprits for line in server.last_lines()]
    return f"; the last lines in {LOG}:\n" + "\n".join(lines) if lines else ""


def message(line: str) -> str:
    """A log line without the prefix of log4j2.xml or the JSON of tools/server/nginx.py."""
    if line.startswith('{"time"'):
        with suppress(ValueError):  # cut off by a full disk
            return str(json.loads(line)["message"])
    return re.sub(r"^\S+ [A-Z]+ +\S+ - ", "", line)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def since(path: Path, began: int) -> list[str]:
    """The lines after `began` bytes; all lines if the log has been truncated since."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    return data[began if began <= len(data) else 0 :].decode(errors="replace").splitlines()
