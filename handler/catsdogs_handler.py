"""Connect the predictor to TorchServe: the class that it calls with a batch of requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ts.context import Context

from handler.explain import grad_cam, overlay
from handler.gateway import through_gateway, uploaded_fields
from handler.metrics import count_batch, init_counters
from handler.photo import (
    InvalidPhotoException,
    PhotoException,
    PhotoTooLargeException,
    UploadGoneException,
)
from handler.photo_log import log_photo, request_id
from handler.predictor import load
from handler.request import photo_fields
from handler.upload import Answered, Upload, read_upload
from training.model import count_parameters

# Decoding time after which a request's remaining photos are refused. A batch of 2 requests, each
# with one more decode that has already begun, stays below responseTimeout in model-config.yaml.
SECONDS_PER_REQUEST = 8
TOO_SLOW = PhotoTooLargeException(
    f"the request's photos take over {SECONDS_PER_REQUEST} s to decode; send fewer at a time"
)

# The gateway's header for its readiness probe. Clients can't set it.
PROBE = "X-Probe"

# Keys of catsdogs.json that only the handler needs, and those with another name for clients.
INTERNAL_KEYS = {
    "ood_score", "activation_ranges", "reference", "training", "params", "graph_sha256",
}  # fmt: skip
CLIENT_KEYS = {"metrics": "figures"}

# One request's photos, by field.
Photos = dict[str, Upload]


class CatsDogsHandler:
    """Decode, infer and encode a batch of requests; a bad photo doesn't affect the others."""

    def initialize(self, context: Context) -> None:
        """Load the predictor from the model folder. Raises RuntimeError like `load`."""
        properties = context.system_properties
        self.predictor = load(
            Path(properties["model_dir"]),
            version=context.manifest["model"]["modelVersion"],
            gpu=properties["gpu_id"] if torch.cuda.is_available() else None,
            options=context.model_yaml_config,
        )
        self.edges: dict[str, list[float]] = {
            name: row["edges"]
            for name, row in self.predictor.card["reference"]["drift_features"].items()
        }
        init_counters(context, self.predictor.classes, self.edges)

    def handle(self, requests: list[dict[str, Any]], context: Context) -> list[Any]:
        """Answer each request of a batch; set statuses in `context`."""
        started = time.perf_counter()
        headers = [context.get_all_request_header(number) for number in range(len(requests))]
        batch = list(map(self.decode, requests, headers))
        pixels = [
            photo.decoded
            for photos in batch
            for photo in photos.values()
            if isinstance(photo.decoded, np.ndarray)
        ]
        rows = zip(*self.predictor.infer(pixels), strict=True)
        answers: list[Any] = [
            self.encode(photos, rows, number, context) if photos else self.describe()
            for number, photos in enumerate(batch)
        ]
        answered = {
            number: _answered(photos, answers[number])
            for number, photos in enumerate(batch)
            if photos and not _is_gone(photos) and headers[number].get(PROBE) != "true"
        }
        explained = [number for number in answered if _to_be_explained(headers[number])]
        for number in explained:
            answers[number] = self.explain(answered[number], headers[number], number, context)
        seconds = time.perf_counter() - started
        predicted = [photos for number, photos in answered.items() if number not in explained]
        if predicted:
            count_batch(context, predicted, self.edges, seconds)
        self._log(context, answered, seconds)
        return answers

    def decode(self, request: dict[str, Any], headers: dict[str, Any]) -> Photos:
        """The photos of one request, by field; none if it asks for a description of the model.

        An invalid request has one entry, the error.
        """
        # TorchServe marks its describe command with a header, which clients can send too. It counts
        # only without a photo, so that it never changes a prediction.
        if not request and not through_gateway(headers) and headers.get("describe") == "True":
            return {}
        deadline = time.monotonic() + SECONDS_PER_REQUEST
        try:
            contents = _contents(request, headers)
        except PhotoException as error:
            return {"body": Upload(error)}
        photos: Photos = {}
        for field, content in contents.items():
            in_time = not photos or time.monotonic() < deadline
            photos[field] = read_upload(content) if in_time else Upload(TOO_SLOW)
        return photos

    def encode(
        self,
        photos: Photos,
        rows: Iterator[tuple[np.ndarray, np.ndarray]],
        number: int,
        context: Context,
    ) -> dict[str, Any]:
        """The JSON answer of request `number`; takes a row of `infer` for each decoded photo."""
        answers: dict[str, dict[str, Any]] = {
            field: photo.decoded.answer()
            if isinstance(photo.decoded, PhotoException)
            else self.predictor.prediction(*next(rows))
            for field, photo in photos.items()
        }
        context.set_response_content_type(number, "application/json")
        if len(photos) > 1:
            return {"photos": answers}
        (photo,), (answer,) = photos.values(), answers.values()
        if isinstance(photo.decoded, PhotoException):
            context.set_response_status(photo.decoded.status, photo.decoded.phrase, number)
            # The gateway writes all errors, and takes the message from this header. If the upload
            # was deleted otherwise, its own words fit the status that it sends.
            if not _is_gone(photos):
                context.set_response_header(number, "X-Error", json.dumps(answer))
        return answer

    def explain(
        self, photos: Answered, headers: dict[str, Any], number: int, context: Context
    ) -> dict[str, Any] | bytes:
        """A PNG of the photo with a heat map; for clients that accept JSON, answer and map.

        An error stays as it is.
        """
        ((upload, answer),) = photos
        if "label" not in answer:
            return answer
        assert isinstance(upload.decoded, np.ndarray)
        assert upload.seen_size is not None
        number_of_class = self.predictor.classes.index(answer["label"])
        heat = grad_cam(self.predictor.classifier, upload.decoded, number_of_class)
        if "application/json" in str(headers.get("Accept")):
            return answer | {"map": np.round(heat.astype(float), 3).tolist()}
        context.set_response_content_type(number, "image/png")
        return overlay(upload.decoded, heat, upload.seen_size)

    def describe(self) -> dict[str, Any]:
        """The description of the model in `GET /models/catsdogs?customized=true`."""
        card = {
            CLIENT_KEYS.get(key, key): value
            for key, value in self.predictor.card.items()
            if key not in INTERNAL_KEYS
        }
        return card | {
            "version": self.predictor.version,
            "parameters": count_parameters(len(self.predictor.classes)),
            "backend": self.predictor.backend,
        }

    def _log(self, context: Context, requests: dict[int, Answered], seconds: float) -> None:
        """Log a line for each photo of the batch."""
        own = context.request_ids or {}
        for number, photos in requests.items():
            request = request_id(context.get_all_request_header(number), own.get(number, ""))
            for position, (upload, answer) in enumerate(photos, start=1):
                log_photo(request, position, upload, answer, seconds)


def _to_be_explained(headers: dict[str, Any]) -> bool:
    return headers.get("explain") == "True"  # set by TorchServe for its path /explanations


def _contents(request: dict[str, Any], headers: dict[str, Any]) -> dict[str, Any]:
    """The undecoded photos of a request, by field."""
    try:
        if through_gateway(headers):
            contents = uploaded_fields(headers)
        else:
            contents = photo_fields(request, headers)
    except MemoryError:
        raise PhotoTooLargeException(
            "the request needs too much memory; send fewer photos"
        ) from None
    if len(contents) > 1 and _to_be_explained(headers):
        raise InvalidPhotoException("/explain accepts one photo per request; send each separately")
    return contents


def _is_gone(photos: Photos) -> bool:
    return any(isinstance(photo.decoded, UploadGoneException) for photo in photos.values())


def _answered(photos: Photos, answer: dict[str, Any]) -> Answered:
    """Each photo of a request with its own part of the answer, which has them in the same order."""
    answers = answer["photos"].values() if len(photos) > 1 else [answer]
    return list(zip(photos.values(), answers, strict=True))
