from __future__ import annotations

import gc
import weakref

import pytest

from handler.photo import InvalidPhotoException
from handler.upload import Upload


class Batch:
    """Something large in the frames that an error passed."""


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
        told = Upload(error)
        assert [batch() for batch in kept] == [None] * (causes + 1)
        assert str(told.decoded) == "refused"
    finally:
        gc.enable()
