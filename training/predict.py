"""Classify photos with the handler's own code, without a server.

python -m training predict tests/pictures/cat.jpg
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ts.context import Context, RequestProcessor

from handler.catsdogs_handler import CatsDogsHandler
from training.params import UsageError
from training.release import check_weights


def predict(files: Sequence[Path], weights: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each file with the answer that the server would give, prediction or error.

    Raises UsageError when the weights don't fit, or for a file that can't be read.
    """
    card = check_weights(weights)
    context = Context(
        model_name="catsdogs",
        model_dir=str(weights.parent),
        manifest={"model": {"modelVersion": card["version"]}},
        batch_size=1,
        gpu=None,
        mms_version=None,
    )
    handler = CatsDogsHandler()
    handler.initialize(context)
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UsageError(f"{file}: can't be read: {error.strerror}") from error
        context.request_processor = [RequestProcessor({})]
        (answer,) = handler.handle([{"body": content}], context)
        yield file, answer
