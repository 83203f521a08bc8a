"""What JPEG does to photos, on any device: a stand-in that loses what libjpeg would lose.

ITU-T T.81 in floating point: YCbCr with chroma of half the size, blocks of 8 x 8, their cosine
transform, quantisation by the tables of Annex K scaled as libjpeg does it. Nothing is encoded.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F

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
# Of red, green and blue; JFIF 1.02.
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def cosines() -> torch.Tensor:
    """A filter for each coefficient of a block, orthonormal: (64, 1, 8, 8)."""
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
    """One of CONSTANTS on `device`, where copying it for each batch would wait for the GPU."""
    return CONSTANTS[name].float().to(device)


def compress(photos: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Photos (N, 3, H, W) from 0 to 255 after JPEG of `quality` (N,), 1 to 95: the same form."""
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
    """Planes (N, C, H, W) around 0 whose coefficients are multiples of `steps` (N, 64)."""
    filters = constant("cosines", planes.device)
    count, channels, height, width = planes.shape
    coefficients = F.conv2d(planes.reshape(-1, 1, height, width), filters, stride=BLOCK)
    step = steps.repeat_interleave(channels, dim=0, output_size=count * channels).view(-1, 64, 1, 1)
    rounded = (coefficients / step).round() * step
    restored = F.conv_transpose2d(rounded, filters, stride=BLOCK)
    return restored.round().clamp(-128, 127).view_as(planes)
