from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Iterator

import pytest
import requests
from hypothesis import assume, given
from hypothesis import strategies as st
from urllib3 import encode_multipart_formdata

from handler.form import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_PARTS,
    boundary_of,
    file_fields,
)
from handler.gateway import CHUNK
from handler.photo import InvalidPhotoException, PhotoTooLargeException
from handler.request import HOW_TO_SEND, MAX_PHOTOS
from handler.upload import Upload
from handler.upload_folder import MAX_UPLOAD_BYTES
from tests.handler.memory import memory

NAMED = b'Content-Disposition: form-data; name="photo"'
FILE = NAMED + b'; filename="cat.jpg"'


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"b") -> bytes:
    """A form of parts, each of them headers and content."""
    written = [b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, *part) for part in parts]
    return b"".join(written) + b"--%b--\r\n" % boundary


def files(body: bytes, boundary: bytes = b"b") -> dict[str, bytes]:
    """Read it as the handler reads an upload."""
    file = io.BytesIO(body)
    return file_fields(iter(lambda: file.read(CHUNK), b""), boundary)


def refused(body: bytes, boundary: bytes = b"b") -> str:
    with pytest.raises(InvalidPhotoException) as error:
        files(body, boundary)
    return str(error.value)


# RFC 2046 allows these in a boundary; a space not at its end.
BOUNDARY = st.from_regex(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]", fullmatch=True)
CONTENT = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"--", b"-", b"\0", b"BOUNDARY"]) | st.binary(),
    max_size=12,
).map(b"".join)


def without(boundary: str, contents: list[bytes]) -> list[bytes]:
    """Contents full of near-boundaries, but without the boundary on a line."""
    line = f"\r\n--{boundary}".encode()
    filled = [content.replace(b"BOUNDARY", boundary.encode()) for content in contents]
    assume(not any(line in b"\r\n%b\r\n" % content for content in filled))
    return filled


