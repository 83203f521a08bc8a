"""Count the handler's metrics, which metrics.yaml declares.

Each metric is a line on the worker's standard output; TorchServe's frontend adds them up. So a
batch writes few lines, and a worker that dies loses only those of its batch.
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

from handler.drift_features import bin_of, drift_features
from handler.photo import PhotoException, UploadGoneException
from handler.upload import Answered

logger = logging.getLogger(__name__)

Edges = Mapping[str, Sequence[float]]  # edges of the bins of each feature


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


def init_counters(context: Context, classes: Sequence[str], edges: Edges) -> None:
    """Create all counters with 0: Prometheus can't see the first increase of a new counter."""
    for name in ("requests_total", "batches_total", "batched_photos_total"):
        _emit(context, f"prediction_{name}", 0)
    for name in classes:
        _emit(context, "predictions_by_class", 0, class_name=name)
    for kind in PhotoException.__subclasses__():
        if kind is UploadGoneException:  # never counted
            continue
        _emit(context, "prediction_errors_total", 0, type=kind.__name__)
    for name, of_feature in edges.items():
        for number in range(len(of_feature) + 1):
            _emit(context, "photo_quantity_total", 0, quantity=name, bin=str(number))


def _bins(predicted: Answered, edges: Edges) -> Iterable[tuple[str, int]]:
    """Name and bin number of each drift feature of each photo."""
    for upload, answer in predicted:
        assert isinstance(upload.decoded, np.ndarray)
        assert upload.size is not None
        values = drift_features(upload.decoded, upload.size, answer["confidence"])
        for name, of_feature in edges.items():
            yield name, bin_of(values[name], of_feature)


@cache
def _warn_of_undeclared(name: str) -> None:
    logger.warning(
        "%s is not declared in the server's metrics.yaml, so it isn't counted; add it there", name
    )


def _emit(context: Context, name: str, value: float, **dimensions: str) -> None:
    """Write one metric, with labels in the order of metrics.yaml."""
    if context.metrics is None:  # without a server
        return
    kind = MetricTypes.HISTOGRAM if name.endswith("_seconds") else MetricTypes.COUNTER
    try:
        metric = context.metrics.get_metric(name, kind)
    except MetricsCacheKeyError:  # a server with another metrics.yaml still gets answers
        _warn_of_undeclared(name)
        return
    labels = {"ModelName": context.model_name, "Level": "Model", **dimensions}
    metric.add_or_update(value, [labels[dimension] for dimension in metric.dimension_names])
