"""What the command line tells in one line instead of a traceback."""

from __future__ import annotations


class UsageError(Exception):
    """Something the user gave is wrong; the message names it and the remedy."""


def one_line(error: Exception) -> str:
    """The error's message on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
