"""Run a function in a child process with limits on memory and time."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

# Exit codes of a child that crashed.
CRASHES = [
    -number
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
]

KEPT_WAITING = -signal.SIGALRM  # exit code of a child that took too long without using its CPU time


def run_sandboxed(function: Callable[[], bytes], megabytes: int, seconds: int) -> tuple[bytes, int]:
    """The result of `function` in a forked child, and the child's exit code (minus a signal).

    The child may allocate `megabytes` (on Linux) and use `seconds` of CPU time; then the kernel
    ends it. If it is ended or crashes, the result is b"". Its standard error is discarded. Raises
    OSError if no process or memory is available.
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print warnings
        faulthandler.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(4 * seconds)  # wall-clock time, in case it waits forever
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[5])  # current size of data
            limit = pages * resource.getpagesize() + megabytes * 2**20
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        sent.write(function())
        sent.flush()
    finally:
        os._exit(0)
