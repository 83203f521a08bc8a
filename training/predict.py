"""Classify photos with the handler's own code, without a server.

python -m training predict tests/pictures/cat.jpg
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ts.context import Context, RequestProcessor

from handler.catsdogs_handler import CatsDogsHandler
from training.errors import UsageError, one_line
from training.weights import MODEL_NAME, check_weights


def predict(files: Sequence[Path], weights: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each file with the answer that the server would give, prediction or error.

    A file that can't be read has an error too. Raises UsageError when the weights don't fit.
    """
    handler, context = load_handler(weights, check_weights(weights))
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            yield file, {"message": f"can't be read: {error.strerror}"}
            continue
        context.request_processor = [RequestProcessor({})]
        (answer,) = handler.handle([{"body": content}], context)
        yield file, answer


def load_handler(weights: Path, card: dict[str, Any]) -> tuple[CatsDogsHandler, Context]:
    """The handler with these weights and their description, as a worker on the CPU has it.

    Raises UsageError for weights that it refuses, as those that answer with no numbers.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{MODEL_NAME}.pt").symlink_to(weights.resolve())
        Path(folder, f"{MODEL_NAME}.json").write_text(json.dumps(card))
        context = Context(
            model_name=MODEL_NAME,
            model_dir=folder,
            manifest={"model": {"modelVersion": card["version"]}},
            batch_size=1,
            gpu=None,
            mms_version=None,
        )
        handler = CatsDogsHandler()
        try:
            handler.initialize(context)
        except RuntimeError as error:
            raise UsageError(f"{weights}: can't be served: {one_line(error)}") from error
    return handler, context
