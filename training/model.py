"""The network, and the classifier that is served.

SimpleCNN has four convolutions and three linear layers. Classifier adds normalisation and a softmax
with temperature. CautiousClassifier adds an out-of-distribution (OOD) score.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

State = dict[str, torch.Tensor]
InDistribution = tuple[
    Sequence[float], Sequence[float]
]  # means and deviations of the maps' averages


class SimpleCNN(nn.Module):
    """A plain convolutional network: 26,145,922 parameters for two classes.

    `forward` takes normalised photos, float (N, 3, 224, 224), and returns logits (N, classes).
    """

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(64, 128, kernel_size=3, padding=1)
        self.conv4 = nn.Conv2d(128, 256, kernel_size=3, padding=1)
        self.bn1 = nn.BatchNorm2d(32)
        self.bn2 = nn.BatchNorm2d(64)
        self.bn3 = nn.BatchNorm2d(128)
        self.bn4 = nn.BatchNorm2d(256)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(0.5)
        self.fc1 = nn.Linear(256 * 14 * 14, 512)
        self.fc2 = nn.Linear(512, 128)
        self.fc3 = nn.Linear(128, classes)

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        return self.head(self.maps(photos))

    def maps(self, photos: torch.Tensor) -> torch.Tensor:
        """The last feature maps (N, 256, 14, 14) of normalised photos."""
        # Pooling before ReLU gives the same result, since both are monotonic, and leaves ReLU a
        # quarter of the work: training runs a fifth faster.
        x = F.relu(self.pool(self.bn1(self.conv1(photos))))
        x = F.relu(self.pool(self.bn2(self.conv2(x))))
        x = F.relu(self.pool(self.bn3(self.conv3(x))))
        return F.relu(self.pool(self.bn4(self.conv4(x))))

    def head(self, maps: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of maps (N, 256, 14, 14)."""
        logits: torch.Tensor = self.fc3(self.dropout(self.embed(maps)))
        return logits

    def embed(self, maps: torch.Tensor) -> torch.Tensor:
        """The activations (N, 128) before the last linear layer."""
        return F.relu(self.fc2(self.dropout(F.relu(self.fc1(maps.flatten(1))))))


class Classifier(nn.Module):
    """SimpleCNN with normalisation before it and a softmax with temperature after it.

    `forward` takes decoded photos, uint8 (N, 224, 224, 3), and returns probabilities, float32
    (N, classes): softmax(logits / temperature), after Guo and others 2017.
    """

    def __init__(
        self, network: SimpleCNN, mean: Sequence[float], std: Sequence[float], temperature: float
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.mean, self.std, self.temperature = mean, std, temperature

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.probabilities(self.maps(pixels))

    def maps(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network.maps(normalise(pixels.permute(0, 3, 1, 2), self.mean, self.std))

    def probabilities(self, maps: torch.Tensor) -> torch.Tensor:
        return F.softmax(self.network.head(maps) / self.temperature, dim=1)


class CautiousClassifier(Classifier):
    """The served classifier, which also returns an out-of-distribution (OOD) score.

    `forward` returns probabilities (N, classes) and OOD scores (N,), both float32.
    """

    def __init__(
        self,
        network: SimpleCNN,
        mean: Sequence[float],
        std: Sequence[float],
        temperature: float,
        in_distribution: InDistribution,
    ) -> None:
        super().__init__(network, mean, std, temperature)
        self.in_distribution = in_distribution

    def forward(  # type: ignore[override]
        self, pixels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.maps(pixels)
        return self.probabilities(maps), ood_score(maps.mean((2, 3)), *self.in_distribution)


def ood_score(
    averages: torch.Tensor, means: Sequence[float], deviations: Sequence[float]
) -> torch.Tensor:
    """Distance (N,) of averages (N, 256) of the last maps from their means over validation photos.

    It is the mean over the maps of the squared distance in standard deviations, about 1 for
    in-distribution photos: the Mahalanobis distance of Lee and others 2018, without covariances.
    """
    device = averages.device
    offset, scale = (torch.tensor(row, device=device) for row in (means, deviations))
    return ((averages - offset) / scale).square().mean(dim=1)


def normalise(photos: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalise uint8 photos (N, 3, 224, 224): (photo / 255 - mean) / std, as float32."""
    offset = 255 * torch.tensor(mean, device=photos.device).view(3, 1, 1)
    scale = 255 * torch.tensor(std, device=photos.device).view(3, 1, 1)
    return (photos.float() - offset) / scale


def load_network(state: State, classes: int) -> SimpleCNN:
    """A SimpleCNN in evaluation mode with the weights of `state`, half precision or float32.

    Raises RuntimeError, naming the tensors, for missing or unknown names and wrong shapes.
    """
    network = SimpleCNN(classes)
    network.load_state_dict(state, strict=True)
    return network.eval()


def load_classifier(weights: Path, card: dict[str, Any]) -> CautiousClassifier:
    """The served classifier, from a state dict and its JSON file."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    known = card["ood_score"]
    return CautiousClassifier(
        load_network(state, len(card["classes"])),
        card["mean"],
        card["std"],
        card["temperature"],
        (known["means"], known["deviations"]),
    )


def count_parameters(classes: int) -> int:
    """The number of SimpleCNN's parameters."""
    with torch.device("meta"):  # takes no memory
        return sum(weight.numel() for weight in SimpleCNN(classes).parameters())


def half_precision(state: State) -> State:
    """A state dict as released: on the CPU, with float16 instead of float32."""
    on_cpu = {name: tensor.cpu() for name, tensor in state.items()}
    return {name: t.half() if t.is_floating_point() else t for name, t in on_cpu.items()}
