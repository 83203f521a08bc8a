"""What the handler counts; metrics.yaml declares it.

Each metric is a line on the worker's standard output, and TorchServe's frontend adds them up. So a
batch is counted in few lines, and a worker that dies takes only its batch's with it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np
from ts.context import Context
from ts.metrics.metric_cache_errors import MetricsCacheKeyError
from ts.metrics.metric_type_enum import MetricTypes

from handler.photo import PhotoException, UploadGoneException
from handler.quantities import bin_of, quantities
from handler.upload import Answered

logger = logging.getLogger(__name__)

Edges = Mapping[str, Sequence[float]]  # of the bins of each quantity


def count_batch(
    context: Context, requests: Sequence[Answered], edges: Edges, seconds: float
) -> None:
    """Count the requests of one batch, which took `seconds` in the handler."""
    photos = [photo for request in requests for photo in request]
    answers = [answer for _, answer in photos]
    predicted = [(upload, answer) for upload, answer in photos if "label" in answer]
    _emit(context, "prediction_requests_total", len(requests))
    _emit(context, "prediction_batches_total", 1)
    _emit(context, "prediction_batched_photos_total", len(predicted))
    for _ in requests:
        _emit(context, "prediction_latency_seconds", round(seconds, 6))
    for name, count in Counter(answer["label"] for _, answer in predicted).items():
        _emit(context, "predictions_by_class", count, class_name=name)
    for kind, count in Counter(answer["type"] for answer in answers if "type" in answer).items():
        _emit(context, "prediction_errors_total", count, type=kind)
    for (name, number), count in Counter(_bins(predicted, edges)).items():
        _emit(context, "photo_quantity_total", count, quantity=name, bin=str(number))


def count_nothing(context: Context, classes: Sequence[str], edges: Edges) -> None:
    """Let each counter be there from the start: Prometheus doesn't see the first increase."""
    for name in ("requests_total", "batches_total", "batched_photos_total"):
        _emit(context, f"prediction_{name}", 0)
    for name in classes:
        _emit(context, "predictions_by_class", 0, class_name=name)
    for kind in PhotoException.__subclasses__():
        if kind is UploadGoneException:  # never counted
            continue
        _emit(context, "prediction_errors_total", 0, type=kind.__name__)
    for name, of_quantity in edges.items():
        for number in range(len(of_quantity) + 1):
            _emit(context, "photo_quantity_total", 0, quantity=name, bin=str(number))


def _bins(predicted: Answered, edges: Edges) -> Iterable[tuple[str, int]]:
    """Quantity and number of the bin, for each quantity of each photo."""
    for upload, answer in predicted:
        assert isinstance(upload.decoded, np.ndarray)
        assert upload.size is not None
        values = quantities(upload.decoded, upload.size, answer["confidence"])
        for name, of_quantity in edges.items():
            yield name, bin_of(values[name], of_quantity)


@cache
def _warn_of_undeclared(name: str) -> None:
    logger.warning("%s is not declared in the server's metrics.yaml, so it isn't counted", name)


def _emit(context: Context, name: str, value: float, **dimensions: str) -> None:
    """Write one metric, its labels in the order in which metrics.yaml declares them."""
    if context.metrics is None:  # no server
        return
    kind = MetricTypes.HISTOGRAM if name.endswith("_seconds") else MetricTypes.COUNTER
    try:
        metric = context.metrics.get_metric(name, kind)
    except MetricsCacheKeyError:  # another server's metrics.yaml; it still gets its answers
        _warn_of_undeclared(name)
        return
    labels = {"ModelName": context.model_name, "Level": "Model", **dimensions}
    metric.add_or_update(value, [labels[dimension] for dimension in metric.dimension_names])
