"""Heat maps of predictions: Grad-CAM, after Selvaraju and others 2017."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from training.model import Classifier, normalise

LONG_SIDE = 448  # pixels of the overlay
COLOUR = (255, 64, 0)
OPACITY = 0.7  # at the maximum of the map


def grad_cam(classifier: Classifier, pixels: np.ndarray, class_number: int) -> np.ndarray:
    """How much each area of a photo, uint8 (224, 224, 3), supports a class: (28, 28), 0 to 1.

    The maps of the last convolution are weighted by the mean gradient of the class's logit;
    negative values are set to 0. All values are 0 if nothing supports the class.
    """
    network = classifier.network
    kept: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        # Detached, so that no gradients of earlier layers are computed or kept. SimpleCNN applies
        # ReLU again after its pool, which changes nothing.
        kept.append(F.relu(output).detach().requires_grad_())
        return kept[0]

    hook = network.bn4.register_forward_hook(keep)
    try:
        photo = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
        logits = network(normalise(photo, classifier.mean, classifier.std))
    finally:
        hook.remove()
    (maps,) = kept
    (gradients,) = torch.autograd.grad(logits[0, class_number], maps)
    weights = gradients.mean((2, 3), keepdim=True)
    found = F.relu((weights * maps.detach()).sum(1))[0]
    highest = found.max()
    return (found / highest if highest > 0 else found).numpy()


def overlay(pixels: np.ndarray, heat: np.ndarray, size: tuple[int, int]) -> bytes:
    """A PNG of the photo with the aspect ratio of `size` (width, height), under a heat map."""
    scale = LONG_SIDE / max(size)
    shape = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    photo = Image.fromarray(pixels).resize(shape, Image.Resampling.BILINEAR)
    levels = Image.fromarray((255 * OPACITY * heat).astype(np.uint8))
    mask = levels.resize(shape, Image.Resampling.BICUBIC)
    photo.paste(COLOUR, (0, 0), mask)
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    return buffer.getvalue()
