from __future__ import annotations

import base64
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.photo import InvalidPhotoException
from handler.request import photo_bytes


@given(st.binary(max_size=100))
def test_base64_is_taken_in_both_alphabets_with_or_without_padding_and_as_a_uri(
    photo: bytes,
) -> None:
    plain, url_safe = base64.b64encode(photo), base64.urlsafe_b64encode(photo)
    for encoded in (plain.decode(), url_safe.decode()):
        for text in (
            encoded,
            encoded.rstrip("="),
            f"data:image/jpeg;base64,{encoded}",
            f"DATA:;BASE64,{encoded}\n",
            f"data:image/png;name=a.png;base64,{quote(encoded, safe='')}",
            f"data:;base64,{re.sub('%..', lambda code: code[0].lower(), quote(encoded, safe=''))}",
            f"data:;base64,{quote(base64.encodebytes(photo).decode())}",
            f" \t\v\f\r\n{encoded}",
        ):
            assert photo_bytes({"data": text}) == photo


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:image/jpeg,abcd", r"a URI without base64; send data:;base64,\.\.\."),
        ("data:image/jpeg;base64", "a URI without base64"),
        ("data:image/jpeg;base46,abcd", "a URI without base64"),
        ("data:image/jpeg;base64,***", "not base64"),
        ("https://example.org/cat.jpg", "not base64"),
        ("abcde", "not base64"),
        ("ab=cd", "not base64"),
        ("é", "not base64: it is not ASCII"),
        ("\ud800", "not base64: it is not ASCII"),
    ],
)
def test_other_text_is_distinguished_from_base64(text: str, message: str) -> None:
    with pytest.raises(InvalidPhotoException, match=message):
        photo_bytes({"data": text})
