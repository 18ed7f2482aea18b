"""Thumbnails of a set's images; similarity between one and crops of another proposes near-duplicates.

Teacher features are made to be the same for what means the same, and a small X-ray that is cropped and compressed may
lie nearer to hundreds of others than to its original. Its thumbnail does not: where what all images of a set share is
taken out (principal directions brought to the same variance), the right crop of an original is nearest to its copy.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...cache.errors import DataError
from ...cache.machine.processors import usable_processors
from ...cache.progress import Advance
from ..views.transforms import resize_images
from .neighbours import Pairs
from .subject import Subject

__all__ = ["CROPS", "SIDE", "Likeness", "fit_likeness", "propose_by_pixels", "read_images", "shrink"]

# Grey, at this side: crops of a few per cent show, and JPEG's blocks hardly do. Likeness is of half of it.
SIDE = 32
_COARSE = 16
# On 5,856 X-rays of 28 px 32 to 128 directions, and ridges of 0.001 to 0.01, proposed planted copies alike.
_DIRECTIONS, _RIDGE = 64, 0.01
# Shares of the side that a crop keeps, and where it begins: the whole, and nine places of each other.
CROPS = torch.tensor(
    [(1.0, 0.0, 0.0)]
    + [(s, down * (1 - s), right * (1 - s)) for s in (0.93, 0.86) for down in (-1, 0, 1) for right in (-1, 0, 1)]
)  # (V, 3): share, and shift down and to the right in halves of the side
# An image may have copies that resemble it more than the one in another split.
_NEAREST = 6
# Numbers at a time in the search: 64 MB.
_NUMBERS = 1 << 24


@dataclass(frozen=True, eq=False)
class Likeness:
    """Mean (P,) and directions (P, k) that bring coarse thumbnails to unit variance."""

    mean: Tensor
    directions: Tensor

    def of_wholes(self, images: Tensor) -> Tensor:
        """Return images (N, S, S) as vectors of length 1, (N, k)."""
        return self._project(_coarse(images, CROPS[:1]))[:, 0]

    def of_crops(self, images: Tensor) -> Tensor:
        """Return all crops of images (N, S, S) as vectors of length 1, (N, V, k)."""
        return self._project(_coarse(images, CROPS))

    def _project(self, coarse: Tensor) -> Tensor:
        return torch.nn.functional.normalize((coarse - self.mean) @ self.directions, dim=-1)


def fit_likeness(images: Tensor) -> Likeness:
    """Fit what images (N, S, S) of a set share."""
    coarse = _coarse(images, CROPS[:1])[:, 0]
    mean = coarse.mean(0)
    centred = coarse - mean
    values, vectors = torch.linalg.eigh((centred.T @ centred).double() / max(1, len(images) - 1))
    count = max(1, min(_DIRECTIONS, len(images) // 4))
    values, vectors = values.flip(0)[:count].clamp(min=0), vectors.flip(1)[:, :count]
    scale = (values + _RIDGE * values[0].clamp(min=1e-12)).sqrt()
    return Likeness(mean, (vectors / scale).float())


def read_images(subject: Subject, rows: npt.NDArray[np.int64]) -> tuple[Tensor, npt.NDArray[np.bool_]]:
    """Read images as thumbnails: (N, S, S), and whether each is at hand, (N,); the others are black."""
    with ThreadPoolExecutor(usable_processors()) as readers:
        read = list(readers.map(partial(_read, subject), rows.tolist()))
    there = np.array([one is not None for one in read], np.bool_)
    black = torch.zeros(SIDE, SIDE)
    return torch.stack([black if one is None else one for one in read]), there


def _read(subject: Subject, row: int) -> Tensor | None:
    source = int(subject.source[row])
    if source < 0:
        return None
    try:
        return shrink([subject.dataset.images.read(source)])[0]
    except DataError:
        return None


def shrink(images: list[npt.NDArray[Any]]) -> Tensor:
    """Return images (H, W, C) as grey thumbnails, (N, S, S)."""
    return resize_images(images, SIDE, "squash").mean(1)


def propose_by_pixels(likeness: Likeness, images: Tensor, count: int, advance: Advance = lambda _: None) -> Pairs:
    """Propose, for each image, the few others most similar to it or to a crop of it; the most similar first.

    Parameters
    ----------
    images : (N, S, S)
    count : pairs at most
    """
    total = len(images)
    with torch.inference_mode():
        wholes = likeness.of_wholes(images)  # (N, k)
        nearest = min(_NEAREST, total - 1)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        step = max(1, _NUMBERS // (len(CROPS) * total))
        for start in range(0, total, step):
            crops = likeness.of_crops(images[start : start + step])
            cosine = torch.einsum("bvk,nk->vbn", crops, wholes).amax(0)  # (B, N)
            place = torch.arange(len(crops))
            cosine[place, start + place] = -2.0
            best, other = cosine.topk(nearest, 1)
            found.append(((place + start)[:, None].expand_as(other).flatten(), other.flatten(), best.flatten()))
            advance(len(crops))
    one, two, alike = (torch.cat(column).numpy() for column in zip(*found, strict=True))
    left, right = np.minimum(one, two), np.maximum(one, two)
    order = np.lexsort((right, left, -alike))
    # A pair that both of its images propose counts once, at its best.
    _, first = np.unique((left * total + right)[order], return_index=True)
    kept = order[np.sort(first)]
    return Pairs(left[kept][:count], right[kept][:count], alike[kept][:count], len(kept) <= count)


def _coarse(images: Tensor, crops: Tensor) -> Tensor:
    """Return crops (V, 3) of images (N, S, S), coarse, centred and of length 1: (N, V, P)."""
    down, right = (_sampling(crops[:, 0], crops[:, axis]) for axis in (1, 2))  # (V, C, S)
    coarse = torch.einsum("vyi,nij,vxj->nvyx", down, images, right).flatten(2)
    coarse = coarse - coarse.mean(-1, keepdim=True)
    # A blank image resembles nothing.
    result: Tensor = coarse / coarse.norm(dim=-1, keepdim=True).clamp(min=1e-3)
    return result


def _sampling(share: Tensor, shift: Tensor) -> Tensor:
    """Return matrices (V, C, S) that read a side at C places of a crop, by triangles as wide as two of these."""
    base = (torch.arange(_COARSE) + 0.5) * 2 / _COARSE - 1  # middles of the pixels, of a side from -1 to 1
    places = (share[:, None] * base + shift[:, None] + 1) * SIDE / 2 - 0.5  # (V, C)
    width = (share * SIDE / _COARSE).clamp(min=1)[:, None, None]
    weights = (1 - (places[..., None] - torch.arange(SIDE)).abs() / width).clamp(min=0)
    read: Tensor = weights / weights.sum(-1, keepdim=True)
    return read
