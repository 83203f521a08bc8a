"""Random augmentation of training photos, a batch at a time.

It runs on the device of the photos, CPU or GPU. It imitates how users' photos differ: framing,
stretched aspect, tilt, sharpness, JPEG quality, colour. On a CPU, libjpeg compresses; elsewhere
`compress` simulates its losses without encoding.
"""

from __future__ import annotations

import io
import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from training.params import TrainParams

LIBJPEG = "cpu"  # the device on which libjpeg is used: there it is faster than `compress`
BLURRED = 7  # side in pixels to which a photo shrinks for its blurred background
GROUP = 8  # photos that are blurred together, by one resize
# ITU-T T.81: the side of a block and the tables of Annex K; YCbCr of JFIF 1.02.
BLOCK = 8
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99), (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * BLOCK,) * 4,
)  # fmt: skip
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def augment(photos: torch.Tensor, params: TrainParams, strength: float) -> torch.Tensor:
    """Randomly changed uint8 photos (N, 3, S, S), as float32 from 0 to 255.

    `strength`, from 0 to 1, scales the changes of framing and colour.
    """
    changed = frame(photos.float(), params, strength)
    changed = shrink_and_enlarge(changed, params.low_resolution, params.smallest_side)
    changed = recompress(changed, params.jpeg, (params.lowest_quality, 95))
    return recolour(changed, params, strength)


def uniform(rows: torch.Tensor, low: float, high: float, *sizes: int) -> torch.Tensor:
    """Random numbers (len(rows), *sizes) from `low` to `high`, on the device of `rows`."""
    return torch.empty(len(rows), *sizes, device=rows.device).uniform_(low, high)


def frame(photos: torch.Tensor, params: TrainParams, strength: float) -> torch.Tensor:
    """A random crop of each photo, stretched, tilted and perhaps mirrored.

    A share `params.zoom_out` of the photos is instead shown whole and small, on a background of its
    own colours.
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
    blurred = small[::2]  # the others have a mirrored background
    around = F.adaptive_avg_pool2d(photos[blurred], BLURRED)
    around = F.interpolate(around, photos.shape[2:], mode="bilinear")
    inside = (grid[blurred].abs() <= 1).all(dim=3).unsqueeze(1)
    framed[blurred] = torch.where(inside, framed[blurred], around)
    return framed


def some_of(photos: torch.Tensor, share: float) -> torch.Tensor:
    """Random row numbers of about a `share` of `photos`, on their device; never waits for a GPU."""
    if not share:
        return torch.empty(0, dtype=torch.long, device=photos.device)
    chosen = torch.nonzero(torch.rand(len(photos)) < share).flatten()
    return chosen.to(photos.device, non_blocking=True)


def shrink_and_enlarge(photos: torch.Tensor, share: float, smallest: int) -> torch.Tensor:
    """Reduce a `share` of the groups to the sharpness of a thumbnail with independent sides."""
    side = photos.shape[-1]
    groups = []
    for group in torch.split(photos, GROUP):
        if torch.rand(()) < share:  # drawn on the CPU, to avoid waiting for a GPU
            size = torch.empty(2).uniform_(math.log(smallest), math.log(side)).exp().int().tolist()
            small = F.interpolate(group, size, mode="bilinear", antialias=True)
            group = F.interpolate(small, (side, side), mode="bilinear")
        groups.append(group)
    return torch.cat(groups)


def recompress(photos: torch.Tensor, share: float, qualities: tuple[int, int]) -> torch.Tensor:
    """Compress a `share` of the photos as JPEG, each with a random quality from `qualities`."""
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
    """Change brightness, contrast, saturation, tint, or remove colour, by one matrix per photo."""

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


def cosines() -> torch.Tensor:
    """Orthonormal filters, one for each coefficient of a block: (64, 1, 8, 8)."""
    place = torch.arange(BLOCK).double()
    rows = torch.cos((2 * place + 1) * place.view(-1, 1) * math.pi / (2 * BLOCK)) / 2
    rows[0] /= math.sqrt(2)
    return torch.einsum("iy,jx->ijyx", rows, rows).reshape(-1, 1, BLOCK, BLOCK)


CONSTANTS = {
    "cosines": cosines(),
    "tables": torch.tensor([LUMINANCE, CHROMINANCE]).flatten(1),
    "to YCbCr": torch.tensor(YCBCR),
    "to RGB": torch.tensor(YCBCR).double().inverse(),
}


@cache
def constant(name: str, device: torch.device) -> torch.Tensor:
    """One of CONSTANTS on `device`, cached: copying it for each batch would wait for the GPU."""
    return CONSTANTS[name].float().to(device)


def compress(photos: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Photos (N, 3, H, W), 0 to 255, after JPEG of `quality` (N,), 1 to 95; same shape and range.

    It computes in floating point: YCbCr with chroma of half the size, the cosine transform of 8 x 8
    blocks, and quantisation by tables scaled as in libjpeg.
    """
    height, width = photos.shape[2:]
    down, right = (-side % (2 * BLOCK) for side in (height, width))
    padded = F.pad(photos.round().clamp(0, 255), (0, right, 0, down), mode="replicate")
    planes = torch.einsum("ij,njyx->niyx", constant("to YCbCr", photos.device), padded).round()
    planes[:, 0] -= 128
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality).view(-1, 1, 1)
    steps = ((constant("tables", photos.device) * scale + 50) / 100).floor().clamp(1, 255)
    luma = quantised(planes[:, :1], steps[:, 0])
    chroma = quantised(F.avg_pool2d(planes[:, 1:], 2).round(), steps[:, 1])
    wide = F.interpolate(chroma, scale_factor=2, mode="bilinear")  # libjpeg's "fancy upsampling"
    planes = torch.cat([luma + 128, wide], dim=1)
    restored = torch.einsum("ij,njyx->niyx", constant("to RGB", photos.device), planes)
    return restored[:, :, :height, :width].round().clamp(0, 255)


def quantised(planes: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Planes (N, C, H, W) around 0, with coefficients rounded to multiples of `steps` (N, 64)."""
    filters = constant("cosines", planes.device)
    count, channels, height, width = planes.shape
    coefficients = F.conv2d(planes.reshape(-1, 1, height, width), filters, stride=BLOCK)
    step = steps.repeat_interleave(channels, dim=0, output_size=count * channels).view(-1, 64, 1, 1)
    rounded = (coefficients / step).round() * step
    restored = F.conv_transpose2d(rounded, filters, stride=BLOCK)
    return restored.round().clamp(-128, 127).view_as(planes)
