from __future__ import annotations

import errno
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler.photo import (
    InvalidPhotoException,
    ServiceUnavailableException,
    UploadGoneException,
)
from handler.upload_folder import MAX_UPLOAD_BYTES, open_upload
from tests.test_configuration import properties

NUMBER = "0000000001"


def read(path: Path | str) -> bytes:
    with open_upload(str(path)) as file:
        return file.read()


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The upload folder, with one upload in its folder "1" and a secret outside."""
    for name, content in (("uploads", b"photo"), ("secret", b"secret")):
        folder = tmp_path / name / "1"
        folder.mkdir(parents=True)
        (folder / NUMBER).write_bytes(content)
    monkeypatch.setenv("CATSDOGS_UPLOADS", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


@pytest.fixture
def in_time() -> Iterator[None]:
    """A test that blocks fails after 5 seconds."""

    def fail(*_: object) -> None:
        raise TimeoutError

    earlier = signal.signal(signal.SIGALRM, fail)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, earlier)


def test_an_upload_is_read_and_left_where_it_is(uploads: Path) -> None:
    before = set(os.listdir("/dev/fd"))
    assert read(uploads / "1" / NUMBER) == b"photo"
    assert read(uploads / "1" / NUMBER) == b"photo"
    assert set(os.listdir("/dev/fd")) == before


def test_a_slash_behind_the_folders_name_changes_nothing(
    uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATSDOGS_UPLOADS", f"{uploads}//")
    assert read(uploads / "1" / NUMBER) == b"photo"


def test_the_folder_may_have_any_name(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = uploads.rename(uploads.with_name("Fotos für Zoë"))
    monkeypatch.setenv("CATSDOGS_UPLOADS", str(other))
    in_header = os.fsencode(other / "1" / NUMBER).decode("latin-1")  # as TorchServe decodes it
    assert read(in_header) == b"photo"


@pytest.mark.parametrize(
    "path",
    [
        "{uploads}", "{uploads}/", "{uploads}/1", "{uploads}/1/", "{uploads}/0000000002",
        "{uploads}/1/2/0000000003", "{uploads}/1/{number}/", "{uploads}/1//{number}",
        "{uploads}//1/{number}", "{uploads}/1/./{number}", "{uploads}/./{number}",
        "{uploads}/../{number}", "{uploads}/../secret/1/{number}", "{uploads}/1/../{number}",
        "{uploads}/1/photo.jpg", "{uploads}/1/1234567890.jpg", "{uploads}/1/123456789",
        "{uploads}/1/123456789012345678901", "{uploads}/1/{number}\n", "{uploads}/1/{number}\0",
        "{uploads}/1/-000000001", "{uploads}/1/００００００００００", "{uploads}x/1/{number}",
        "{secret}/1/{number}", "secret/1/{number}", "1/{number}", "/1/{number}", "/etc/passwd",
        "/dev/zero", " {uploads}/1/{number}", "file://{uploads}/1/{number}", "€",
    ],
)  # fmt: skip
def test_any_other_path_is_refused_unopened(
    uploads: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (uploads / "0000000002").write_bytes(b"too high")
    (uploads / "1" / "2").mkdir()
    (uploads / "1" / "2" / "0000000003").write_bytes(b"too low")
    (uploads / NUMBER).write_bytes(b"too high")
    monkeypatch.setattr(os, "open", None)
    monkeypatch.chdir(uploads.parent)
    named = path.format(uploads=uploads, secret=uploads.parent / "secret", number=NUMBER)
    with pytest.raises(InvalidPhotoException, match="which is not a file in the upload folder"):
        read(named)


@pytest.mark.parametrize("folder", [None, "", "/", "//", "uploads", "./uploads"])
def test_without_an_upload_folder_no_file_is_read(
    uploads: Path, monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    monkeypatch.chdir(uploads.parent)
    if folder is None:
        monkeypatch.delenv("CATSDOGS_UPLOADS")
    else:
        monkeypatch.setenv("CATSDOGS_UPLOADS", folder)
    monkeypatch.setattr(os, "open", None)
    for path in (uploads / "1" / NUMBER, f"uploads/1/{NUMBER}", f"/1/{NUMBER}"):
        with pytest.raises(InvalidPhotoException, match=r"no upload folder \(CATSDOGS_UPLOADS\)"):
            read(path)


def test_symbolic_links_are_not_followed(uploads: Path) -> None:
    secret = uploads.parent / "secret"
    (uploads / "1" / "0000000002").symlink_to(secret / "1" / NUMBER)
    (uploads / "1" / "0000000003").symlink_to(uploads / "1" / NUMBER)  # not even inside
    (uploads / "2").symlink_to(secret / "1")
    (uploads / "3").symlink_to(uploads / "1")
    for below in ("1/0000000002", "1/0000000003", f"2/{NUMBER}", f"3/{NUMBER}"):
        with pytest.raises(InvalidPhotoException, match="not a regular file"):
            read(uploads / below)
    uploads.rename(uploads.with_name("elsewhere"))
    uploads.symlink_to(uploads.with_name("elsewhere"))
    with pytest.raises(InvalidPhotoException, match="not a regular file"):
        read(uploads / "1" / NUMBER)


@pytest.mark.usefixtures("in_time")
def test_what_is_no_regular_file_is_refused_at_once(uploads: Path) -> None:
    folder = uploads / "1"
    os.mkfifo(folder / "0000000002")
    (folder / "0000000003").mkdir()
    os.mkfifo(uploads / "pipe")
    (uploads / "file").touch()
    for below in ("1/0000000002", "1/0000000003", f"pipe/{NUMBER}", f"file/{NUMBER}"):
        with pytest.raises(InvalidPhotoException, match="not a regular file in a regular folder"):
            read(uploads / below)


def test_what_is_no_folder_is_not_even_opened_as_one(
    uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening some devices has side effects."""
    (uploads / "file").touch()
    opened = []
    open_file = os.open

    def watched(name: bytes, flags: int, *, dir_fd: int | None = None) -> int:
        descriptor = open_file(name, flags, dir_fd=dir_fd)
        opened.append(name)
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    with pytest.raises(InvalidPhotoException, match="not a regular file"):
        read(uploads / "file" / NUMBER)
    assert opened == [os.fsencode(uploads)]


