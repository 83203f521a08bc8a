from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handler.photo import decode_photo
from training.jpeg import compress

CAT = Path("tests/pictures/cat.jpg")


def pictures() -> torch.Tensor:
    """A photo, and noise of each hardness: (6, 3, 224, 224), 0 to 255."""
    torch.manual_seed(0)
    photo = torch.from_numpy(decode_photo(CAT.read_bytes())).permute(2, 0, 1)[None].float()
    noise = [
        torch.nn.functional.interpolate(
            torch.rand(1, 3, side, side) * 255, (224, 224), mode="bicubic"
        )
        for side in (4, 14, 56, 112, 224)
    ]
    return torch.cat([photo, *noise]).round().clamp(0, 255)


def by_pillow(photo: torch.Tensor, quality: int) -> torch.Tensor:
    pixels = photo.byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", quality=quality)
    with Image.open(file) as picture:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()


@pytest.mark.parametrize("quality", [5, 30, 49, 50, 75, 95])
def test_it_loses_what_libjpeg_loses(device: torch.device, quality: int) -> None:
    photos = pictures().to(device)
    ours = compress(photos, torch.full((len(photos),), quality, device=device)).cpu()
    for photo, result in zip(photos.cpu(), ours, strict=True):
        theirs = by_pillow(photo, quality)
        lost = (theirs - photo).abs().mean()
        assert (result - theirs).abs().mean() < 0.7 + 0.05 * lost


def test_each_photo_has_a_quality_of_its_own_and_any_size_is_taken() -> None:
    photos = pictures()[:1].expand(2, 3, 224, 224)
    worse, better = compress(photos, torch.tensor([10, 90])) - photos
    assert worse.abs().mean() > 2 * better.abs().mean()
    odd = photos[:, :, :37, :101]
    result = compress(odd, torch.tensor([90, 90]))
    assert result.shape == odd.shape
    assert (result[0] - by_pillow(odd[0], 90)).abs().mean() < 1
