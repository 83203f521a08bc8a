from __future__ import annotations

from pathlib import Path

import torch

from training.dataset import Split
from training.inference import activation_ranges
from training.model import SimpleCNN, normalise
from training.params import Params


def test_ranges_hold_every_input_of_every_layer_and_no_more(index: Path, params: Params) -> None:
    split = Split(index, "train")
    torch.manual_seed(0)
    network = SimpleCNN().eval()
    ranges = activation_ranges(network, split, len(split), params.train)
    assert list(ranges) == ["conv1", "conv2", "conv3", "conv4", "fc1", "fc2", "fc3"]
    pixels = normalise(split.pixel_batch(range(len(split))), params.train.mean, params.train.std)
    assert ranges["conv1"] == [pixels.min().item(), pixels.max().item()]
    with torch.inference_mode():
        maps = network.maps(pixels)
        embedded = network.embed(maps)
    for name, values in (("fc1", maps), ("fc3", embedded)):
        low, high = ranges[name]
        assert low == 0
        assert abs(high - values.max().item()) < 1e-4


def test_a_network_is_left_without_hooks(index: Path, params: Params) -> None:
    network = SimpleCNN().eval()
    activation_ranges(network, Split(index, "train"), 4, params.train)
    assert not any(layer._forward_pre_hooks for layer in network.modules())
