from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.model import (
    CautiousClassifier,
    Classifier,
    SimpleCNN,
    half_precision,
    load_network,
    normalise,
    ood_score,
)

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


@pytest.fixture(scope="module")
def network() -> SimpleCNN:
    torch.manual_seed(0)
    return SimpleCNN().eval()


def test_two_classes_take_26_145_922_parameters(network: SimpleCNN) -> None:
    assert sum(weight.numel() for weight in network.parameters()) == 26_145_922


def test_photos_become_one_logit_a_class(network: SimpleCNN) -> None:
    assert network(torch.zeros(3, 3, 224, 224)).shape == (3, 2)
    assert SimpleCNN(classes=5).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 5)


def test_layers_have_the_names_that_state_dicts_use(network: SimpleCNN) -> None:
    layers = [name for name, _ in network.named_children()]
    numbered = [f"{kind}{n}" for kind in ("conv", "bn") for n in range(1, 5)]
    assert layers == [*numbered, "pool", "dropout", "fc1", "fc2", "fc3"]


def test_pooling_before_relu_changes_nothing(network: SimpleCNN) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 3, 224, 224)
    expected = x
    for n in range(1, 5):
        expected = getattr(network, f"bn{n}")(getattr(network, f"conv{n}")(expected))
        expected = F.max_pool2d(F.relu(expected), 2)
    expected = F.relu(network.fc2(F.relu(network.fc1(expected.flatten(1)))))
    assert torch.allclose(network(x), network.fc3(expected), atol=1e-5)


def test_the_same_photo_gives_the_same_logits_alone_and_in_a_batch(network: SimpleCNN) -> None:
    torch.manual_seed(2)
    photos = torch.randn(4, 3, 224, 224)
    assert torch.equal(network(photos), network(photos))
    assert torch.allclose(network(photos)[2], network(photos[2:3])[0], atol=1e-5)


def test_a_state_dict_survives_the_round_trip_in_half_precision(network: SimpleCNN) -> None:
    state = half_precision(network.state_dict())
    assert {t.dtype for t in state.values()} == {torch.float16, torch.int64}
    again = load_network(state, 2)
    assert not again.training
    for name, tensor in again.state_dict().items():
        assert torch.allclose(tensor.float(), network.state_dict()[name].float(), atol=1e-3)


def test_weights_with_a_wrong_name_or_shape_are_refused(network: SimpleCNN) -> None:
    state = network.state_dict()
    with pytest.raises(RuntimeError, match="fc3"):
        load_network(state, 3)
    with pytest.raises(RuntimeError, match="extra"):
        load_network({**state, "extra": torch.zeros(1)}, 2)


def test_normalise_subtracts_the_mean_and_divides_by_the_deviation_of_each_channel() -> None:
    photos = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    normalised = normalise(photos, MEAN, STD)
    for channel in range(3):
        expected = (photos[:, channel] / 255 - MEAN[channel]) / STD[channel]
        assert torch.allclose(normalised[:, channel], expected, atol=1e-5)


def test_the_classifier_is_a_softmax_with_temperature_over_the_network(network: SimpleCNN) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    photos = torch.from_numpy(pixels)
    logits = network(normalise(photos.permute(0, 3, 1, 2), MEAN, STD))
    probabilities = Classifier(network, MEAN, STD, temperature=2.0)(photos)
    assert torch.allclose(probabilities, F.softmax(logits / 2, dim=1), atol=1e-5)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(2))


def test_the_cautious_classifier_gives_the_same_probabilities_and_the_ood_score_of_a_photo(
    network: SimpleCNN,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    photos = torch.from_numpy(pixels)
    known = ([0.1] * 256, [0.5] * 256)
    probabilities, scores = CautiousClassifier(network, MEAN, STD, 2.0, known)(photos)
    assert torch.equal(probabilities, Classifier(network, MEAN, STD, 2.0)(photos))
    maps = network.maps(normalise(photos.permute(0, 3, 1, 2), MEAN, STD)).detach().numpy()
    expected = [np.mean([((channel.mean() - 0.1) / 0.5) ** 2 for channel in one]) for one in maps]
    assert scores.tolist() == pytest.approx(expected, rel=1e-4)


def test_photos_in_distribution_have_an_ood_score_of_about_1() -> None:
    torch.manual_seed(0)
    averages = torch.randn(2000, 256) * torch.linspace(0.1, 3, 256) + torch.linspace(-1, 1, 256)
    found = ood_score(averages, averages.mean(0).tolist(), averages.std(0).tolist())
    assert found.mean().item() == pytest.approx(1, abs=0.01)