@given(
    BOUNDARY,
    st.lists(CONTENT, min_size=1, max_size=MAX_PHOTOS),
    st.binary(max_size=50),
    st.lists(st.integers(0, 4000)),
)
def test_a_form_is_read_the_same_wherever_its_chunks_end(
    boundary: str, contents: list[bytes], preamble: bytes, borders: list[int]
) -> None:
    contents = without(boundary, [preamble, *contents])
    parts = [
        (b'Content-Disposition: form-data; name="%d"; filename="x"' % number, content)
        for number, content in enumerate(contents)
    ]
    body = contents[0] + b"\r\n" + form(*parts[1:], boundary=boundary.encode())
    cuts = [0, *sorted(min(border, len(body)) for border in borders), len(body)]
    chunks = [body[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
    expected = {str(number): content for number, content in enumerate(contents) if number}
    assert file_fields(chunks, boundary.encode()) == expected
    assert file_fields([body], boundary.encode()) == expected
    assert file_fields([bytes([byte]) for byte in body], boundary.encode()) == expected


def escaped(name: str) -> str:
    """A name as browsers, curl and urllib3 write it."""
    return name.translate({ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"})


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ODD_NAMES = ["body", "describe", "explain", "url_path", "X-Upload", "=", 'a"; filename="b', "\\"]
FIELD_NAME = TEXT | st.sampled_from(ODD_NAMES)


@given(
    st.dictionaries(FIELD_NAME, st.tuples(TEXT.filter(bool), st.binary()), min_size=1, max_size=8),
    st.dictionaries(TEXT, st.binary(max_size=20), max_size=8),
)
def test_what_urllib3_encodes_comes_back(
    photos: dict[str, tuple[str, bytes]], texts: dict[str, bytes]
) -> None:
    """Field and file names are any text; text fields may have equal names."""
    assume(len({escaped(name) for name in photos}) == len(photos))
    fields = [*photos.items(), *texts.items()]
    body, content_type = encode_multipart_formdata(fields)
    expected = {escaped(name): content for name, (_, content) in photos.items()}
    assert files(body, boundary_of(content_type)) == expected


def test_what_requests_sends_comes_back() -> None:
    request = requests.Request(
        "POST",
        "http://127.0.0.1",
        data={"note": "text"},
        files={"Kätzchen": ("Kätzchen.jpg", b"one", "image/jpeg"), "two": b"\r\n--\r\n"},
    ).prepare()
    assert isinstance(request.body, bytes)
    found = files(request.body, boundary_of(request.headers["Content-Type"]))
    assert found == {"Kätzchen": b"one", "two": b"\r\n--\r\n"}


@given(st.binary().filter(lambda name: not set(name) & set(b'"\r')))
def test_a_field_name_is_any_bytes(name: bytes) -> None:
    body = form((b'Content-Disposition: form-data; name="%b"; filename="x"' % name, b"photo"))
    assert files(body) == {name.decode(errors="replace"): b"photo"}


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"Content-Disposition: form-data; name=photo; filename=cat.jpg", "photo"),
        (b"content-disposition:FORM-DATA;NAME=photo;FILENAME=cat.jpg", "photo"),
        (b'CONTENT-DISPOSITION: form-data ; filename="" ; name = "photo" ', "photo"),
        (b'Content-Disposition: form-data; name=""; filename="cat.jpg"', ""),
        (b"Content-Disposition: form-data; name=; filename=cat.jpg", ""),
        (b'Content-Disposition: form-data; name="a;b"; filename="c;d.jpg"', "a;b"),
        (b'Content-Disposition: form-data; name="a\\"b"; filename="c"', 'a"b'),
        (b"Content-Disposition: form-data; name=\"photo\"; filename*=UTF-8''K%C3%A4.jpg", "photo"),
        (FILE + b"\r\nContent-Type: text/plain; charset=nonsense", "photo"),
        (FILE + b'\r\nContent-Type: image/jpeg; charset="', "photo"),
        (FILE + b"\r\nContent-Type:", "photo"),
        (FILE + b"\r\nContent-Transfer-Encoding: BINARY\r\nContent-Length: 1", "photo"),
        (b"X: y\r\n" + FILE, "photo"),
    ],
)
def test_an_odd_header_that_can_be_read_is(header: bytes, name: str) -> None:
    assert files(form((header, b"cat"))) == {name: b"cat"}


BY_CLIENT = "; let your HTTP client write the form, for example curl -F photo=@photo.jpg"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"Content-Type: image/jpeg", f"has no Content-Disposition{BY_CLIENT}"),
        (b"Content-Disposition:", f"has Content-Disposition '' instead of form-data{BY_CLIENT}"),
        (
            b'Content-Disposition: attachment; name="photo"; filename="x"',
            f"has Content-Disposition 'attachment' instead of form-data{BY_CLIENT}",
        ),
        (
            b"Content-Disposition: form-data; filename=x",
            f"has no name in its Content-Disposition{BY_CLIENT}",
        ),
        (
            b"Content-Disposition: form-data; name*=UTF-8''x; filename=x",
            f"has no name in its Content-Disposition{BY_CLIENT}",
        ),
        (
            b'Content-Disposition: form-data; name="photo; filename=x',
            f"has a misplaced quote in its Content-Disposition{BY_CLIENT}",
        ),
        (
            FILE + b"\r\nContent-Transfer-Encoding: Base64",
            "has Content-Transfer-Encoding 'base64'; send the raw bytes",
        ),
    ],
)
def test_a_part_that_is_no_field_is_named_by_its_number(header: bytes, message: str) -> None:
    assert refused(form((NAMED, b"text"), (header, b"cat"))) == f"part 2 of the form {message}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b"",
            "no line of the body is --b with CRLF at its end, as the form's Content-Type says; let",
        ),
        (b"photo", "no line of the body is --b with CRLF"),
        (form((FILE, b"cat")).replace(b"\r\n", b"\n"), "no line of the body is --b with CRLF"),
        (form((FILE, b"cat"), boundary=b"other"), "no line of the body is --b with CRLF"),
        (form((FILE, b"cat"))[:-3], "the form is truncated: its last boundary is missing; send"),
        (b"--b\r\n" + FILE, "the form is truncated"),
        (b"--b\r\n" + FILE + b"\r\n\r\n", "the form is truncated"),
        (b"--b\r\n", "the form is truncated"),
        (b"--b--", f"the form has no file field; {HOW_TO_SEND}"),
        (form(), f"the form has no file field; {HOW_TO_SEND}"),
        (form((NAMED, b"cat")), "the form has no file field"),
        (form((b"Content-Disposition: form-data; name=body", b"cat")), "the form has no file"),
        (form((b'Content-Disposition: form-data; name=a; filename=""', b"")), "has no file field"),
        (
            form((FILE, b"cat"), (FILE, b"dog")),
            "the form has a field twice: photo; name each photo's field differently",
        ),
        (
            form((b"no colon", b"")),
            "the form is malformed near part 1: Found invalid character 32 in header; let your",
        ),
        (
            form((FILE, b"cat"), (b": x", b"")),
            "the form is malformed near part 2: Found 0-length header; let your",
        ),
        (
            form((FILE, b"cat")).replace(b"--b\r\n", b"--b x\r\n"),
            "the form is malformed near part 1: Did not find CRLF after boundary padding; let your",
        ),
        (
            form((FILE + b"\rX", b"cat")),
            "the form is malformed near part 1: Did not find LF character at end of header (found",
        ),
    ],
)
def test_a_form_that_cannot_be_answered_gets_the_reason(body: bytes, message: str) -> None:
    assert message in refused(body)


