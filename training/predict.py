"""Classify photos with the handler's code, without a server.

python -m training predict tests/pictures/cat.jpg
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from handler.photo import PhotoException
from handler.predictor import Predictor
from handler.upload import read_upload
from training.files import UsageError, one_line
from training.weights import check_weights


def predict(files: Sequence[Path], weights: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each file with the server's answer: a prediction or an error.

    An unreadable file gets an error too. Raises UsageError if the weights don't fit.
    """
    predictor = load_predictor(weights, check_weights(weights))
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            yield file, {"message": f"can't be read: {error.strerror}"}
            continue
        photo = read_upload(content).decoded
        if isinstance(photo, PhotoException):
            yield file, photo.answer()
            continue
        (probabilities,), (score,) = predictor.infer([photo])
        yield file, predictor.prediction(probabilities, score)


def load_predictor(weights: Path, card: dict[str, Any]) -> Predictor:
    """The predictor with these weights and their JSON file's content, as in a worker on a CPU.

    Raises UsageError for weights that it refuses, for example if answers are NaN.
    """
    with tempfile.TemporaryDirectory() as graphs:
        try:
            return Predictor(weights, card, Path(graphs))
        except RuntimeError as error:
            raise UsageError(f"{weights}: can't be served: {one_line(error)}") from error
