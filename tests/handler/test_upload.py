from __future__ import annotations

import gc
import io
import weakref
from typing import Any

import pytest
from PIL import ExifTags, Image

from handler.photo import InvalidPhotoException
from handler.upload import Upload, read_upload
from testing.hostile import good_pictures


class Batch:
    """A large object in the frames of an error."""


def refused(kept: list[weakref.ref[Batch]], causes: int) -> InvalidPhotoException:
    """An error with this many others before it, in turn as its cause and its context.

    Each frame that it passed knows it and a Batch: a ring.
    """

    def fail() -> None:
        batch = Batch()
        kept.append(weakref.ref(batch))
        error = InvalidPhotoException("refused")
        try:
            if earlier is not None:
                raise earlier
        except InvalidPhotoException:
            if causes % 2:
                raise error from earlier
            raise error  # noqa: B904
        raise error

    earlier = refused(kept, causes - 1) if causes else None
    try:
        fail()
    except InvalidPhotoException as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("causes", range(4))
def test_an_upload_with_an_error_keeps_nothing_that_the_error_passed(causes: int) -> None:
    kept: list[weakref.ref[Batch]] = []
    gc.disable()
    try:
        error = refused(kept, causes)
        assert all(batch() is not None for batch in kept)
        upload = Upload(error)
        assert [batch() for batch in kept] == [None] * (causes + 1)
        assert str(upload.decoded) == "refused"
    finally:
        gc.enable()


@pytest.mark.parametrize("name", good_pictures())
def test_a_photo_is_opened_and_decoded_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, decoders = [], []
    open_image, get_decoder = Image.open, Image._getdecoder

    def count_open(*args: Any, **options: Any) -> Image.Image:
        opened.append(name)
        return open_image(*args, **options)

    def count_decoder(mode: str, decoder: str, *args: Any) -> Any:
        decoders.append(decoder)
        return get_decoder(mode, decoder, *args)

    data = good_pictures()[name]
    monkeypatch.setattr(Image, "open", count_open)
    monkeypatch.setattr(Image, "_getdecoder", count_decoder)
    assert read_upload(data).size is not None
    in_a_child = name.startswith(("TIFF", "AVIF", "HEIC"))
    assert opened == ([] if in_a_child else [name])  # in this process
    assert len(decoders) == len(set(decoders))  # of a BMP with RLE two, one in the other


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_upload_has_its_size_as_sent_and_that_of_its_middle_upright(
    format_name: str, orientation: int
) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (90, 30)).save(buffer, format_name, exif=exif)
    upload = read_upload(buffer.getvalue())
    assert upload.size == (90, 30)
    assert upload.seen_size == ((30, 40) if orientation == 6 else (40, 30))
