"""A function in a child process, with bounds on what it may take."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

# Exit codes of a child that its own code ended.
CRASHES = [
    -number
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
]


def run_apart(function: Callable[[], bytes], megabytes: int, seconds: int) -> tuple[bytes, int]:
    """What `function` returns in a forked child, and the child's exit code (minus a signal).

    The child may allocate `megabytes` (on Linux) and take `seconds` of processor time, after which
    the system ends it; then, and when it crashes, there is no answer: b"". Its standard error is
    closed. Raises OSError when there is no process or memory for it.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as received:
        with open(writer, "wb") as sent:
            child = os.fork()
            if child == 0:
                _run_and_exit(function, megabytes, seconds, sent)
        answer = received.read()
    return answer, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run_and_exit(
    function: Callable[[], bytes], megabytes: int, seconds: int, sent: BinaryIO
) -> NoReturn:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print what they think of a file
        faulthandler.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(4 * seconds)  # of the clock, should it wait for ever
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[5])  # of data, as it is now
            limit = pages * resource.getpagesize() + megabytes * 2**20
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        sent.write(function())
        sent.flush()
    finally:
        os._exit(0)