def test_a_socket_is_refused(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(uploads / "1")  # the path of a socket may have some 100 bytes
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("0000000002")
        with pytest.raises(InvalidPhotoException, match="not a regular file"):
            read(uploads / "1/0000000002")


def test_a_device_is_refused(uploads: Path) -> None:
    try:
        os.mknod(uploads / "1/0000000002", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("needs root")
    with pytest.raises(InvalidPhotoException, match="not a regular file"):
        read(uploads / "1/0000000002")


def test_a_file_over_the_limit_is_refused_unread(uploads: Path) -> None:
    path = uploads / "1" / NUMBER
    os.truncate(path, MAX_UPLOAD_BYTES)
    assert len(read(path)) == MAX_UPLOAD_BYTES == int(properties()["max_request_size"])
    os.truncate(path, MAX_UPLOAD_BYTES + 1)
    with pytest.raises(
        InvalidPhotoException,
        match=f"has {MAX_UPLOAD_BYTES + 1} bytes; the limit is {MAX_UPLOAD_BYTES}",
    ):
        read(path)


def test_too_long_a_name_is_the_paths_fault(uploads: Path) -> None:
    with pytest.raises(InvalidPhotoException, match="not a regular file"):
        read(f"{uploads}/{'x' * 300}/{NUMBER}")


@pytest.mark.parametrize("below", ["1/0000000002", f"2/{NUMBER}"])
def test_a_file_or_its_folder_that_is_not_there_is_gone(uploads: Path, below: str) -> None:
    with pytest.raises(UploadGoneException, match="its client has disconnected"):
        read(uploads / below)


def test_an_upload_deleted_while_it_is_read_is_read_to_its_end(uploads: Path) -> None:
    path = uploads / "1" / NUMBER
    with open_upload(str(path)) as file:
        path.unlink()
        assert file.read() == b"photo"


def test_a_missing_upload_folder_is_the_servers_fault(uploads: Path) -> None:
    uploads.rename(uploads.with_name("elsewhere"))
    with pytest.raises(ServiceUnavailableException, match="No such file or directory"):
        read(uploads / "1" / NUMBER)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOSPC])
def test_what_the_system_fails_at_is_the_servers_fault(
    uploads: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = str(uploads / "1" / NUMBER)
    reason = os.strerror(number)
    with (
        pytest.raises(ServiceUnavailableException, match=f"can't be read: {reason}; try again"),
        open_upload(path),
    ):
        raise OSError(number, reason)

    def fail(name: bytes, *_: object, **__: object) -> int:
        raise OSError(number, reason, name)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(ServiceUnavailableException, match=reason):
        read(path)


def test_a_folder_exchanged_for_a_link_meanwhile_leads_nowhere(
    uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open
    exchanged = []

    def exchange(name: bytes, flags: int, *, dir_fd: int | None = None) -> int:
        descriptor = open_file(name, flags, dir_fd=dir_fd)
        if name == b"1":
            (uploads / "1").rename(uploads / "2")
            (uploads / "1").symlink_to(uploads.parent / "secret" / "1")
            exchanged.append(name)
        return descriptor

    monkeypatch.setattr(os, "open", exchange)
    assert read(uploads / "1" / NUMBER) == b"photo"
    assert exchanged


PIECES = ["", ".", "..", "1", "2", "link", "secret", "uploads", NUMBER, "0000000002", "0000000003"]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=6), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=500)
def test_whatever_the_path_nothing_outside_is_opened(
    uploads: Path, pieces: list[str], data: st.DataObject
) -> None:
    secret = uploads.parent / "secret"
    if not (uploads / "link").is_symlink():
        (uploads / "link").symlink_to(secret / "1")
        (uploads / "1" / "0000000002").symlink_to(secret / "1" / NUMBER)
        (uploads / "1" / "0000000003").write_bytes(b"another photo")
    inside = [uploads, *uploads.rglob("*")]
    allowed = {(path.lstat().st_dev, path.lstat().st_ino) for path in inside}
    start = data.draw(st.sampled_from([f"{uploads}/1", str(uploads), "/", "", str(secret)]))
    path = "/".join([start, *pieces])
    opened = []
    open_file = os.open

    def watched(*args: object, **options: object) -> int:
        descriptor = open_file(*args, **options)  # type: ignore[arg-type]
        status = os.fstat(descriptor)
        opened.append((status.st_dev, status.st_ino))
        return descriptor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", watched)
        try:
            content = read(path)
        except (InvalidPhotoException, UploadGoneException):
            content = b""
    assert set(opened) <= allowed
    assert content in (b"", b"photo", b"another photo")
    assert bool(content) == (path in (f"{uploads}/1/{NUMBER}", f"{uploads}/1/0000000003"))
