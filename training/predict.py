"""Classify photos with the handler's own code, without a server.

python -m training predict tests/pictures/cat.jpg
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ts.context import Context, RequestProcessor

from handler.catsdogs_handler import CatsDogsHandler
from training.archive import MODEL_NAME
from training.weights import check_weights


def predict(files: Sequence[Path], weights: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each file with the answer that the server would give, prediction or error.

    A file that can't be read has an error too. Raises UsageError when the weights don't fit.
    """
    card = check_weights(weights)
    with tempfile.TemporaryDirectory() as folder:
        for path in (weights, weights.with_suffix(".json")):
            Path(folder, f"{MODEL_NAME}{path.suffix}").symlink_to(path.resolve())
        context = Context(
            model_name=MODEL_NAME,
            model_dir=folder,
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
            yield file, {"message": f"can't be read: {error.strerror}"}
            continue
        context.request_processor = [RequestProcessor({})]
        (answer,) = handler.handle([{"body": content}], context)
        yield file, answer
