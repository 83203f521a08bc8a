"""The class that TorchServe calls with a batch of requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ts.context import Context

from handler.backend import load_backend
from handler.explain import grad_cam, overlay
from handler.gateway import through_gateway, uploaded_fields
from handler.integrity import check_digests
from handler.metrics import count_batch, count_nothing
from handler.photo import (
    SIDE,
    InvalidPhotoException,
    PhotoException,
    PhotoTooLargeException,
    UploadGoneException,
)
from handler.photo_log import log_photo, request_id
from handler.request import photo_fields
from handler.upload import Answered, Upload, read_upload
from training.model import CautiousClassifier, count_parameters, load_classifier

# A batch of 8 requests may hold 64 photos, whose first convolution alone would take 400 MB.
PHOTOS_PER_PASS = 8

# Of decoding, after which a request's further photos are refused. A batch of 2 requests, each with
# one more decode begun before that, stays below responseTimeout in model-config.yaml.
SECONDS_PER_REQUEST = 8
TOO_SLOW = PhotoTooLargeException(
    f"the request's photos take more than {SECONDS_PER_REQUEST} s to decode; send fewer at once"
)

# The gateway asks about a picture of its own by this header, and lets no client set it.
PROBE = "X-Probe"

# One request's photos, by field.
Photos = dict[str, Upload]


class CatsDogsHandler:
    """Requests to answers: decode, infer, encode, for a whole batch; one bad photo spoils none."""

    def initialize(self, context: Context) -> None:
        """Load catsdogs.pt and the catsdogs.json that describes it from the model folder.

        Raises RuntimeError where the one is not what the other describes, and for weights of a
        training that diverged, which give no probabilities.
        """
        self.folder = folder = Path(context.system_properties["model_dir"])
        self.card: dict[str, Any] = json.loads((folder / "catsdogs.json").read_text())
        check_digests(folder, self.card)
        self.classes: list[str] = self.card["classes"]
        self.threshold: float = self.card["threshold"]
        self.limit: float = self.card["strangeness"]["limit"]
        self.edges: dict[str, list[float]] = {
            name: row["edges"] for name, row in self.card["reference"]["quantities"].items()
        }
        self.version: str = context.manifest["model"]["modelVersion"]
        self.backend, self.run = load_backend(
            lambda: load_classifier(folder / "catsdogs.pt", self.card),
            self.card["activation_ranges"],
            folder,
            context.system_properties["gpu_id"] if torch.cuda.is_available() else None,
            context.model_yaml_config or {},
        )
        for photos in range(1, PHOTOS_PER_PASS + 1):  # the first pass of each size takes longer
            probabilities, _ = self.infer([np.zeros((SIDE, SIDE, 3), np.uint8)] * photos)
        if not np.isfinite(probabilities).all():
            raise RuntimeError("catsdogs.pt: its answers are not numbers")
        count_nothing(context, self.classes, self.edges)

    def handle(self, requests: list[dict[str, Any]], context: Context) -> list[Any]:
        """Answer each request of a batch; the statuses go into `context`."""
        started = time.perf_counter()
        headers = [context.get_all_request_header(number) for number in range(len(requests))]
        batch = list(map(self.decode, requests, headers))
        pixels = [
            photo.decoded
            for photos in batch
            for photo in photos.values()
            if isinstance(photo.decoded, np.ndarray)
        ]
        rows = zip(*self.infer(pixels), strict=True)
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
        """The photos of one request, by field; none where it asks what the model is.

        A request that is wrong as a whole has one entry, the error.
        """
        # TorchServe marks its describe command by a header, which a client can send too: it counts
        # only where there is no photo, so that nobody's prediction changes.
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

    def infer(self, pixels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (N, classes) and strangeness (N,) of photos, each uint8 (224, 224, 3)."""
        if not pixels:
            return np.empty((0, len(self.classes)), np.float32), np.empty(0, np.float32)
        passes = [
            self.run(np.stack(pixels[start : start + PHOTOS_PER_PASS]))
            for start in range(0, len(pixels), PHOTOS_PER_PASS)
        ]
        probabilities, strange = (np.concatenate(parts) for parts in zip(*passes, strict=True))
        return probabilities, strange

    def certain(self, confidence: np.ndarray, strange: np.ndarray) -> np.ndarray:
        """Whether to believe an answer: high confidence, about a photo like those it knows."""
        return (confidence >= self.threshold) & (strange <= self.limit)

    def encode(
        self,
        photos: Photos,
        rows: Iterator[tuple[np.ndarray, np.ndarray]],
        number: int,
        context: Context,
    ) -> dict[str, Any]:
        """The JSON answer of request `number`; takes one of `rows`, what `infer` gave, a photo."""
        answers: dict[str, dict[str, Any]] = {
            field: _error(photo.decoded)
            if isinstance(photo.decoded, PhotoException)
            else self._prediction(*next(rows))
            for field, photo in photos.items()
        }
        context.set_response_content_type(number, "application/json")
        if len(photos) > 1:
            return {"photos": answers}
        (photo,), (answer,) = photos.values(), answers.values()
        if isinstance(photo.decoded, PhotoException):
            context.set_response_status(photo.decoded.status, photo.decoded.phrase, number)
            # The gateway writes every error, and takes the words from here.
            context.set_response_header(number, "X-Error", json.dumps(answer))
        return answer

    def explain(
        self, photos: Answered, headers: dict[str, Any], number: int, context: Context
    ) -> dict[str, Any] | bytes:
        """A PNG of the photo with what speaks for its answer, or the answer with the map in JSON.

        The latter where the request accepts JSON. An error stays as it is.
        """
        ((upload, answer),) = photos
        if "label" not in answer:
            return answer
        assert isinstance(upload.decoded, np.ndarray)
        assert upload.seen_size is not None
        heat = grad_cam(self.classifier, upload.decoded, self.classes.index(answer["label"]))
        if "application/json" in str(headers.get("Accept")):
            return answer | {"map": np.round(heat.astype(float), 3).tolist()}
        context.set_response_content_type(number, "image/png")
        return overlay(upload.decoded, heat, upload.seen_size)

    @cached_property
    def classifier(self) -> CautiousClassifier:
        """In PyTorch: 105 MB that only a worker holds which has explained a photo."""
        classifier = load_classifier(self.folder / "catsdogs.pt", self.card)
        return classifier.requires_grad_(False)

    def describe(self) -> dict[str, Any]:
        """What `GET /models/catsdogs?customized=true` tells about the model."""
        internal = ("strangeness", "activation_ranges", "reference", "params", "graph_sha256")
        card = {key: value for key, value in self.card.items() if key not in internal}
        return card | {
            "version": self.version,
            "parameters": count_parameters(len(self.classes)),
            "backend": self.backend,
        }

    def _prediction(self, probabilities: np.ndarray, strange: np.ndarray) -> dict[str, Any]:
        best = int(probabilities.argmax())
        confidence = float(probabilities[best])
        return {
            "label": self.classes[best],
            "confidence": round(confidence, 4),
            "probabilities": {
                name: round(float(probability), 4)
                for name, probability in zip(self.classes, probabilities, strict=True)
            },
            "certain": bool(self.certain(probabilities[best], strange)),
            "model_version": self.version,
        }

    def _log(self, context: Context, requests: dict[int, Answered], seconds: float) -> None:
        """A line for each photo of the batch."""
        own = context.request_ids or {}
        for number, photos in requests.items():
            request = request_id(context.get_all_request_header(number), own.get(number, ""))
            for position, (upload, answer) in enumerate(photos, start=1):
                log_photo(request, position, upload, answer, seconds)


def _to_be_explained(headers: dict[str, Any]) -> bool:
    return headers.get("explain") == "True"  # set by TorchServe for its path /explanations


def _contents(request: dict[str, Any], headers: dict[str, Any]) -> dict[str, Any]:
    """What may be photos in a request, by field."""
    try:
        if through_gateway(headers):
            contents = uploaded_fields(headers)
        else:
            contents = photo_fields(request, headers)
    except MemoryError:
        raise PhotoTooLargeException("request needs more memory than there is") from None
    if len(contents) > 1 and _to_be_explained(headers):
        raise InvalidPhotoException("one photo a request is explained; send each on its own")
    return contents


def _is_gone(photos: Photos) -> bool:
    return any(isinstance(photo.decoded, UploadGoneException) for photo in photos.values())


def _answered(photos: Photos, answer: dict[str, Any]) -> Answered:
    return [(upload, answer.get("photos", {f: answer})[f]) for f, upload in photos.items()]


def _error(error: PhotoException) -> dict[str, Any]:
    return {"code": error.status, "type": type(error).__name__, "message": str(error)}
