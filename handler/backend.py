"""How the classifier computes: compiled by OpenVINO on a processor, in PyTorch on a GPU.

`model-config.yaml` chooses by `backend`, `precision` and `threads`.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.photo import SIDE
from training.model import CautiousClassifier

# Photos, uint8 (N, 224, 224, 3), to probabilities (N, classes) and strangeness (N,), float32.
Backend = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# Of each layer's input, by layer in the order of computation: lowest and highest value.
Ranges = dict[str, list[float]]

BACKENDS = ("openvino", "pytorch")
PRECISIONS = ("auto", "int8", "bf16", "f32")
# Processors have one of these where they add products of 8-bit integers in 32 bits. AVX2 alone adds
# pairs of them in 16, which overflows: it took 1.6 points of accuracy and brought no speed.
INT8_UNITS = ("avx512_vnni", "avx_vnni", "amx_int8")
INT8_GRAPH, FLOAT_GRAPH = "int8/graph.xml", "float/graph.xml"
LAYERS = ("Convolution", "MatMul")  # OpenVINO's names of what SimpleCNN has weights for

logger = logging.getLogger(__name__)


def load_backend(
    load_classifier: Callable[[], CautiousClassifier],
    ranges: Ranges,
    folder: Path,
    gpu: int | None,
    options: dict[str, Any],
) -> tuple[str, Backend]:
    """The backend that `options` (of model-config.yaml) ask for, and what to call it.

    PyTorch runs where TorchServe gives a GPU and where OpenVINO is not installed. `folder` holds
    the classifier converted to int8; for another precision the first worker leaves it there, since
    conversion takes seconds.
    Raises RuntimeError for a backend or precision that there is not.
    """
    backend = choice(options, "backend", BACKENDS)
    precision = choice(options, "precision", PRECISIONS)
    if precision == "auto":
        precision = "int8" if computes_int8() else "f32"
    threads = int(options.get("threads", 1))
    torch.set_num_threads(threads)
    if gpu is not None:  # untested: no GPU was at hand
        return f"PyTorch on cuda:{gpu}", in_pytorch(load_classifier(), f"cuda:{gpu}")
    if backend == "openvino" and not find_spec("openvino"):
        logger.warning("OpenVINO is not installed: PyTorch takes several times as long")
        backend = "pytorch"
    if backend == "pytorch":
        return "PyTorch f32", in_pytorch(load_classifier(), "cpu")
    graph = folder / (INT8_GRAPH if precision == "int8" else FLOAT_GRAPH)
    if not graph.exists():
        write_graph(load_classifier(), ranges if precision == "int8" else {}, graph)
        give_back_memory()
    return f"OpenVINO {precision}", in_openvino(graph, precision, threads)


def choice(options: dict[str, Any], key: str, known: tuple[str, ...]) -> str:
    """The value of `key`, by default the first one known."""
    value = str(options.get(key, known[0]))
    if value not in known:
        raise RuntimeError(f"model-config.yaml: {key} is {value}; take one of {', '.join(known)}")
    return value


def computes_int8() -> bool:
    """Whether this processor gains by 8-bit integers and computes rightly with them."""
    features = torch.cpu.get_capabilities()
    return any(features.get(unit, False) for unit in INT8_UNITS)


def in_pytorch(classifier: CautiousClassifier, device: str) -> Backend:
    """The classifier as it stands, in float32."""
    classifier = classifier.to(device)

    @torch.inference_mode()
    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities, strange = classifier(torch.from_numpy(pixels).to(device))
        return probabilities.cpu().numpy(), strange.cpu().numpy()

    return run


def in_openvino(graph: Path, precision: str, threads: int) -> Backend:
    """The classifier of `write_graph`, compiled for this processor."""
    import openvino

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # each worker would pin itself to the same core
        # What is not computed in int8 is little.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    compiled = openvino.Core().compile_model(graph, "CPU", config)

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities, strange = compiled(pixels).values()
        return probabilities, strange

    return run


def write_graph(classifier: CautiousClassifier, ranges: Ranges, path: Path) -> None:
    """Convert the classifier for OpenVINO, for any number of photos, and save it.

    With `ranges`, its layers are to be computed in int8.
    """
    import openvino

    photos = torch.export.Dim("photos", min=1, max=4096)
    example = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    program = torch.export.export(classifier, (example,), dynamic_shapes=({0: photos},))
    graph = openvino.convert_model(program)
    if ranges:
        quantise(graph, ranges)
    # Workers start at once. The graph is two files, so a whole folder is moved into place.
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent.parent, prefix=".converting-"))
    try:
        openvino.save_model(graph, scratch / path.name, compress_to_fp16=False)
        os.rename(scratch, path.parent)
    except OSError:
        if not path.exists():  # else another worker was quicker
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def quantise(graph: Any, ranges: Ranges) -> None:
    """Make 8-bit integers of inputs and weights of the layers in an openvino.Model.

    Inputs are rounded to 256 levels of the range that they had in calibration, weights to 255
    levels a channel, so that 0 stays 0 in both (Jacob and others 2018). OpenVINO computes layers
    between such roundings in integers.
    """
    from openvino import opset13 as ops

    layers = [op for op in graph.get_ordered_ops() if op.get_type_name() in LAYERS]
    for layer, (low, high) in zip(layers, ranges.values(), strict=True):
        step = (high - low) / 255
        zero = round(-low / step)
        ends = np.float32(-zero * step), np.float32((255 - zero) * step)
        rounded = ops.fake_quantize(layer.input_value(0), *ends, *ends, levels=256)
        layer.input(0).replace_source_output(rounded.output(0))

        weights = layer.input_value(1).get_node().get_data()
        steps = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True) / 127
        steps[steps == 0] = 1  # a channel without weights stays one
        integers = ops.convert(ops.constant(np.rint(weights / steps).astype(np.int8)), "f32")
        layer.input(1).replace_source_output(ops.multiply(integers, steps).output(0))


def give_back_memory() -> None:
    """Hand what the conversion has freed back to the kernel; glibc would keep it."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
