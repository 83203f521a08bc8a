"""What all peers use: the released network, and straightforward preprocessing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from training.model import load_network

WEIGHTS = Path(__file__).parents[2] / "models/catsdogs.pt"
CARD = json.loads(WEIGHTS.with_suffix(".json").read_text())
TRANSFORM = v2.Compose(
    [
        v2.ToImage(),
        v2.Resize((CARD["input_size"], CARD["input_size"]), antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(CARD["mean"], CARD["std"]),
    ]
)
# With CPU pinning, both processes would run on the same core.
CONFIG = {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
Model = Callable[[torch.Tensor], torch.Tensor]  # photos (N, 3, 224, 224) to probabilities


def prepared(photo: Image.Image) -> torch.Tensor:
    return TRANSFORM(photo.convert("RGB"))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def load_model(backend: str) -> Model:
    """The network on one thread, eager or in OpenVINO with its default precision."""
    torch.set_num_threads(1)
    network = load_network(torch.load(WEIGHTS, weights_only=True), len(CARD["classes"]))
    if backend == "eager":
        with_grad_off = torch.inference_mode()(network)
        return lambda photos: F.softmax(with_grad_off(photos) / CARD["temperature"], dim=1)
    import openvino

    size = CARD["input_size"]
    graph = openvino.convert_model(network, example_input=torch.zeros(1, 3, size, size))
    compiled = openvino.compile_model(graph, "CPU", CONFIG)
    return lambda photos: F.softmax(
        torch.from_numpy(compiled(photos.numpy())[0]) / CARD["temperature"], dim=1
    )


def answer(probabilities: torch.Tensor) -> dict[str, object]:
    best = int(probabilities.argmax())
    return {
        "label": CARD["classes"][best],
        "confidence": round(float(probabilities[best]), 4),
        "probabilities": dict(zip(CARD["classes"], probabilities.tolist(), strict=True)),
    }
