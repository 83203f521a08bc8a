from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.flat_json import MAX_MEMBERS, data_of
from handler.photo import InvalidPhotoException
from handler.request import HOW_TO_SEND, photo_bytes
from handler.upload_folder import MAX_UPLOAD_BYTES
from tests.handler.memory import memory

NOT_FLAT = (
    "the JSON is not one object of at most 16 members, each a string, a number, true, false or "
    f"null; {HOW_TO_SEND}"
)


def refused(body: bytes) -> str:
    with pytest.raises(InvalidPhotoException) as error:
        data_of(body)
    return str(error.value)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALAR = TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
SCALARS = SCALAR | st.none()
INDENT = st.sampled_from([None, 0, 2, "\t"])


@given(
    st.text(st.characters(max_codepoint=127)),
    st.dictionaries(TEXT.filter(lambda name: name != "data"), SCALARS, max_size=MAX_MEMBERS - 1),
    INDENT,
    st.booleans(),
    st.data(),
)
def test_data_is_found_among_up_to_15_other_members(
    text: str, others: dict[str, Any], indent: int | str | None, ascii_: bool, data: st.DataObject
) -> None:
    members = data.draw(st.permutations([*others.items(), ("data", text)]))
    written = json.dumps(dict(members), indent=indent, ensure_ascii=ascii_)
    start = data.draw(st.sampled_from(["", "\ufeff", " \r\n\t", "\ufeff\n"]))
    end = data.draw(st.sampled_from(["", "\n", " \r\n\t"]))
    assert data_of(f"{start}{written}{end}".encode()) == text


@given(st.binary(max_size=100))
def test_a_photo_in_json_is_the_photo(photo: bytes) -> None:
    encoded = base64.b64encode(photo).decode()
    for text in (
        json.dumps({"data": encoded}),
        json.dumps({"data": encoded}).replace("/", r"\/"),  # as PHP writes it
        json.dumps({"data": base64.encodebytes(photo).decode()}),
        f'{{"\\u0064\\u0061\\u0074\\u0061": "{encoded}"}}',
    ):
        assert photo_bytes({"data": data_of(text.encode())}) == photo


VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20
)


@given(st.dictionaries(TEXT | st.just("data"), VALUES, max_size=20) | VALUES)
def test_what_is_not_flat_or_has_no_data_is_refused(value: object) -> None:
    body = json.dumps(value).encode()
    flat = isinstance(value, dict) and not any(
        isinstance(one, (list, dict)) for one in value.values()
    )
    if not flat or len(value) > MAX_MEMBERS:  # type: ignore[arg-type]
        assert refused(body) == NOT_FLAT
        return
    assert isinstance(value, dict)
    if not isinstance(value.get("data"), str):
        assert refused(body) == f"the content is JSON without a `data` string; {HOW_TO_SEND}"
    elif value["data"].isascii():
        assert data_of(body) == value["data"]


