from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from handler import backend
from handler.backend import Backend, computes_int8, load_backend, write_graph
from handler.photo import decode_photo
from testing.repository import CARD, REPOSITORY
from training.measure import not_pets
from training.model import CautiousClassifier, load_classifier

WEIGHTS = REPOSITORY / "models/catsdogs.pt"
INT8 = computes_int8()
BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def classifier() -> CautiousClassifier:
    return load_classifier(WEIGHTS, CARD)


def load(folder: Path, **options: Any) -> tuple[str, Backend]:
    return load_backend(classifier, CARD["activation_ranges"], folder, None, options)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A cat, rotated, mirrored, darkened and as a negative, and 48 pictures without a pet."""
    cat = decode_photo((REPOSITORY / "tests/pictures/cat.jpg").read_bytes())
    turned = [np.rot90(cat, turns) for turns in range(4)]
    mirrored = [picture[:, ::-1] for picture in turned]
    dimmed = [picture // 2 for picture in turned + mirrored]
    others = [picture for _, picture in not_pets()][::5][:48]
    return np.stack(turned + mirrored + dimmed + [255 - cat] + others)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder in which workers of both precisions have started."""
    folder = tmp_path_factory.mktemp("model")
    for precision in ("int8", "f32"):
        load(folder, precision=precision)
    return folder


@pytest.fixture(scope="module")
def exact(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of the released weights in PyTorch and float32."""
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
        pytest.param(
            "int8", 0.1, 0.6, marks=pytest.mark.skipif(not INT8, reason="no units for int8")
        ),
    ],
)
def test_the_compiled_classifier_says_what_pytorch_says(
    precision: str,
    tolerance: float,
    sure: float,
    pixels: np.ndarray,
    exact: tuple[np.ndarray, np.ndarray],
    converted: Path,
) -> None:
    name, run = load(converted, precision=precision)
    assert name == f"OpenVINO {precision}"
    passes = [run(pixels[start : start + 8]) for start in range(0, len(pixels), 8)]
    probabilities, scores = (np.concatenate(parts) for parts in zip(*passes, strict=True))
    assert np.abs(probabilities - exact[0]).max() < tolerance
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    clear = exact[0].max(1) > sure
    assert (probabilities.argmax(1) == exact[0].argmax(1))[clear].all()
    limit = CARD["ood_score"]["limit"]
    clear = np.abs(exact[1] / limit - 1) > 0.1
    assert ((scores > limit) == (exact[1] > limit))[clear].all()


@pytest.mark.parametrize("unit", ["avx512_vnni", "avx_vnni", "amx_int8", "avx2"])
def test_int8_is_chosen_only_where_sums_of_it_do_not_overflow(
    unit: str, monkeypatch: pytest.MonkeyPatch, converted: Path
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True})
    name, _ = load(converted)
    assert name == f"OpenVINO {'f32' if unit == 'avx2' else 'int8'}"


def test_a_photo_gets_the_same_answer_in_any_company(pixels: np.ndarray, converted: Path) -> None:
    _, run = load(converted)
    together = run(pixels[:8])
    for number in (0, 7):
        for one, of_eight in zip(run(pixels[number : number + 1]), together, strict=True):
            assert one[0] == pytest.approx(of_eight[number], abs=1e-4)


def test_answers_are_not_overwritten_by_the_next_ones(pixels: np.ndarray, converted: Path) -> None:
    _, run = load(converted)
    first, _ = run(pixels[:1])
    kept = first.copy()
    run(pixels[-1:])
    assert np.array_equal(first, kept)


def test_only_the_first_worker_converts(converted: Path) -> None:
    assert sorted(path.name for path in converted.iterdir()) == ["float", "int8"]

    def refuse() -> CautiousClassifier:
        raise AssertionError("converted again")

    for precision in ("int8", "f32"):
        options = {"precision": precision}
        load_backend(refuse, CARD["activation_ranges"], converted, None, options)


def test_of_two_workers_that_convert_at_once_one_wins_and_nothing_is_left(converted: Path) -> None:
    graph = converted / "float/graph.xml"
    written = graph.stat()
    write_graph(classifier(), {}, graph)
    assert graph.stat() == written
    assert sorted(path.name for path in converted.iterdir()) == ["float", "int8"]


def test_openvino_reports_nothing_to_anyone(tmp_path: Path) -> None:
    program = (
        "import training, openvino;"
        "from openvino.tools.ovc.telemetry_utils import tm, init_ovc_telemetry;"
        "init_ovc_telemetry(); print(tm.__name__)"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert output.strip() == "openvino.tools.ovc.telemetry_stub"
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(RuntimeError, match=f"{key} is {value}; use one of .*, "):
        load(tmp_path, **options)
