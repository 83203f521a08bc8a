from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from handler import backend
from handler.backend import Backend, load_backend, write_graph
from handler.photo import decode_photo
from tests.conftest import REPOSITORY
from training.model import CautiousClassifier, load_classifier
from training.not_pets import not_pets

WEIGHTS = REPOSITORY / "models/catsdogs.pt"
CARD = json.loads(WEIGHTS.with_suffix(".json").read_text())
BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def classifier() -> CautiousClassifier:
    return load_classifier(WEIGHTS, CARD)


def load(folder: Path, **options: Any) -> tuple[str, Backend]:
    return load_backend(classifier, CARD["activation_ranges"], folder, None, options)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A cat, turned, mirrored, dimmed and in its colours' negative, and 48 pictures of no pet."""
    cat = decode_photo((REPOSITORY / "tests/pictures/cat.jpg").read_bytes())
    turned = [np.rot90(cat, turns) for turns in range(4)]
    mirrored = [picture[:, ::-1] for picture in turned]
    dimmed = [picture // 2 for picture in turned + mirrored]
    others = [picture for _, picture in not_pets()][::5][:48]
    return np.stack(turned + mirrored + dimmed + [255 - cat] + others)


@pytest.fixture(scope="module")
def exact(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the released weights say in PyTorch and float32."""
    name, run = load(Path("unused"), backend="pytorch")
    assert name == "PyTorch f32"
    return run(pixels)


@pytest.mark.parametrize(
    ("precision", "tolerance", "sure"),
    [
        ("f32", 1e-4, 0.52),
        pytest.param(
            "bf16", 0.02, 0.52, marks=pytest.mark.skipif(not BF16, reason="no bfloat16 units")
        ),
        ("int8", 0.1, 0.6),
    ],
)
def test_the_compiled_classifier_says_what_pytorch_says(
    precision: str,
    tolerance: float,
    sure: float,
    pixels: np.ndarray,
    exact: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
) -> None:
    name, run = load(tmp_path, precision=precision)
    assert name == f"OpenVINO {precision}"
    passes = [run(pixels[start : start + 8]) for start in range(0, len(pixels), 8)]
    probabilities, strange = (np.concatenate(parts) for parts in zip(*passes, strict=True))
    assert np.abs(probabilities - exact[0]).max() < tolerance
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    clear = exact[0].max(1) > sure
    assert (probabilities.argmax(1) == exact[0].argmax(1))[clear].all()
    limit = CARD["strangeness"]["limit"]
    clear = np.abs(exact[1] / limit - 1) > 0.1
    assert ((strange > limit) == (exact[1] > limit))[clear].all()


def test_a_photo_gets_the_same_answer_in_any_company(pixels: np.ndarray, tmp_path: Path) -> None:
    _, run = load(tmp_path)
    together = run(pixels[:8])
    for number in (0, 7):
        for one, of_eight in zip(run(pixels[number : number + 1]), together, strict=True):
            assert one[0] == pytest.approx(of_eight[number], abs=1e-4)


def test_answers_are_not_overwritten_by_the_next_ones(pixels: np.ndarray, tmp_path: Path) -> None:
    _, run = load(tmp_path)
    first, _ = run(pixels[:1])
    kept = first.copy()
    run(pixels[-1:])
    assert np.array_equal(first, kept)


def test_only_the_first_worker_converts(tmp_path: Path) -> None:
    load(tmp_path)
    content = sorted(path.name for path in tmp_path.iterdir())
    assert content == ["int8"]

    def refuse() -> CautiousClassifier:
        raise AssertionError("converted again")

    name, _ = load_backend(refuse, CARD["activation_ranges"], tmp_path, None, {})
    assert name == "OpenVINO int8"


def test_of_two_workers_that_convert_at_once_one_wins_and_nothing_is_left(tmp_path: Path) -> None:
    graph = tmp_path / "float/graph.xml"
    write_graph(classifier(), {}, graph)
    size = graph.stat().st_size
    write_graph(classifier(), {}, graph)
    assert graph.stat().st_size == size
    assert list(tmp_path.iterdir()) == [graph.parent]


def test_without_openvino_pytorch_answers_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    name, _ = load(tmp_path)
    assert name == "PyTorch f32"
    assert "OpenVINO is not installed" in caplog.text


@pytest.mark.parametrize("options", [{"backend": "onnx"}, {"precision": "f16"}])
def test_a_wrong_choice_is_answered_with_the_right_ones(
    options: dict[str, str], tmp_path: Path
) -> None:
    ((key, value),) = options.items()
    with pytest.raises(RuntimeError, match=f"{key} is {value}; take one of .*, "):
        load(tmp_path, **options)
