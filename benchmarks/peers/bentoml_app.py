"""BentoML: bentoml serve benchmarks.peers.bentoml_app:CatsDogs"""

from __future__ import annotations

import os

import bentoml
import torch
from PIL.Image import Image

from benchmarks.peers.model import answer, load_model, prepared


@bentoml.service(workers=2)
class CatsDogs:
    def __init__(self) -> None:
        self.model = load_model(os.environ["PEER_BACKEND"])

    @bentoml.api(batchable=True, max_batch_size=8)
    def predict(self, photos: list[Image]) -> list[dict]:
        probabilities = self.model(torch.stack([prepared(photo) for photo in photos]))
        return [answer(row) for row in probabilities]
