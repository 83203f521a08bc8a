"""Run a command that can only write in one folder, without TCP connections (Linux's Landlock).

python tests/workflows/confined.py FOLDER COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

# Of linux/landlock.h and linux/prctl.h; the calls' numbers are the same on each processor.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_FOR_VERSION, PATH_BENEATH, NO_NEW_PRIVILEGES = 1, 1, 38
WRITE_FILE, TRUNCATE = 1 << 1, 1 << 14
# Rights to write files, and to remove, create, link and rename entries of a folder.
WRITE = WRITE_FILE | sum(1 << bit for bit in range(4, 14)) | TRUNCATE
TCP = 1 << 0 | 1 << 1  # to listen, to connect
SIGNALS = 1 << 1  # to unconfined processes; since version 6
DEVICES = ("null", "tty", "ptmx", "pts")


def version() -> int:
    """The version of Landlock; 0 without it. 4, of Linux 6.7, is the first that covers TCP."""
    if sys.platform != "linux":
        return 0
    try:
        return max(0, _call(CREATE_RULESET, None, 0, ASK_FOR_VERSION))
    except OSError:
        return 0


def confine(folder: Path) -> None:
    """Confine this process and its children. Raises OSError if the kernel can't."""
    ruleset = struct.pack("QQQ", WRITE, TCP, SIGNALS)[: 24 if version() >= 6 else 16]
    descriptor = _call(CREATE_RULESET, ruleset, len(ruleset), 0)
    _allow(descriptor, folder, WRITE)
    for device in DEVICES:
        _allow(descriptor, Path("/dev") / device, WRITE_FILE | TRUNCATE)
    if ctypes.CDLL(None).prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError("the kernel refuses PR_SET_NO_NEW_PRIVS")
    _call(RESTRICT_SELF, descriptor, 0)
    os.close(descriptor)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    opened = os.open(path, os.O_PATH)
    _call(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", rights, opened), 0)
    os.close(opened)


def _call(number: int, *arguments: object) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    result: int = library.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
