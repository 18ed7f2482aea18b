"""Near-duplicates by pixels: one image, cropped or not, is registered to the other, and their agreement is measured.

The best of a few crops is moved and stretched until its fine detail agrees best: the enhanced correlation coefficient,
which brightness and contrast do not change (Evangelidis and Psarakis, IEEE TPAMI 30, 2008).
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ...cache.errors import DataError
from .subject import Subject
from .thumbnails import CROPS, SIDE, Likeness, shrink

__all__ = ["agreement", "calibrate_on_copies"]

# Detail is what remains without the mean of so many pixels' neighbourhood.
_BLUR = 7
_STEPS = 8
# Pairs at a time: their crops take 10 MB.
_BATCH = 128
# Limits of likeness and of the correlation of detail after registration. X-rays of different children reached a
# likeness of 0.97 where they are nearly blank, and then with less detail, and else 0.95; neighbouring frames of one
# ultrasound scan 0.85 and more. So what a set's own copies say counts between these alone.
_LIKENESS, _DETAIL = (0.90, 0.965), (0.75, 0.87)
_COPIED = 200


def agreement(likeness: Likeness, one: Tensor, two: Tensor) -> npt.NDArray[np.float64]:
    """Return the best agreement of each pair, (M, 2): similarity, and correlation of fine detail.

    Parameters
    ----------
    one, two : (M, S, S) thumbnails, a pair each
    """
    found = np.zeros((len(one), 2))
    with torch.inference_mode():
        for start in range(0, len(one), _BATCH):
            part = slice(start, start + _BATCH)
            found[part] = _agree(likeness, one[part], two[part]).numpy()
    return found


def _agree(likeness: Likeness, one: Tensor, two: Tensor) -> Tensor:
    there, back = (
        torch.einsum("bvk,bk->bv", likeness.of_crops(crops), likeness.of_wholes(whole)).max(1)
        for crops, whole in ((one, two), (two, one))
    )
    # The image whose crop is more like the other is the one that is moved.
    turned = back.values > there.values
    moved, whole = torch.where(turned[:, None, None], two, one), torch.where(turned[:, None, None], one, two)
    share, down, right = CROPS[torch.where(turned, back.indices, there.indices)].unbind(1)
    moved, detail = _register(moved, whole, torch.stack([share, right, share, down], 1))
    alike = (likeness.of_wholes(moved) * likeness.of_wholes(whole)).sum(1)
    return torch.stack([alike, detail], 1)


def calibrate_on_copies(likeness: Likeness, subject: Subject, rows: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return the likeness and the detail from which on a pair is a near-duplicate.

    So much that 99 of 100 copies of the set's own images have it, which are drawn, always the same for a set: cropped
    to 85 to 95 % of the side, 10 to 20 % brighter or darker, saved as JPEG at quality 60.

    Parameters
    ----------
    rows : of images that are at hand; of more than 200 an even sample serves
    """
    random = np.random.default_rng(0)
    images: list[npt.NDArray[Any]] = []
    copies: list[npt.NDArray[Any]] = []
    for row in rows[:: max(1, -(-len(rows) // _COPIED))].tolist():
        try:
            pixels = subject.dataset.images.read(int(subject.source[row]))
        except DataError:
            continue
        images.append(pixels)
        copies.append(_copy(pixels, random))
    if not images:
        return _LIKENESS[1], _DETAIL[1]
    agree = agreement(likeness, shrink(images), shrink(copies))
    low = np.quantile(agree, 0.01, axis=0)
    return float(np.clip(low[0], *_LIKENESS)), float(np.clip(low[1], *_DETAIL))


def _copy(pixels: npt.NDArray[np.generic], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return a changed copy (H, W, C) of an image of uint8 or of float in 0…255."""
    from PIL import Image

    whole = np.clip(pixels.astype(np.float32), 0, 255)
    image = Image.fromarray(whole.round().astype(np.uint8).squeeze(2) if whole.shape[2] == 1 else np.uint8(whole))
    share = random.uniform(0.85, 0.95)
    width, height = (share * side for side in image.size)
    left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
    image = image.resize(image.size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    factor = 1 + random.choice([-1, 1]) * random.uniform(0.1, 0.2)
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.clip(np.asarray(image) * factor, 0, 255))).save(file, "JPEG", quality=60)
    copied = np.asarray(Image.open(file))
    return copied[..., None] if copied.ndim == 2 else copied


def _register(moved: Tensor, whole: Tensor, crop: Tensor) -> tuple[Tensor, Tensor]:
    """Register images: Gauss-Newton steps on the enhanced correlation coefficient of their detail.

    Parameters
    ----------
    moved, whole : (B, S, S)
    crop : (B, 4) scale and shift to the right, scale and shift down, of a side from -1 to 1: where to begin

    Returns
    -------
    the moved images (B, S, S) where they agree best, and the correlation of detail there, (B,)
    """
    base = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    blur = _blurring()
    target = _centred(whole - blur @ whole @ blur.T)
    best, best_crop = torch.full((len(crop),), -2.0), crop
    for step in range(_STEPS + 1):
        seen = _move(moved, crop)
        detail = _centred(seen - blur @ seen @ blur.T)
        correlation = _cosine(detail, target)
        better = correlation > best
        best, best_crop = torch.where(better, correlation, best), torch.where(better[:, None], crop, best_crop)
        if step == _STEPS:
            break
        right = torch.gradient(seen, dim=2)[0] * SIDE / 2 / crop[:, 0, None, None]
        down = torch.gradient(seen, dim=1)[0] * SIDE / 2 / crop[:, 2, None, None]
        slopes = torch.stack([right * base, right, down * base[:, None], down], 1)  # (B, 4, S, S)
        slopes = _centred(slopes - blur @ slopes @ blur.T)
        crop = crop + _ecc_step(slopes.flatten(2), detail.flatten(1), target.flatten(1)).clamp(-0.1, 0.1)
        crop = torch.stack(
            [
                crop[:, 0].clamp(0.75, 1.1),
                crop[:, 1].clamp(-0.25, 0.25),
                crop[:, 2].clamp(0.75, 1.1),
                crop[:, 3].clamp(-0.25, 0.25),
            ],
            1,
        )
    return _move(moved, best_crop), best


def _ecc_step(slopes: Tensor, seen: Tensor, target: Tensor) -> Tensor:
    """Return the step of equations 17 and 18 of the paper, (B, 4), from slopes (B, 4, P) and images (B, P)."""
    square = slopes @ slopes.transpose(1, 2)
    ridge = 1e-4 * torch.diag_embed(torch.diagonal(square, dim1=1, dim2=2)) + 1e-6 * torch.eye(4)
    along = slopes @ torch.stack([seen, target], 2)  # (B, 4, 2)
    solved = torch.linalg.solve(square + ridge, along)
    gain = seen.square().sum(1) - (along[..., 0] * solved[..., 0]).sum(1)
    loss = (seen * target).sum(1) - (along[..., 0] * solved[..., 1]).sum(1)
    factor = gain / torch.where(loss.abs() < 1e-6, torch.full_like(loss, 1e-6), loss)
    step: Tensor = factor[:, None] * solved[..., 1] - solved[..., 0]
    return step


def _move(images: Tensor, crop: Tensor) -> Tensor:
    """Read images (B, S, S) at crops (B, 4), bilinearly; outside there is what is at the edge."""
    base = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    across, down = (
        (
            1
            - (
                ((scale[:, None] * base + shift[:, None] + 1) * SIDE / 2 - 0.5).clamp(0, SIDE - 1)[..., None]
                - torch.arange(SIDE)
            ).abs()
        ).clamp(min=0)
        for scale, shift in ((crop[:, 0], crop[:, 1]), (crop[:, 2], crop[:, 3]))
    )
    return down @ images @ across.transpose(1, 2)


def _blurring() -> Tensor:
    """Return the matrix (S, S) that takes the mean over the neighbours on a side, reflected at its ends."""
    edge = _BLUR // 2
    rows = functional.avg_pool1d(functional.pad(torch.eye(SIDE)[None], (edge, edge), mode="reflect"), _BLUR, 1)
    return rows[0].T


def _centred(images: Tensor) -> Tensor:
    return images - images.mean((-2, -1), keepdim=True)


def _cosine(one: Tensor, two: Tensor) -> Tensor:
    """Return the cosine of centred images (B, S, S): Pearson's correlation; a blank one resembles nothing."""
    length = one.square().sum((1, 2)).sqrt() * two.square().sum((1, 2)).sqrt()
    return (one * two).sum((1, 2)) / length.clamp(min=1e-3)
