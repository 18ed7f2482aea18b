"""Near-duplicates by pixels: whether one image, cropped or not, lies on the other, however bright.

Features propose pairs and pixels confirm them. DINOv2 is made to see the same in what means the same, and so in two
patients of one build; the correlation of pixels is not, and is asked about the pairs alone that features propose.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ...cache.errors import DataError
from ..views import resize_images
from .subject import Subject

__all__ = ["CONFIRMED", "correlations"]

# Grey, at this side: crops of a few per cent show, and JPEG's blocks hardly do.
_SIDE = 32
# Shares of the side that a crop keeps; of each but the whole, nine places.
_SHARES = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85)
# X-rays of different children reached 0.972 and, without what is coarser than a fifth of the side, 0.907; planted
# copies (crops that keep 0.92, JPEG at quality 60, brightness ± 20 %) had 0.99 and 0.90 (ultrasound) or 0.95 (X-rays).
CONFIRMED = (0.975, 0.895)
_BLUR = 7
# Pairs at a time: their crops take 10 MB.
_BATCH = 64


def correlations(
    subject: Subject, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return how far each pair's images agree where they agree best, (M, 2): correlation, and that of fine detail.

    NaN where an image is not at hand or cannot be decoded.
    """
    sampling, blur = _sampling(), _blurring()
    rows = np.unique(np.concatenate([left, right])).tolist()
    with ThreadPoolExecutor() as readers:
        images = list(readers.map(partial(_read, subject), rows))
    held = {row: pixels for row, pixels in zip(rows, images, strict=True) if pixels is not None}
    found = np.full((len(left), 2), np.nan)
    there = np.flatnonzero([one in held and other in held for one, other in zip(left, right, strict=True)])
    with torch.inference_mode():
        for start in range(0, len(there), _BATCH):
            part = there[start : start + _BATCH]
            first, second = (torch.stack([held[row] for row in side[part].tolist()]) for side in (left, right))
            agree = [_agreement(one, other, sampling, blur) for one, other in ((first, second), (second, first))]
            found[part] = torch.maximum(*agree).numpy()
    return found


def _read(subject: Subject, row: int) -> Tensor | None:
    """Return an image as (S, S), grey; None if it cannot be had."""
    source = int(subject.source[row])
    if source < 0:
        return None
    try:
        pixels = resize_images([subject.dataset.images.read(source)], _SIDE, "squash")
    except DataError:
        return None
    return pixels[0].mean(0)


def _sampling() -> list[Tensor]:
    """Return for each share the matrices (places, S, S) that read a crop of that share off a side, bilinearly."""
    base = (torch.arange(_SIDE) + 0.5) * 2 / _SIDE - 1  # middles of the pixels, of a side from -1 to 1
    sides = []
    for share in _SHARES:
        shifts = torch.tensor([0.0] if share == 1 else [share - 1, 0.0, 1 - share])
        across = (share * base + shifts[:, None]).unsqueeze(-1)  # (places, S, 1)
        grid = torch.cat([across, torch.zeros_like(across)], -1).view(1, -1, _SIDE, 2)
        # What is read off an image that is 1 in one column: the weight of that column.
        columns = torch.eye(_SIDE).view(1, _SIDE, 1, _SIDE)
        read = functional.grid_sample(columns, grid, align_corners=False, padding_mode="reflection")
        sides.append(read[0].permute(1, 2, 0))
    return sides


def _blurring() -> Tensor:
    """Return the matrix (S, S) that takes the mean over the neighbours on a side, reflected at its ends."""
    edge = _BLUR // 2
    rows = functional.avg_pool1d(functional.pad(torch.eye(_SIDE)[None], (edge, edge), mode="reflect"), _BLUR, 1)
    return rows[0].T


def _agreement(cropped: Tensor, whole: Tensor, sampling: list[Tensor], blur: Tensor) -> Tensor:
    """Return the correlations of the crop of each image that agrees best, in detail, with the whole other, (B, 2).

    Parameters
    ----------
    cropped, whole : (B, S, S), grey
    """
    count = len(cropped)
    crops = torch.cat(
        [torch.einsum("yij,bjk,xlk->byxil", side, cropped, side).reshape(count, -1, _SIDE, _SIDE) for side in sampling],
        1,
    )  # (B, n, S, S)
    detail = _correlate(crops - blur @ crops @ blur.T, (whole - blur @ whole @ blur.T)[:, None])  # (B, n)
    best = detail.argmax(1)
    plain = _correlate(crops[torch.arange(count), best][:, None], whole[:, None])
    return torch.cat([plain, detail.gather(1, best[:, None])], 1)


def _correlate(pixels: Tensor, other: Tensor) -> Tensor:
    """Return Pearson's correlation of images (B, n, S, S) with one of each row, (B, 1, S, S): (B, n)."""
    pixels, other = (one - one.mean((2, 3), keepdim=True) for one in (pixels, other))
    # A blank image resembles nothing.
    length = pixels.square().sum((2, 3)).sqrt() * other.square().sum((2, 3)).sqrt()
    return (pixels * other).sum((2, 3)) / length.clamp(min=1e-3)
