from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.header import kind_of, parameters_of


@pytest.mark.parametrize(
    ("header", "kind", "parameters"),
    [
        ("", "", {}),
        ("image/jpeg", "image/jpeg", {}),
        (" Image/JPEG ;", "image/jpeg", {"": ""}),
        ("a/b; x=1;y = 2 ; Z=three four", "a/b", {"x": "1", "y": "2", "z": "three four"}),
        ('a/b; X="; y=2"; z=";"', "a/b", {"x": "; y=2", "z": ";"}),
        ("a/b; x; y=", "a/b", {"x": "", "y": ""}),
        ('a/b; x=""', "a/b", {"x": ""}),
        ("a/b; x=1; X=2", "a/b", {"x": "1"}),
        ("a/b;;; x=a=b", "a/b", {"": "", "x": "a=b"}),
        ("a/b; x*=UTF-8''%C3%A4", "a/b", {"x*": "UTF-8''%C3%A4"}),
        ('a/b; x=1"2', "a/b", {"x": '1"2'}),
    ],
)
def test_a_header_is_its_kind_and_its_parameters(
    header: str, kind: str, parameters: dict[str, str]
) -> None:
    assert kind_of(header) == kind
    assert parameters_of(header) == parameters


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (r'f; x="a\"; y="b"', "a\\"),  # as browsers write a backslash
        (r'f; x="\"; y="\"', "\\"),
        (r'f; x="C:\photos\cat.jpg"; y=1', r"C:\photos\cat.jpg"),
        (r'f; x="a\"b"; y=1', 'a"b'),  # as RFC 9110 writes a quote
        (r'f; x="a\"; b\\"; y="\""', 'a"; b\\'),
    ],
)
def test_backslashes_are_read_as_browsers_or_the_rfc_write_them(header: str, value: str) -> None:
    assert parameters_of(header)["x"] == value


@pytest.mark.parametrize(
    "header", ['a; x="1', 'a; x="', 'a; x="1"2', 'a; x="1"2"; y="3"', 'a; "x"']
)
def test_misplaced_quotes_are_an_error(header: str) -> None:
    with pytest.raises(ValueError, match="a misplaced quote"):
        parameters_of(header)


@given(st.text())
def test_any_text_is_a_header_or_an_error(header: str) -> None:
    kind_of(header)
    try:
        parameters = parameters_of(header)
    except ValueError:
        return
    assert all(name == name.lower() for name in parameters)


@given(st.lists(st.text("ab\\; =\t", max_size=9), max_size=4))
def test_values_in_quotes_come_back_as_they_are(values: list[str]) -> None:
    header = "".join(f'; x{n}="{value}"' for n, value in enumerate(values))
    assert parameters_of(f"a{header}") == {f"x{n}": value for n, value in enumerate(values)}
