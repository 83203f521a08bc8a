from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handler import photo, upload
from handler.photo import (
    FORMATS,
    MAX_DECODE_MEGABYTES,
    MAX_DECODE_SECONDS,
    MAX_SCANS,
    SIDE,
    InvalidPhotoException,
    PhotoException,
    PhotoTooLargeException,
    decode_photo,
)
from handler.pixels import Samples
from handler.request import PART_OVERHEAD, photo_bytes, photo_fields
from handler.upload import read_upload
from handler.upload_folder import MAX_UPLOAD_BYTES
from testing.hostile import (
    FILES,
    chunk,
    encode,
    good_pictures,
    heif_grid,
    hostile_files,
    mutations,
    picture,
    with_ispe,
    with_scans,
)
from testing.hostile.made import zeros
from testing.hostile.png import png


def answer(data: bytes) -> int:
    """The HTTP status of a photo, after checking that it has pixels or an exception."""
    decoded = read_upload(data).decoded
    if isinstance(decoded, PhotoException):
        message = str(decoded)
        assert message.isprintable(), message
        assert len(message) < 400, message
        return decoded.status
    assert decoded.shape == (SIDE, SIDE, 3)
    assert decoded.dtype == np.uint8
    return 200


def in_new_process(call: str, given: bytes = b"") -> Any:
    """The result of a function of this module in a separate process, which a fork copies in 2 ms.

    A crash, or anything that a decoder prints, fails the test.
    """
    program = f"""
import json
from tests.handler import test_hostile
print(json.dumps(test_hostile.{call}))
"""
    command = [sys.executable, "-X", "faulthandler", "-c", program]
    run = subprocess.run(command, input=given, capture_output=True)
    assert (run.returncode, run.stderr.decode()) == (0, "")
    return json.loads(run.stdout)


def sweep() -> dict[str, Any]:
    """For all hostile files: wrong answers, late answers, and the memory used."""
    photo.MAX_DECODE_SECONDS = 1
    alarm = signal.alarm  # wall-clock time, which on a busy machine would end a decoder earlier
    signal.alarm = lambda seconds: alarm(30 * seconds)
    before = megabytes("VmRSS")
    wrong, late = {}, {}
    for name, data, answers in hostile_files():
        started = sum(os.times()[:4])  # of this process and its ended children
        status = answer(data)
        seconds = sum(os.times()[:4]) - started
        if status not in answers:
            wrong[name] = status
        if seconds > 2.5:  # a step of a decoder, such as joining 12 MB, is not cut short
            late[name] = seconds
        if len(data) > MAX_UPLOAD_BYTES:
            wrong[name] = "no server passes so large a file on"
    return {"wrong": wrong, "late": late, "megabytes": peak_megabytes() - before}


def fuzz(seed: int, count: int) -> list[int]:
    """The statuses of damaged pictures; names the picture for another exception."""
    answers = set()
    for name, data in mutations(seed, count):
        try:
            answers.add(answer(data))
        except Exception as error:
            raise AssertionError(name) from error
    return sorted(answers)


def decode_input() -> float:
    """The additional megabytes for decoding the photo on standard input."""
    data = sys.stdin.buffer.read()
    before = megabytes("VmRSS")
    answer(data)
    return peak_megabytes() - before


def decode_input_within(limit: int) -> int:
    """The answer to the photo on standard input, with `limit` megabytes for decoding."""
    photo.MAX_DECODE_MEGABYTES = limit
    return answer(sys.stdin.buffer.read())