def test_a_preamble_padding_and_an_epilogue_are_ignored() -> None:
    plain = form((FILE, b"cat"))
    for body in (
        b"This is a form.\r\n" + plain,
        b"\r\n\r\n--\r\n--x\r\n" + plain,
        plain.replace(b"--b\r\n", b"--b \t\r\n"),
        plain + b"more\r\n--b\r\n",
        plain[:-2],
    ):
        assert files(body) == {"photo": b"cat"}


def test_text_fields_and_file_inputs_left_empty_are_left_out() -> None:
    empty = (b'Content-Disposition: form-data; name="photo"; filename=""', b"")
    body = form((NAMED, b"text"), empty, (FILE, b"cat"), empty, (NAMED, b"text"))
    assert files(body) == {"photo": b"cat"}


def test_a_file_without_bytes_is_still_a_file() -> None:
    assert files(form((FILE, b""))) == {"photo": b""}


def numbered(count: int, kind: bytes = b"; filename=x") -> list[tuple[bytes, bytes]]:
    return [
        (b"Content-Disposition: form-data; name=%d%b" % (number, kind), b"x")
        for number in range(count)
    ]


def test_the_most_files_and_parts_are_taken_and_one_more_is_not() -> None:
    assert len(files(form(*numbered(MAX_PHOTOS)))) == MAX_PHOTOS
    assert "more than 8 file fields; send at most 8" in refused(form(*numbered(MAX_PHOTOS + 1)))
    texts = numbered(MAX_PARTS - 1, b"")
    assert len(files(form(*texts, (FILE, b"x")))) == 1
    assert "more than 16 parts; send at most 8 photos" in refused(
        form(*texts, (NAMED, b"x"), (FILE, b"x"))
    )


