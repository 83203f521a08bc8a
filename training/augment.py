"""Random changes to training photos, a whole batch at a time.

What strangers' photos differ in: framing, squashed aspect, tilt, sharpness, JPEG quality, colour.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from training.params import TrainParams

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue; ITU-R BT.601
GROUP = 8  # photos that are blurred alike: one resize serves them all


def augment(photos: torch.Tensor, params: TrainParams, strength: float) -> torch.Tensor:
    """uint8 photos (N, 3, S, S) as float32 from 0 to 255, changed at random.

    `strength`, from 0 to 1, scales how much framing and colour change.
    """
    changed = frame(photos.float(), params, strength)
    changed = shrink_and_enlarge(changed, params.low_resolution, params.smallest_side)
    changed = recompress(changed, params.jpeg, (params.lowest_quality, 95))
    return recolour(changed, params, strength)


def uniform(count: int, low: float, high: float) -> torch.Tensor:
    return torch.empty(count).uniform_(low, high)


def frame(photos: torch.Tensor, params: TrainParams, strength: float) -> torch.Tensor:
    """A random part of each photo, stretched, tilted and perhaps mirrored."""
    count = len(photos)
    area = uniform(count, 1 - strength * (1 - params.crop_scale), 1)
    log_aspect = strength * math.log(params.aspect)
    aspect = uniform(count, -log_aspect, log_aspect).exp()
    width = (area * aspect).sqrt().clamp(max=1)
    height = (area / aspect).sqrt().clamp(max=1)
    left, top = (uniform(count, -1, 1) * (1 - size) for size in (width, height))
    angle = torch.deg2rad(strength * uniform(count, -params.tilt, params.tilt))
    mirror = torch.randint(2, (count,)) * 2 - 1
    cos, sin = angle.cos(), angle.sin()
    rows = (width * cos * mirror, -width * sin, left, height * sin * mirror, height * cos, top)
    theta = torch.stack(rows, dim=1).view(count, 2, 3)
    grid = F.affine_grid(theta, list(photos.shape), align_corners=False)
    return F.grid_sample(photos, grid, padding_mode="reflection", align_corners=False)


def shrink_and_enlarge(photos: torch.Tensor, share: float, smallest: int) -> torch.Tensor:
    """Some groups of photos at the sharpness of a thumbnail; its two sides are drawn apart."""
    side = photos.shape[-1]
    groups = []
    for group in torch.split(photos, GROUP):
        if torch.rand(()) < share:
            size = uniform(2, math.log(smallest), math.log(side)).exp().int().tolist()
            small = F.interpolate(group, size, mode="bilinear", antialias=True)
            group = F.interpolate(small, (side, side), mode="bilinear")
        groups.append(group)
    return torch.cat(groups)


def recompress(photos: torch.Tensor, share: float, qualities: tuple[int, int]) -> torch.Tensor:
    """Some of the photos through JPEG at a random quality of this range."""
    for number in torch.nonzero(torch.rand(len(photos)) < share).flatten().tolist():
        quality = int(torch.randint(qualities[0], qualities[1] + 1, ()))
        pixels = photos[number].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", quality=quality)
        with Image.open(file) as compressed:
            photos[number] = torch.from_numpy(np.array(compressed)).permute(2, 0, 1)
    return photos


def recolour(photos: torch.Tensor, params: TrainParams, strength: float) -> torch.Tensor:
    """Brightness, contrast, saturation, a tint and greyscale, as one matrix a photo."""
    count = len(photos)

    def factor(most: float) -> torch.Tensor:
        return 1 + strength * uniform(count, -most, most)

    luma = torch.tensor(LUMA)
    saturation = factor(params.saturation)
    saturation[torch.rand(count) < params.greyscale] = 0
    contrast, brightness = factor(params.contrast), factor(params.brightness)
    tint = 1 + strength * torch.empty(count, 3, 1).uniform_(-params.tint, params.tint)
    tint[saturation == 0] = 1  # a grey photo stays grey
    grey = luma.expand(3, 3)
    mix = grey + saturation.view(-1, 1, 1) * (torch.eye(3) - grey)
    matrix = (contrast * brightness).view(-1, 1, 1) * tint * mix
    mean = photos.mean((2, 3)) @ luma
    offset = (brightness * (1 - contrast) * mean).view(-1, 1, 1) * tint
    changed = torch.baddbmm(offset, matrix, photos.flatten(2))
    return changed.clamp_(0, 255).view_as(photos)