@given(
    st.lists(
        st.sampled_from(
            ["{", "}", "[", "]", '"', ":", ",", "\\", "\\u00", "41", "-", "0", "1", ".", "e", " "]
            + ["data", '"data"', '"a"', '"data":"QQ=="', "true", "null", "NaN", "\n", "\x01", "é"]
        ),
        max_size=12,
    ).map("".join)
)
def test_the_grammar_is_that_of_json(text: str) -> None:
    """It accepts exactly the flat JSON that Python's parser accepts."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        value = json.loads(text, parse_constant=refuse, object_pairs_hook=list)
    except ValueError:
        value = None
    is_object = isinstance(value, list) and text.strip().startswith("{")
    if not is_object or any(isinstance(one, list) for _, one in value):
        assert refused(text.encode()) == NOT_FLAT
        return
    found = [one for name, one in value if name == "data"]
    if len(found) == 1 and isinstance(found[0], str) and found[0].isascii():
        assert data_of(text.encode()) == found[0]
    else:
        assert refused(text.encode()) != NOT_FLAT


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", NOT_FLAT),
        (b"\xff\xd8\xff", NOT_FLAT),
        (b'"data"', NOT_FLAT),
        (b'[{"data": "QQ=="}]', NOT_FLAT),
        (b'{"data": "QQ=="', NOT_FLAT),
        (b'{"data": "QQ=="} {}', NOT_FLAT),
        (b'{"data": "QQ==",}', NOT_FLAT),
        (b'{"data": "QQ==" "a": 1}', NOT_FLAT),
        (b"{'data': 'QQ=='}", NOT_FLAT),
        (b'{"data": "Q\nQ=="}', NOT_FLAT),
        (b'{"data": "QQ==", "a": 01}', NOT_FLAT),
        (b'{"data": "QQ==", "a": NaN}', NOT_FLAT),
        (b'{"data": "QQ==", "a": []}', NOT_FLAT),
        (b'{"data": {"data": "QQ=="}}', NOT_FLAT),
        ('{"data": "QQ=="}'.encode("utf-16"), NOT_FLAT),
        (b"{}", "the content is JSON without a `data` string"),
        (b"\xef\xbb\xbf { } ", "the content is JSON without a `data` string"),
        (b'{"photo": "QQ=="}', "the content is JSON without a `data` string"),
        (b'{"Data": "QQ=="}', "the content is JSON without a `data` string"),
        (b'{"data": 1}', "the content is JSON without a `data` string"),
        (b'{"data": null}', "the content is JSON without a `data` string"),
        (b'{"data": "QQ==", "data": "QQ=="}', "the JSON has `data` twice; send one photo"),
        (b'{"data": "QQ==", "d\\u0061ta": 1}', "the JSON has `data` twice"),
        ('{"data": "é"}'.encode(), "`data` is not base64: it is not ASCII; encode the photo"),
    ],
)
def test_json_that_cannot_be_answered_gets_the_reason(body: bytes, message: str) -> None:
    assert message in refused(body)


def test_the_most_members_are_taken_and_one_more_is_not() -> None:
    members = {f"m{number}": number for number in range(MAX_MEMBERS - 1)} | {"data": "QQ=="}
    assert data_of(json.dumps(members).encode()) == "QQ=="
    assert refused(json.dumps(members | {"more": 1}).encode()) == NOT_FLAT


def large(start: bytes, piece: bytes, end: bytes) -> bytes:
    return start + piece * ((MAX_UPLOAD_BYTES - len(start) - len(end)) // len(piece)) + end


@pytest.mark.parametrize(
    "body",
    [
        large(b"[", b'{"":{}},', b"{}]"),
        large(b"{", b'"":{},', b'"":{}}'),
        large(b"{", b'"":1,', b'"":1}'),
        large(b'{"a":', b"[", b""),
        large(b"", b'{"data":', b""),
        large(b"", b" ", b""),
        large(b'{"a":"', b"\\n", b""),
        large(b'{"a":"', b"\\u0041", b'" "'),
        large(b'{"a":', b"1", b".}"),
        large(b'{"a"', b"\t", b"}"),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_the_largest_json_is_refused_without_being_unpacked(body: bytes) -> None:
    with memory() as taken:
        try:
            data_of(body)
        except InvalidPhotoException as error:
            message = str(error)
    assert message == NOT_FLAT
    assert taken.most < 100_000


@pytest.mark.parametrize(
    "body",
    [
        large(b'{"data":"', b"A", b'"}'),
        large(b'{"data":"', b"\\n", b'"}'),
        large(b'{"data":"', b"A A ", b'"}'),
        large(b'{"data":"', b"A\\n\\n", b'"}'),
        large(b'{"data":"data:;base64,', b"%41", b'"}'),
        large(b'{"data":"data:;base64,', b"%2B", b'"}'),
        large(b'{"data":"data:', b"A", b'"}'),
        large(b'{"data":"data:;base64,', b"A", b'"}'),
        large(b'{"data":"', b"\\ud83d\\ude00", b'"}'),
        large('{"é":"'.encode(), "é".encode(), b'","data":"QQ=="}'),
        large(b'{"a":"', b"\\ud83d", b'","data":"QQ=="}'),
    ],
    ids=lambda body: repr(body[:30]),
)
def test_the_largest_data_takes_few_times_its_size(body: bytes) -> None:
    with memory() as taken, suppress(InvalidPhotoException):
        photo_bytes({"data": data_of(body)})
    assert taken.most < 40_000_000