def test_the_longest_headers_are_taken_and_longer_ones_are_not() -> None:
    def padded(size: int) -> bytes:
        return FILE + b"\r\nX: " + b"x" * (size - len(FILE) - len(b"\r\nX: ") - len(b"\r\n"))

    assert files(form((padded(MAX_HEADER_BYTES), b"cat")))
    for header in (
        padded(MAX_HEADER_BYTES + 1),
        b"\r\n".join([b"X: " + b"x" * 1000] * 9),
        b"x" * (MAX_HEADER_BYTES + 1),
        b"X:" + b" " * MAX_HEADER_BYTES,
        b"\r\n".join([b"X: x"] * (MAX_HEADERS + 1)),
    ):
        message = refused(form((FILE.replace(b"photo", b"first"), b"cat"), (header, b"cat")))
        assert message.startswith("part 2 of the form has more than 8192 bytes or 16 lines of")
    assert files(form((b"\r\n".join([FILE] + [b"X: x"] * (MAX_HEADERS - 1)), b"cat")))


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=b", b"b"),
        ('Multipart/Form-Data ;charset=utf-8; BOUNDARY="a b"', b"a b"),
        ("multipart/form-data; boundary=" + "b" * 70, b"b" * 70),
        ("multipart/form-data; boundary=\xe4", b"\xe4"),
        ("multipart/form-data; boundary=\u20ac", b"?"),
    ],
)
def test_the_boundary_is_found_in_the_content_type(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary
    assert files(form((FILE, b"cat"), boundary=boundary), boundary) == {"photo": b"cat"}


@pytest.mark.parametrize(
    ("content_type", "message"),
    [
        ("multipart/form-data", f"the form's Content-Type has no boundary{BY_CLIENT}"),
        ("multipart/form-data; boundary", "the form's Content-Type has no boundary"),
        ('multipart/form-data; boundary=""', "the form's Content-Type has no boundary"),
        (
            'multipart/form-data; boundary="b',
            "the form's Content-Type has a misplaced quote: multipart/form-data; "
            f'boundary="b{BY_CLIENT}',
        ),
        (
            "multipart/form-data; boundary=" + "b" * 71,
            "the form's boundary has 71 characters; the limit is 70",
        ),
    ],
)
def test_a_content_type_without_a_usable_boundary_gets_the_reason(
    content_type: str, message: str
) -> None:
    with pytest.raises(InvalidPhotoException, match=re.escape(message)):
        boundary_of(content_type)


HEAD = b"--b\r\n" + FILE + b"\r\n\r\n"


def test_of_265_000_empty_parts_the_17th_is_refused_and_nothing_behind_it_is_read() -> None:
    taken = []

    def chunks() -> Iterator[bytes]:
        parts = b"--b\r\n" + NAMED + b"\r\n\r\n\r\n"
        for _ in range(MAX_UPLOAD_BYTES // CHUNK):
            taken.append(CHUNK)
            yield (parts * (CHUNK // len(parts) + 1))[:CHUNK]

    with pytest.raises(InvalidPhotoException, match="more than 16 parts"):
        file_fields(chunks(), b"b")
    assert taken == [CHUNK]


def filled(piece: bytes, start: bytes = b"") -> bytes:
    """The largest form of one file, which is full of `piece`."""
    body = HEAD + start + piece * ((MAX_UPLOAD_BYTES - len(HEAD)) // len(piece))
    body = body[:MAX_UPLOAD_BYTES]
    return body[: -len(b"\r\n--b--")] + b"\r\n--b--"


@pytest.mark.parametrize(
    ("start", "piece"),
    [(b"", b"\r\n--bx"), (b"", b"\r\n--b\rx"), (b"", b"\r\n--b-x"), (b"\r\n--b", b" ")],
)
def test_a_form_that_is_made_to_take_long_is_given_up_after_a_second(
    start: bytes, piece: bytes
) -> None:
    body = filled(piece, start)
    started = time.thread_time()
    with pytest.raises(PhotoTooLargeException, match="takes over 1 s to read; let your HTTP"):
        files(body)
    assert time.thread_time() - started < 2


@pytest.mark.parametrize("piece", [b"\xff", b"\r", b"\r\n", b"\r\n--", b"--b"])
def test_the_largest_photo_is_copied_once_and_once_more_at_its_end(piece: bytes) -> None:
    body = filled(piece)
    with memory() as taken:
        found = files(body)
    assert found == {"photo": body[len(HEAD) : -len(b"\r\n--b--")]}
    assert taken.most < 2.2 * len(body) + 2**20


def test_text_fields_take_no_memory_however_large() -> None:
    body = filled(b"x").replace(b"filename", b"filenone")
    with memory() as taken:
        assert "no file field" in refused(body)
    assert taken.most < 2**20


def test_a_refused_form_stays_neither_in_memory_nor_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = filled(b"x")[: -len(b"\r\n--b--")] + b"\r\n--b x"
    with memory() as taken:
        try:
            files(body)
        except InvalidPhotoException as error:
            upload = Upload(error)  # as the handler keeps it
    assert "malformed near part 1" in str(upload.decoded)
    assert taken.kept < 2**20
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@given(
    st.lists(
        st.sampled_from(
            [
                b"--b", b"\r\n", b"--b\r\n", b"\r\n--b", b"--b--", b"\r", b"\n", b"-", b":", b";",
                b'"', b"\\", b" ", b"name=", b"filename=", b"form-data", b"Content-Disposition:",
                b"Content-Transfer-Encoding:", FILE, b"\r\n\r\n",
            ]
        )
        | st.binary(max_size=4),
        max_size=40,
    ),
    st.integers(1, 30),
)  # fmt: skip
def test_any_bytes_are_a_form_or_refused(pieces: list[bytes], size: int) -> None:
    body = b"".join(pieces)
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    results = []
    for given_chunks in (chunks, [body]):
        try:
            results.append(str(file_fields(given_chunks, b"b")))
        except InvalidPhotoException as error:
            results.append(str(error))
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", [b"application/octet-stream", b"image/heic", b"IMAGE/JPEG; x=y"])
def test_bytes_without_a_file_name_are_a_file_by_their_type(kind: bytes) -> None:
    """As Dart's MultipartFile.fromBytes sends them, and Apache's addBinaryBody."""
    body = form((NAMED + b"\r\nContent-Type: " + kind, b"cat"))
    assert files(body) == {"photo": b"cat"}
    text = NAMED.replace(b"photo", b"note") + b"\r\nContent-Type: text/plain; charset=utf-8"
    assert files(form((text, b"hello"), (FILE, b"cat"))) == {"photo": b"cat"}


def test_a_type_that_is_no_text_is_that_of_no_file() -> None:
    note = NAMED.replace(b"photo", b"note") + b"\r\nContent-Type: \xff"
    assert files(form((note, b"hello"), (FILE, b"cat"))) == {"photo": b"cat"}