def megabytes(line: str) -> float:
    """A figure of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0]) / 1024


def peak_megabytes() -> float:
    """Of this process, or of the largest of its children."""
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return max(megabytes("VmHWM"), child)


def flat(mode: str, width: int, height: int, format_name: str, **options: Any) -> bytes:
    return encode(Image.new(mode, (width, height)), format_name, **options)


@pytest.fixture(scope="module")
def swept() -> dict[str, Any]:
    return in_new_process("sweep()")


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and its limits")


@on_linux
def test_every_hostile_file_gets_its_answer(swept: dict[str, Any]) -> None:
    assert swept["wrong"] == {}


@on_linux
def test_no_hostile_file_takes_longer_than_stated(swept: dict[str, Any]) -> None:
    assert swept["late"] == {}


@on_linux
def test_no_hostile_file_takes_more_memory_than_stated(swept: dict[str, Any]) -> None:
    assert swept["megabytes"] < MAX_DECODE_MEGABYTES


def test_every_format_has_hostile_files() -> None:
    assert set(FORMATS.values()) <= FILES.keys()


@pytest.mark.parametrize(
    ("seed", "count"), [(1, 300), pytest.param(2, 10_000, marks=pytest.mark.slow)]
)
def test_spoiled_pictures_raise_nothing_but_photo_exceptions(seed: int, count: int) -> None:
    assert {200, 400, 413} <= set(in_new_process(f"fuzz({seed}, {count})")) <= {200, 400, 413, 415}


def test_pictures_are_spoiled_the_same_way_each_time() -> None:
    assert list(mutations(5, 30)) == list(mutations(5, 30))
    assert list(mutations(5, 30)) != list(mutations(6, 30))


LARGEST: dict[str, Callable[[], bytes]] = {
    "progressive JPEG": lambda: flat("RGB", 8_600, 5_800, "JPEG", progressive=True, subsampling=0),
    "progressive JPEG that is hardly shrunk": lambda: flat(
        "CMYK", 18_000, 880, "JPEG", progressive=True
    ),
    "WebP": lambda: flat("RGBA", 4_000, 4_000, "WEBP", lossless=True, method=0),
    "TIFF of floats": lambda: flat("F", 4_000, 4_000, "TIFF", compression="tiff_adobe_deflate"),
}
LARGEST_SLOW: dict[str, Callable[[], bytes]] = {
    "progressive JPEG in CMYK": lambda: flat("CMYK", 6_000, 6_000, "JPEG", progressive=True),
    "PNG of 16 bits with a transparent level": lambda: png(
        4_000, 4_000, zeros(33), depth=16, before=chunk(b"tRNS", b"\0\0")
    ),
    "GIF": lambda: flat("P", 4_000, 4_000, "GIF", transparency=0),
    "AVIF": lambda: flat("RGBA", 4_000, 4_000, "AVIF", speed=10, subsampling="4:4:4"),
    "HEIC of a phone": lambda: heif_grid(15, 13, 5_712, 4_284),
    "100 megapixels in a small AVIF": lambda: with_ispe(
        flat("L", 10_000, 10_000, "AVIF", speed=10, subsampling="4:0:0"), 300, 300
    ),
}


@on_linux
@pytest.mark.parametrize(
    "kind", [*LARGEST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in LARGEST_SLOW)]
)
def test_the_largest_photos_stay_within_the_stated_memory(kind: str) -> None:
    data = (LARGEST | LARGEST_SLOW)[kind]()
    assert 50 < in_new_process("decode_input()", data) < MAX_DECODE_MEGABYTES


@on_linux
@pytest.mark.parametrize("format_name", ["TIFF", "AVIF"])
def test_what_takes_more_memory_than_stated_is_refused(format_name: str) -> None:
    large = flat("L", 4_000, 4_000, format_name)
    assert in_new_process("decode_input_within(400)", large) == 200
    assert in_new_process("decode_input_within(30)", large) == 413


@pytest.mark.parametrize(
    ("mode", "width", "height", "limit"),
    [
        ("CMYK", 6_100, 6_000, "the limit for a CMYK JPEG is 36"),
        ("L", 20_000, 880, "such a narrow"),
    ],
)
def test_a_jpeg_that_takes_more_memory_has_a_lower_limit(
    mode: str, width: int, height: int, limit: str
) -> None:
    with pytest.raises(PhotoTooLargeException, match=limit):
        decode_photo(flat(mode, width, height, "JPEG"))


def test_more_scans_than_any_encoder_writes_are_refused() -> None:
    progressive = encode(picture(), "JPEG", progressive=True)  # in 10 scans
    assert answer(with_scans(progressive, MAX_SCANS - 10)) == 200
    with pytest.raises(PhotoTooLargeException, match=f"{MAX_SCANS + 1} scans"):
        decode_photo(with_scans(progressive, MAX_SCANS - 9))


def test_a_file_of_many_tiny_blocks_is_refused_where_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(photo, "MAX_DECODE_SECONDS", -1)  # as if it had taken that and more
    small = encode(picture(40, 30), "PNG")
    assert answer(small) == 200
    assert answer(small[:33] + chunk(b"prVt", b"") * 100 + small[33:]) == 413


@pytest.mark.slow
def test_the_most_scans_of_the_largest_jpeg_stay_within_the_stated_time() -> None:
    grey = flat("L", 8_600, 5_800, "JPEG", progressive=True)  # in 6 scans
    started = time.process_time()
    assert answer(with_scans(grey, MAX_SCANS - 6)) == 200
    assert time.process_time() - started < MAX_DECODE_SECONDS


@pytest.mark.parametrize("format_name", FORMATS)
def test_12_megapixels_are_taken_in_every_format(format_name: str) -> None:
    if format_name == "HEIF":  # which nothing here encodes
        large = heif_grid(10, 9, 4_000, 3_000)
    else:
        options = {"speed": 10} if format_name == "AVIF" else {"method": 0}
        large = flat("L", 4_000, 3_000, format_name, **options)
    assert answer(large) == 200


def test_24_megapixels_of_progressive_jpeg_are_taken() -> None:
    assert answer(flat("RGB", 6_000, 4_000, "JPEG", progressive=True, subsampling=0)) == 200


@pytest.mark.parametrize("head", [b"II*\0", b"MM\0*", b"\0\0\0 ftypavif"])
@pytest.mark.parametrize(
    ("end", "kind", "remedy"),
    [
        (signal.SIGKILL, PhotoTooLargeException, "megabytes to decode; send it as a plain JPEG"),
        (signal.SIGSEGV, InvalidPhotoException, "crashed; send it as a JPEG"),
    ],
)
def test_a_decoder_that_dies_takes_its_own_process_along_and_no_more(
    monkeypatch: pytest.MonkeyPatch, head: bytes, end: int, kind: type[Exception], remedy: str
) -> None:
    here = os.getpid()

    def die(data: bytes) -> None:
        assert os.getpid() != here
        os.kill(os.getpid(), end)

    monkeypatch.setattr(photo, "_decode", die)
    with pytest.raises(kind, match=remedy):
        decode_photo(head)
    with pytest.raises(ChildProcessError):  # none is left
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("kind", PhotoException.__subclasses__())
def test_an_error_in_a_child_process_keeps_its_type(
    monkeypatch: pytest.MonkeyPatch, kind: type[PhotoException]
) -> None:
    def fail(data: bytes) -> None:
        raise kind("a reason")

    for other in PhotoException.__subclasses__():  # as if several types had this status
        monkeypatch.setattr(other, "status", 400)
    monkeypatch.setattr(photo, "_decode", fail)
    with pytest.raises(kind, match=r"^a reason$"):
        decode_photo(b"II*\0")


IN_A_CHILD = {
    "JPEG": False, "PNG": False, "WebP": False, "GIF": False, "BMP": False, "TIFF": True,
    "AVIF": True, "HEIC": True,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS.values())
def test_a_decoder_that_trusts_its_file_runs_in_a_child_process(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forks, fork = [], os.fork
    monkeypatch.setattr(os, "fork", lambda: forks.append(name) or fork())
    assert answer(good_pictures()[name]) == 200
    assert bool(forks) == IN_A_CHILD[name]


def test_memory_that_runs_out_is_the_photos_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(image: Image.Image, samples: Samples) -> None:
        raise MemoryError

    monkeypatch.setattr(photo, "to_rgb_or_rgba", run_out)
    with pytest.raises(PhotoTooLargeException, match="megabytes"):
        decode_photo(encode(picture(), "PNG"))


def test_memory_that_runs_out_before_a_photo_is_opened_is_its_fault_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_out(data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(upload, "read_photo", run_out)
    refused = read_upload(b"photo")
    assert isinstance(refused.decoded, PhotoTooLargeException)
    assert str(refused.decoded) == "photo needs too much memory; send a smaller copy"
    assert refused.bytes == 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text() | st.just("data"), parts),
)


@given(JSON | st.binary())
def test_any_content_of_a_request_is_bytes_or_an_invalid_photo(content: Any) -> None:
    try:
        assert isinstance(photo_bytes(content), bytes)
    except InvalidPhotoException as error:
        json.dumps(str(error)).encode()


@pytest.mark.parametrize("length", ["0" * 5_000 + "3", "3", "-1", "", "1e9", "0x3"])
def test_a_length_in_any_spelling_fails_no_request(length: str) -> None:
    assert photo_fields({"body": b"abc"}, {"Content-Length": length}) == {"body": b"abc"}


def test_a_length_of_5000_digits_is_no_whole_request() -> None:
    with pytest.raises(InvalidPhotoException):
        photo_fields({"body": b"abc"}, {"Content-Length": "9" * 5_000})


@given(
    st.dictionaries(st.sampled_from("abc"), st.binary(max_size=20), min_size=1),
    st.sampled_from(["Content-Length", "content-length"]),
    st.integers(0, 5_000),
)
def test_a_form_that_is_much_longer_than_its_fields_has_lost_one(
    fields: dict[str, bytes], name: str, lost: int
) -> None:
    headers = {name: str(sum(map(len, fields.values())) + lost)}
    if lost <= PART_OVERHEAD * (len(fields) + 1):
        assert photo_fields(fields, headers) == fields
    else:
        with pytest.raises(InvalidPhotoException, match="name each photo's field differently"):
            photo_fields(fields, headers)


def test_a_photo_is_refused_where_there_is_no_process_for_its_decoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_process() -> int:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", no_process)
    assert answer(encode(picture(40, 30), "TIFF")) == 503  # not the photo's fault
    assert answer(encode(picture(40, 30), "JPEG")) == 200  # Pillow's own decoders need none


def test_a_decoder_that_is_kept_waiting_is_the_servers_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(photo, "_decode", lambda data: signal.pause())
    monkeypatch.setattr(signal, "alarm", lambda seconds: signal.setitimer(signal.ITIMER_REAL, 0.1))
    assert answer(encode(picture(40, 30), "TIFF")) == 503
