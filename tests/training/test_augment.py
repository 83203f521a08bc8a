from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from handler.photo import decode_photo
from training import augment as module
from training.augment import augment, compress, frame, recolour, recompress, shrink_and_enlarge
from training.epoch import mixup
from training.params import Params

CAT = Path("tests/pictures/cat.jpg")


def some_photos(seed: int = 0, count: int = 16) -> torch.Tensor:
    """Smooth noise, which shifts and blur change, but JPEG hardly."""
    torch.manual_seed(seed)
    coarse = torch.rand(count, 3, 14, 14) * 255
    return torch.nn.functional.interpolate(coarse, size=224, mode="bicubic").clamp(0, 255).byte()


@given(st.integers(0, 1000), st.floats(0, 1))
@settings(deadline=None, max_examples=10)
def test_changed_photos_keep_shape_and_range(params: Params, seed: int, strength: float) -> None:
    changed = augment(some_photos(seed), params.train, strength)
    assert changed.shape == (16, 3, 224, 224)
    assert changed.dtype == torch.float32
    assert 0 <= changed.min() <= changed.max() <= 255
    assert changed.isfinite().all()


def test_photos_are_changed_where_they_are(params: Params, device: torch.device) -> None:
    changed = augment(some_photos().to(device), params.train, 1.0)
    assert changed.device.type == device.type
    assert changed.shape == (16, 3, 224, 224)
    assert 0 <= changed.min() <= changed.max() <= 255


def test_jpeg_without_libjpeg_changes_photos_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = some_photos().float()
    torch.manual_seed(0)
    by_libjpeg = recompress(clouds.clone(), share=0.5, qualities=(30, 95)) - clouds
    monkeypatch.setattr(module, "LIBJPEG", "nowhere")
    torch.manual_seed(0)
    by_tensors = recompress(clouds.clone(), share=0.5, qualities=(30, 95)) - clouds
    changed = by_libjpeg.abs().mean((1, 2, 3)) > 0
    assert torch.equal(by_tensors.abs().mean((1, 2, 3)) > 0, changed)
    assert by_tensors.abs().mean() == pytest.approx(by_libjpeg.abs().mean().item(), rel=0.3)


def test_each_photo_is_changed_in_its_own_way(params: Params) -> None:
    one_photo = some_photos(count=1).expand(16, 3, 224, 224)
    changed = augment(one_photo, params.train, 1.0)
    distances = [(changed[n] - changed[n + 1]).abs().mean() for n in range(15)]
    assert min(distances) > 1


def test_without_strength_framing_mirrors_and_does_nothing_else(params: Params) -> None:
    photos = some_photos().float()
    framed = frame(photos, params.train, strength=0.0)
    mirrored = 0
    for photo, result in zip(photos, framed, strict=True):
        same = torch.allclose(photo, result, atol=0.1)
        mirrored += torch.allclose(photo.flip(2), result, atol=0.1)
        assert same or torch.allclose(photo.flip(2), result, atol=0.1)
    assert 0 < mirrored < 16


def test_a_small_frame_shows_a_part_of_the_photo_larger(params: Params) -> None:
    ramp = torch.arange(224.0).expand(64, 3, 224, 224)
    only_crops = dataclasses.replace(params.train, crop_scale=0.25, aspect=1.0, tilt=0.0)
    framed = frame(ramp, only_crops, strength=1.0)
    widths = (framed[:, 0, 112, -1] - framed[:, 0, 112, 0]).abs() / 223
    assert widths.min() >= 0.49  # the square root of a quarter
    assert widths.min() < 0.6
    assert widths.max() > 0.9


def test_a_photo_zoomed_out_is_whole_and_small_in_its_own_colours(params: Params) -> None:
    photos = torch.zeros(64, 3, 224, 224)
    photos[:, 0] = 255  # red, with a white edge
    photos[:, :, :4] = photos[:, :, -4:] = photos[:, :, :, :4] = photos[:, :, :, -4:] = 255
    only_zoom = dataclasses.replace(
        params.train, zoom_out=1.0, smallest_zoom=0.4, aspect=1.0, tilt=0.0
    )
    framed = frame(photos, only_zoom, strength=1.0)
    assert framed.isfinite().all()
    assert (framed[:, 0] > 250).all()  # only red, white and mixtures
    edges = (framed[::2, 1] > 128).float()  # blurred around the white frame
    widths = edges.amax(1).sum(1)
    assert 0.35 * 224 < widths.min() < 0.6 * 224
    assert widths.max() > 0.85 * 224
    still = dataclasses.replace(only_zoom, zoom_out=0.0, crop_scale=1.0)
    assert torch.allclose(frame(photos, still, strength=1.0), photos, atol=0.1)


def test_thumbnails_lose_detail_and_jpeg_changes_little() -> None:
    torch.manual_seed(0)
    static = torch.rand(16, 3, 224, 224) * 255
    blurred = shrink_and_enlarge(static, share=1.0, smallest=40)
    assert (blurred.std((2, 3)) < static.std((2, 3))).all()
    assert torch.equal(shrink_and_enlarge(static, share=0.0, smallest=40), static)
    clouds = some_photos().float()
    compressed = recompress(clouds.clone(), share=1.0, qualities=(30, 30))
    assert 0 < (compressed - clouds).abs().mean() < 5
    assert torch.equal(recompress(clouds.clone(), share=0.0, qualities=(30, 95)), clouds)


def test_greyscale_leaves_no_colour_and_strength_0_no_change(params: Params) -> None:
    photos = some_photos().float()
    grey = recolour(photos, dataclasses.replace(params.train, greyscale=1.0), strength=1.0)
    assert (grey - grey.mean(1, keepdim=True)).abs().max() < 1e-2
    colourful = dataclasses.replace(params.train, greyscale=0.0)
    assert torch.allclose(recolour(photos, colourful, strength=0.0), photos, atol=1e-2)


def test_mixed_targets_follow_the_pixels() -> None:
    torch.manual_seed(3)
    photos = torch.tensor([0.0, 255.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    mixed, targets = mixup(photos, torch.eye(2))
    assert targets.sum(1).tolist() == pytest.approx([1, 1])
    assert torch.allclose(mixed[:, 0, 0, 0] / 255, targets[:, 1])


def pictures() -> torch.Tensor:
    """A photo, and noise of several scales: (6, 3, 224, 224), 0 to 255."""
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
