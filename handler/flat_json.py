"""Extract the base64 string from a JSON body without parsing the rest into objects.

12 MB of nested JSON, or with many members, would take gigabytes as objects.
"""

from __future__ import annotations

import json
import re

from handler.photo import InvalidPhotoException
from handler.request import HOW_TO_SEND

MAX_MEMBERS = 16

# All quantifiers are possessive: a body is read once, without backtracking.
_SPACE = rb"[ \t\n\r]*+"
_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*+"'
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+"
_START = re.compile(rb"(?:\xef\xbb\xbf)?+" + _SPACE + rb"\{")  # a byte order mark is ignored
_MEMBER = re.compile(
    _SPACE + rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE
    + rb"(?:(" + _STRING + rb")|" + _NUMBER + rb"|true|false|null)" + _SPACE + rb"([,}])"
)  # fmt: skip
_END = re.compile(_SPACE)
_EMPTY = re.compile(_SPACE + rb"\}" + _SPACE)
_DATA = re.compile(rb'"(?:d|\\u0064)(?:a|\\u0061)(?:t|\\u0074)(?:a|\\u0061)"')


def data_of(body: bytes) -> str:
    """The string `data` of the JSON in `body`.

    Raises InvalidPhotoException for anything but a flat object of at most MAX_MEMBERS strings,
    numbers, true, false and null, with one string `data`.
    """
    found = [member for member in _members(body) if _DATA.fullmatch(body, *member.span(1))]
    if len(found) > 1:
        raise InvalidPhotoException("the JSON has `data` twice; send one photo")
    if not found or found[0].start(2) < 0:
        raise InvalidPhotoException(f"the content is JSON without a `data` string; {HOW_TO_SEND}")
    start, end = found[0].span(2)
    try:
        text = str(memoryview(body)[start:end], "ascii")
    except UnicodeDecodeError:
        raise InvalidPhotoException(
            "`data` is not base64: it is not ASCII; encode the photo"
        ) from None
    unescaped: str = json.loads(text)
    return unescaped


def _members(body: bytes) -> list[re.Match[bytes]]:
    """For each member: groups name (1), value if it is a string (2) and delimiter (3)."""
    members: list[re.Match[bytes]] = []
    start = _START.match(body)
    if start and _EMPTY.fullmatch(body, start.end()):
        return members
    member = start and _MEMBER.match(body, start.end())
    while member and len(members) < MAX_MEMBERS:
        members.append(member)
        if member[3] == b"}":
            if _END.fullmatch(body, member.end()):
                return members
            break
        member = _MEMBER.match(body, member.end())
    raise InvalidPhotoException(
        f"the JSON is not one object of at most {MAX_MEMBERS} members, each a string, a number, "
        f"true, false or null; {HOW_TO_SEND}"
    )
