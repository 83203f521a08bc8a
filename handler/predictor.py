"""The calibrated model: from decoded photos to answers, without a server."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from handler.backend import load_backend
from handler.integrity import check_digests, check_input_size
from handler.photo import SIDE
from training.model import CautiousClassifier, load_classifier

# A batch of 8 requests may hold 64 photos, whose first convolution alone would take 400 MB.
PHOTOS_PER_PASS = 8


def load(
    folder: Path, *, version: str, gpu: int | None = None, options: dict[str, Any] | None = None
) -> Predictor:
    """Load the model of an unpacked archive: catsdogs.pt and its description, catsdogs.json.

    Raises RuntimeError if they don't match, and like `Predictor`.
    """
    card: dict[str, Any] = json.loads((folder / "catsdogs.json").read_text())
    check_digests(folder, card)
    return Predictor(
        folder / "catsdogs.pt", card, folder, version=version, gpu=gpu, options=options
    )


class Predictor:
    """Predicts the class of decoded photos, with calibrated confidence."""

    def __init__(
        self,
        weights: Path,
        card: dict[str, Any],
        graphs: Path,
        *,
        version: str | None = None,
        gpu: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Load `weights`, described by `card` (their JSON file), on the CPU or a CUDA GPU.

        `graphs` is the folder for converted graphs. `version` replaces the card's in answers.
        `options` are those of model-config.yaml. Raises RuntimeError for another input size, an
        unknown backend or precision, and weights of a diverged training, which give NaN.
        """
        check_input_size(card)
        self.weights, self.card = weights, card
        self.version: str = card["version"] if version is None else version
        self.classes: list[str] = card["classes"]
        self.threshold: float = card["threshold"]
        self.ood_limit: float = card["ood_score"]["limit"]
        self.backend, self.run = load_backend(
            lambda: load_classifier(weights, card),
            card["activation_ranges"],
            graphs,
            gpu,
            options or {},
        )
        for photos in range(1, PHOTOS_PER_PASS + 1):  # the first pass of each batch size is slower
            probabilities, _ = self.infer([np.zeros((SIDE, SIDE, 3), np.uint8)] * photos)
        if not np.isfinite(probabilities).all():
            raise RuntimeError(f"{weights.name}: probabilities are NaN; use other weights")

    def infer(self, pixels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (N, classes) and OOD scores (N,) of photos, each uint8 (224, 224, 3)."""
        if not pixels:
            return np.empty((0, len(self.classes)), np.float32), np.empty(0, np.float32)
        passes = [
            self.run(np.stack(pixels[start : start + PHOTOS_PER_PASS]))
            for start in range(0, len(pixels), PHOTOS_PER_PASS)
        ]
        probabilities, scores = (np.concatenate(parts) for parts in zip(*passes, strict=True))
        return probabilities, scores

    def certain(self, confidence: np.ndarray, ood_score: np.ndarray) -> np.ndarray:
        """Whether to trust an answer: high confidence, and an in-distribution photo."""
        return (confidence >= self.threshold) & (ood_score <= self.ood_limit)

    def prediction(self, probabilities: np.ndarray, ood_score: np.ndarray) -> dict[str, Any]:
        """The JSON answer for one photo, from its row of `infer`."""
        best = int(probabilities.argmax())
        confidence = float(probabilities[best])
        return {
            "label": self.classes[best],
            "confidence": round(confidence, 4),
            "probabilities": {
                name: round(float(probability), 4)
                for name, probability in zip(self.classes, probabilities, strict=True)
            },
            "certain": bool(self.certain(probabilities[best], ood_score)),
            "model_version": self.version,
        }

    @cached_property
    def classifier(self) -> CautiousClassifier:
        """The PyTorch classifier for /explain, loaded at its first use (105 MB)."""
        classifier = load_classifier(self.weights, self.card)
        return classifier.requires_grad_(False)
