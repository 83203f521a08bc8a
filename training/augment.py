"""Random changes to training photos, a whole batch at a time.

It computes where the photos are, on the processor or a GPU. What strangers' photos differ in:
framing, squashed aspect, tilt, sharpness, JPEG quality, colour.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from training.jpeg import compress, constant
from training.params import TrainParams

LIBJPEG = "cpu"  # the device whose photos it compresses, sooner there than our stand-in
BLURRED = 7  # pixels of a side, of a photo as its own surroundings
GROUP = 8  # photos that are blurred alike: one resize serves them all


def augment(photos: torch.Tensor, params: TrainParams, strength: float) -> torch.Tensor:
    """uint8 photos (N, 3, S, S) as float32 from 0 to 255, changed at random.

    `strength`, from 0 to 1, scales how much framing and colour change.
    """
    changed = frame(photos.float(), params, strength)
    changed = shrink_and_enlarge(changed, params.low_resolution, params.smallest_side)
    changed = recompress(changed, params.jpeg, (params.lowest_quality, 95))
    return recolour(changed, params, strength)


def uniform(rows: torch.Tensor, low: float, high: float, *sizes: int) -> torch.Tensor:
    """A random number for each of `rows`, or so many as `sizes` say, on the same device."""
    return torch.empty(len(rows), *sizes, device=rows.device).uniform_(low, high)


def frame(photos: torch.Tensor, params: TrainParams, strength: float) -> torch.Tensor:
    """A random part of each photo, stretched, tilted and perhaps mirrored.

    Or, for the share `params.zoom_out`, the whole of it, small in surroundings of its own colours.
    """
    area = uniform(photos, 1 - strength * (1 - params.crop_scale), 1)
    small = some_of(photos, strength * params.zoom_out)
    area[small] = uniform(small, params.smallest_zoom, 1) ** -2
    log_aspect = strength * math.log(params.aspect)
    aspect = uniform(photos, -log_aspect, log_aspect).exp()
    width, height = (
        torch.where(area > 1, side, side.clamp(max=1))
        for side in ((area * aspect).sqrt(), (area / aspect).sqrt())
    )
    left, top = (uniform(photos, -1, 1) * (1 - size) for size in (width, height))
    angle = torch.deg2rad(strength * uniform(photos, -params.tilt, params.tilt))
    mirror = torch.randint(2, (len(photos),), device=photos.device) * 2 - 1
    cos, sin = angle.cos(), angle.sin()
    rows = (width * cos * mirror, -width * sin, left, height * sin * mirror, height * cos, top)
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(photos.shape), align_corners=False)
    framed = F.grid_sample(photos, grid, padding_mode="reflection", align_corners=False)
    blurred = small[::2]  # around the others it is mirrored
    around = F.adaptive_avg_pool2d(photos[blurred], BLURRED)
    around = F.interpolate(around, photos.shape[2:], mode="bilinear")
    inside = (grid[blurred].abs() <= 1).all(dim=3).unsqueeze(1)
    framed[blurred] = torch.where(inside, framed[blurred], around)
    return framed


def some_of(photos: torch.Tensor, share: float) -> torch.Tensor:
    """Numbers of about so many of `photos`, on their device; drawn without waiting for a GPU."""
    if not share:
        return torch.empty(0, dtype=torch.long, device=photos.device)
    chosen = torch.nonzero(torch.rand(len(photos)) < share).flatten()
    return chosen.to(photos.device, non_blocking=True)


def shrink_and_enlarge(photos: torch.Tensor, share: float, smallest: int) -> torch.Tensor:
    """Some groups of photos at the sharpness of a thumbnail; its two sides are drawn apart."""
    side = photos.shape[-1]
    groups = []
    for group in torch.split(photos, GROUP):
        if torch.rand(()) < share:  # on the processor: a GPU would have to be waited for
            size = torch.empty(2).uniform_(math.log(smallest), math.log(side)).exp().int().tolist()
            small = F.interpolate(group, size, mode="bilinear", antialias=True)
            group = F.interpolate(small, (side, side), mode="bilinear")
        groups.append(group)
    return torch.cat(groups)


def recompress(photos: torch.Tensor, share: float, qualities: tuple[int, int]) -> torch.Tensor:
    """Some of the photos through JPEG at a random quality of this range."""
    chosen = some_of(photos, share)
    if photos.device.type != LIBJPEG:
        drawn = torch.randint(qualities[0], qualities[1] + 1, (len(chosen),))
        quality = drawn.to(photos.device, non_blocking=True)
        photos[chosen] = compress(photos[chosen], quality)
        return photos
    for number in chosen.tolist():
        quality_of_one = int(torch.randint(qualities[0], qualities[1] + 1, ()))
        pixels = photos[number].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", quality=quality_of_one)
        with Image.open(file) as compressed:
            photos[number] = torch.from_numpy(np.array(compressed)).permute(2, 0, 1)
    return photos


def recolour(photos: torch.Tensor, params: TrainParams, strength: float) -> torch.Tensor:
    """Brightness, contrast, saturation, a tint and greyscale, as one matrix a photo."""

    def factor(most: float) -> torch.Tensor:
        return 1 + strength * uniform(photos, -most, most)

    luma = constant("to YCbCr", photos.device)[0]
    saturation = factor(params.saturation)
    saturation.masked_fill_(uniform(photos, 0, 1) < params.greyscale, 0)
    contrast, brightness = factor(params.contrast), factor(params.brightness)
    tint = 1 + strength * uniform(photos, -params.tint, params.tint, 3, 1)
    tint.masked_fill_((saturation == 0).view(-1, 1, 1), 1)  # a grey photo stays grey
    grey = luma.expand(3, 3)
    mix = grey + saturation.view(-1, 1, 1) * (torch.eye(3, device=photos.device) - grey)
    matrix = (contrast * brightness).view(-1, 1, 1) * tint * mix
    mean = photos.mean((2, 3)) @ luma
    offset = (brightness * (1 - contrast) * mean).view(-1, 1, 1) * tint
    changed = torch.baddbmm(offset, matrix, photos.flatten(2))
    return changed.clamp_(0, 255).view_as(photos)
