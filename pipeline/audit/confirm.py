"""Near-duplicates by pixels: whether one image, cropped or not, lies on the other, however bright.

Features propose pairs and pixels confirm them. DINOv2 is made to see the same in what means the same, and so in two
patients of one build; the correlation of pixels is not, and is asked about the pairs alone that features propose.
"""

from __future__ import annotations

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


def correlations(
    subject: Subject, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return how far each pair's images agree where they agree best, (M, 2): correlation, and that of fine detail.

    NaN where an image is not at hand or cannot be decoded.
    """
    grid = _crops()
    held: dict[int, Tensor | None] = {}

    def image(row: int) -> Tensor | None:
        if row not in held:
            held[row] = _read(subject, row)
        return held[row]

    found = np.full((len(left), 2), np.nan)
    with torch.inference_mode():
        for place, (one, other) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
            first, second = image(one), image(other)
            if first is not None and second is not None:
                found[place] = np.maximum(_agreement(first, second, grid), _agreement(second, first, grid))
    return found


def _read(subject: Subject, row: int) -> Tensor | None:
    """Return an image as (1, 1, S, S), grey; None if it cannot be had."""
    source = int(subject.source[row])
    if source < 0:
        return None
    try:
        pixels = resize_images([subject.dataset.images.read(source)], _SIDE, "squash")
    except DataError:
        return None
    return pixels.mean(1, keepdim=True)


def _crops() -> Tensor:
    """Return where crops are read from, (n, S, S, 2): the whole first."""
    places = [
        torch.tensor([[share, 0.0, across], [0.0, share, down]])
        for share in _SHARES
        for across in ((0.0,) if share == 1 else (share - 1, 0.0, 1 - share))
        for down in ((0.0,) if share == 1 else (share - 1, 0.0, 1 - share))
    ]
    return functional.affine_grid(torch.stack(places), [len(places), 1, _SIDE, _SIDE], align_corners=False)


def _agreement(cropped: Tensor, whole: Tensor, grid: Tensor) -> tuple[float, float]:
    """Return the correlations of the crop of one image that agrees best, in detail, with the whole other."""
    crops = functional.grid_sample(
        cropped.expand(len(grid), -1, -1, -1), grid, align_corners=False, padding_mode="reflection"
    )  # (n, 1, S, S)
    detail = _correlate(_fine(crops), _fine(whole))
    best = int(detail.argmax())
    return float(_correlate(crops[best : best + 1], whole)[0]), float(detail[best])


def _fine(pixels: Tensor) -> Tensor:
    edge = _BLUR // 2
    return pixels - functional.avg_pool2d(functional.pad(pixels, (edge,) * 4, mode="reflect"), _BLUR, 1)


def _correlate(pixels: Tensor, other: Tensor) -> Tensor:
    """Return Pearson's correlation of each image (n, 1, S, S) with one (1, 1, S, S): (n,)."""
    pixels, other = (one - one.mean((1, 2, 3), keepdim=True) for one in (pixels, other))
    # A blank image resembles nothing.
    length = pixels.square().sum((1, 2, 3)).sqrt() * other.square().sum((1, 2, 3)).sqrt()
    return (pixels * other).sum((1, 2, 3)) / length.clamp(min=1e-3)
