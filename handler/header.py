"""Parse headers such as Content-Type and Content-Disposition."""

from __future__ import annotations

import re

_SPACE = r"[ \t]*+"


def _parameter(quoted: str) -> re.Pattern[str]:
    """A parameter with its semicolon: name (1), value in quotes (2) or without (3)."""
    value = rf'(?:"({quoted})"|(?!")([^;]*+))'
    return re.compile(rf'{_SPACE};{_SPACE}([^=;"]*+)(?:={_SPACE}{value})?+{_SPACE}')


# In quotes, browsers and curl since 7.81 don't escape a backslash, and write a quote as %22. RFC
# 9110 escapes both with a backslash. A value parsed the wrong way rarely ends at a semicolon.
_AS_BROWSERS = _parameter(r'[^"]*+')
_AS_THE_RFC = _parameter(r'(?:[^"\\]|\\.)*+')
_ESCAPED = re.compile(r"\\(.)")


def kind_of(header: str) -> str:
    """The value before the parameters, in lower case."""
    return header.partition(";")[0].strip(" \t").lower()


def parameters_of(header: str) -> dict[str, str]:
    """The parameters by lower-case name; of duplicates, the first.

    Raises ValueError for a quote that is not closed or not followed by a semicolon.
    """
    start = len(header.partition(";")[0])
    for parameter in (_AS_BROWSERS, _AS_THE_RFC):
        found: dict[str, str] = {}
        end = start
        while match := parameter.match(header, end):
            end = match.end()
            name, quoted, bare = match.groups()
            if quoted and parameter is _AS_THE_RFC:
                quoted = _ESCAPED.sub(r"\1", quoted)
            value = (bare or "").rstrip(" \t") if quoted is None else quoted
            found.setdefault(name.strip(" \t").lower(), value)
        if end == len(header):
            return found
    raise ValueError("a misplaced quote")
