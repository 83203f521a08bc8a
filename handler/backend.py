"""Inference backends: OpenVINO on a CPU, PyTorch on a GPU.

`backend`, `precision` and `threads` in `model-config.yaml` configure them.
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

# From photos, uint8 (N, 224, 224, 3), to probabilities (N, classes) and OOD scores (N,), float32.
Backend = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# Lowest and highest input of each layer, by layer in the order of computation.
Ranges = dict[str, list[float]]

BACKENDS = ("openvino", "pytorch")
PRECISIONS = ("auto", "int8", "bf16", "f32")
# CPUs with one of these sum products of 8-bit integers in 32 bits. AVX2 alone sums pairs of them in
# 16 bits, which overflow: that cost 1.6 points of accuracy and saved no time.
INT8_UNITS = ("avx512_vnni", "avx_vnni", "amx_int8")
INT8_GRAPH, FLOAT_GRAPH = "int8/graph.xml", "float/graph.xml"
LAYERS = ("Convolution", "MatMul")  # OpenVINO's names of layers with weights

logger = logging.getLogger(__name__)


def load_backend(
    load_classifier: Callable[[], CautiousClassifier],
    ranges: Ranges,
    folder: Path,
    gpu: int | None,
    options: dict[str, Any],
) -> tuple[str, Backend]:
    """The name of the backend that `options` (of model-config.yaml) select, and the backend.

    PyTorch is used if TorchServe assigns a GPU, and if OpenVINO is not installed. `folder` contains
    the classifier converted to int8. For another precision, the first worker converts it and stores
    it there, since conversion takes seconds. Raises RuntimeError for an unknown backend or
    precision.
    """
    backend = choice(options, "backend", BACKENDS)
    precision = choice(options, "precision", PRECISIONS)
    if precision == "auto":
        precision = "int8" if computes_int8() else "f32"
    threads = int(options.get("threads", 1))
    torch.set_num_threads(threads)
    if gpu is not None:  # never tried
        return f"PyTorch on cuda:{gpu}", in_pytorch(load_classifier(), f"cuda:{gpu}")
    if backend == "openvino" and not find_spec("openvino"):
        logger.warning(
            "OpenVINO is not installed; PyTorch is several times slower; install openvino"
        )
        backend = "pytorch"
    if backend == "pytorch":
        return "PyTorch f32", in_pytorch(load_classifier(), "cpu")
    graph = folder / (INT8_GRAPH if precision == "int8" else FLOAT_GRAPH)
    if not graph.exists():
        write_graph(load_classifier(), ranges if precision == "int8" else {}, graph)
        give_back_memory()
    return f"OpenVINO {precision}", in_openvino(graph, precision, threads)


def choice(options: dict[str, Any], key: str, known: tuple[str, ...]) -> str:
    """The value of `key`; by default the first of `known`."""
    value = str(options.get(key, known[0]))
    if value not in known:
        raise RuntimeError(f"model-config.yaml: {key} is {value}; use one of {', '.join(known)}")
    return value


def computes_int8() -> bool:
    """Whether int8 is faster on this CPU, and correct."""
    features = torch.cpu.get_capabilities()
    return any(features.get(unit, False) for unit in INT8_UNITS)


def in_pytorch(classifier: CautiousClassifier, device: str) -> Backend:
    """The unmodified classifier, in float32."""
    classifier = classifier.to(device)

    @torch.inference_mode()
    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities, scores = classifier(torch.from_numpy(pixels).to(device))
        return probabilities.cpu().numpy(), scores.cpu().numpy()

    return run


def in_openvino(graph: Path, precision: str, threads: int) -> Backend:
    """The graph of `write_graph`, compiled for this CPU."""
    import openvino

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # all workers would pin themselves to the same core
        # For the few operations that are not in int8.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    compiled = openvino.Core().compile_model(graph, "CPU", config)

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities, scores = compiled(pixels).values()
        return probabilities, scores

    return run


def write_graph(classifier: CautiousClassifier, ranges: Ranges, path: Path) -> None:
    """Convert the classifier for OpenVINO, for any batch size, and save it to `path`.

    With `ranges`, its layers run in int8.
    """
    import openvino

    photos = torch.export.Dim("photos", min=1, max=4096)
    example = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    program = torch.export.export(classifier, (example,), dynamic_shapes=({0: photos},))
    graph = openvino.convert_model(program)
    if ranges:
        quantise(graph, ranges)
    # Several workers may do this at once. A graph is two files, so a folder is moved into place.
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent.parent, prefix=".converting-"))
    try:
        openvino.save_model(graph, scratch / path.name, compress_to_fp16=False)
        os.rename(scratch, path.parent)
    except OSError:
        if not path.exists():  # otherwise another worker was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_int8_graph(classifier: CautiousClassifier, ranges: Ranges, folder: Path) -> list[str]:
    """Write the int8 graph for `load_backend` into `folder`; return its files' relative paths."""
    graph = folder / INT8_GRAPH
    write_graph(classifier, ranges, graph)
    return sorted(str(path.relative_to(folder)) for path in graph.parent.iterdir())


def quantise(graph: Any, ranges: Ranges) -> None:
    """Quantise inputs and weights of the layers in an openvino.Model to 8-bit integers.

    Inputs are rounded to 256 levels of their range in calibration, weights to 255 levels per
    channel; 0 stays 0 in both (Jacob and others 2018). OpenVINO then runs these layers in integers.
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
        steps[steps == 0] = 1  # avoids division by zero for a channel without weights
        integers = ops.convert(ops.constant(np.rint(weights / steps).astype(np.int8)), "f32")
        layer.input(1).replace_source_output(ops.multiply(integers, steps).output(0))


def give_back_memory() -> None:
    """Return memory freed by the conversion to the kernel; glibc would keep it."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
