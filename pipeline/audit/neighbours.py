"""Near-duplicates by whitened features, so that what all images share does not count; searched in blocks.

The cosine of raw DINOv2 features says little inside one modality: two chest X-rays of different patients reach 0.99.
Centred, and every direction brought to the same variance, unrelated images are about orthogonal, and a crop, a
re-compressed or a brighter copy still points the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.progress import Advance

__all__ = ["Calibration", "Pairs", "calibrate", "cosines_of_views", "fit_whitening", "propose", "search"]

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# Principal directions kept: more add noise to the cosine of copies, and time: on 5,856 X-rays and 780 ultrasounds 64 to
# 256 separate planted copies alike.
_DIRECTIONS = 128
# Rows that mean and covariance are taken from, and that the threshold is calibrated on.
_FITTED, _PROBED = 20_000, 2_000
# Blocks of the search: two of them and their product stay in a processor's second-level cache.
_BLOCK = 2048
# Above this, the least similar are dropped: a set of blank images would have more pairs than fit into memory.
_MOST_PAIRS = 1_000_000
# Bounds of the calibrated threshold: below, pairs are alike and no copies; above, no JPEG of quality 60 would be found.
_LOWEST, _HIGHEST = 0.55, 0.85
# Of each image so many others are looked at: it may have copies that resemble it more than the one in another split.
_NEAREST = 3


@dataclass(frozen=True, eq=False)
class Whitening:
    """Mean (F,) and directions (F, k) float32 that bring features to unit variance."""

    mean: Floats
    directions: Floats

    def apply(self, feature: npt.NDArray[Any]) -> Floats:
        """Return the whitened features (N, F) → (N, k) float32, each row of length 1."""
        result = np.empty((len(feature), self.directions.shape[1]), np.float32)
        for start in range(0, len(feature), _BLOCK):
            part = (feature[start : start + _BLOCK].astype(np.float32) - self.mean) @ self.directions
            result[start : start + _BLOCK] = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        return result


@dataclass(frozen=True)
class Calibration:
    """From which cosine on two images count as near-duplicates, and what that was taken from.

    Attributes
    ----------
    lowest : from here on pixels are asked: nearly all images (of many, three of four) have a neighbour as near
    source : ``views``: stored views of the same image; ``neighbours``: how alike the nearest neighbours of most images
        are; ``copies``: changed copies of the set's own images, and then of likeness by pixels; ``asked``
    typical : median cosine of an image to its nearest neighbour
    """

    threshold: float
    lowest: float
    source: str
    typical: float


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows `left` < `right`, (M,) int64, with their cosine, (M,) float32; `all_kept` if none was let go."""

    left: Rows
    right: Rows
    cosine: Floats
    all_kept: bool


def fit_whitening(feature: npt.NDArray[Any]) -> Whitening:
    """Fit a whitening on features (N, F): principal directions over their standard deviation, with a small ridge.

    Parameters
    ----------
    feature : (N, F) float16 or float32; of more than 20,000 rows an even sample serves
    """
    sample = feature[:: max(1, -(-len(feature) // _FITTED))].astype(np.float32)
    mean = sample.mean(0, dtype=np.float64)
    centred = (sample - mean).astype(np.float32)
    covariance = (centred.T @ centred).astype(np.float64) / max(1, len(sample) - 1)
    values, vectors = np.linalg.eigh(covariance)
    # A direction that a handful of rows spans is those rows' own: of N rows N / 4 directions are estimated.
    count = max(1, min(_DIRECTIONS, len(sample) // 4, len(values)))
    values, vectors = np.maximum(values[::-1][:count], 0.0), vectors[:, ::-1][:, :count]
    ridge = 1e-4 * max(values[0], 1e-12)
    return Whitening(mean.astype(np.float32), (vectors / np.sqrt(values + ridge)).astype(np.float32))


def cosines_of_views(whitening: Whitening, views: npt.NDArray[Any]) -> Floats:
    """Return the cosine of each stored view to its canonical one, (N·(V-1),), from features (N, V, F)."""
    count = views.shape[1]
    first = whitening.apply(views[:, 0])
    return np.concatenate([np.einsum("nk,nk->n", first, whitening.apply(views[:, v])) for v in range(1, count)])


def calibrate(whitened: Floats, of_views: Floats | None = None) -> Calibration:
    """Choose the lowest cosine of near-duplicates.

    Unrelated images have nearest neighbours whose cosines lie close together; copies stand far above that bulk. The
    threshold is six of the bulk's spreads above its lower quartile: the lower half is what copies, however many there
    are, do not reach. Where views are stored, nineteen of twenty of them shall be found, if that is higher: views may
    be moved further than a copy is, and then the bulk decides.

    Parameters
    ----------
    whitened : (N, k) float32 of different images, rows of length 1
    of_views : cosines of stored views to their image, if there are any
    """
    rows = np.arange(0, len(whitened), max(1, -(-len(whitened) // _PROBED)))
    nearest = np.full(len(rows), -1.0, np.float32)
    for start in range(0, len(whitened), _BLOCK):
        cosine = whitened[rows] @ whitened[start : start + _BLOCK].T
        here = np.flatnonzero((rows >= start) & (rows < start + _BLOCK))
        cosine[here, rows[here] - start] = -1.0
        np.maximum(nearest, cosine.max(1), out=nearest)
    low, quarter, half = np.quantile(nearest, (0.05, 0.25, 0.5)).tolist()
    bulk = min(max(quarter + 6 * (quarter - low), _LOWEST), _HIGHEST)
    # Of many rows, all with their nearest would be more pairs than pixels can be asked about.
    lowest = low if len(whitened) <= _FITTED else quarter
    if of_views is not None and len(of_views):
        seen = min(np.quantile(of_views, 0.05).item(), _HIGHEST)
        if seen > bulk:
            return Calibration(seen, min(lowest, seen), "views", half)
    return Calibration(bulk, min(lowest, bulk), "neighbours", half)


def search(whitened: Floats, threshold: float, advance: Advance = lambda _: None) -> Pairs:
    """Find all pairs of rows whose cosine is at least `threshold`: N² / 2 products, in blocks that stay in cache.

    Parameters
    ----------
    whitened : (N, k) float32, rows of length 1
    """
    import torch

    rows = torch.from_numpy(np.ascontiguousarray(whitened))
    found: list[tuple[Rows, Rows, Floats]] = []
    kept, all_kept = 0, True
    # Made once: freed and made again for each block, memory grew to 12 GB.
    side = min(_BLOCK, len(rows))
    product = torch.empty(side, side)
    with torch.inference_mode():
        for start in range(0, len(rows), _BLOCK):
            for other in range(start, len(rows), _BLOCK):
                one, two = rows[start : start + _BLOCK], rows[other : other + _BLOCK]
                cosine = product[: len(one), : len(two)]  # (B, B)
                torch.mm(one, two.T, out=cosine)
                if other == start:
                    cosine.triu_(1)
                # Few rows have any: one pass to find them, and the search itself among these alone.
                near = (cosine.amax(1) >= threshold).nonzero()[:, 0]
                if not len(near):
                    continue
                cosine = cosine[near]
                place, right = (cosine >= threshold).nonzero(as_tuple=True)
                left = near[place]
                found.append(((left + start).numpy(), (right + other).numpy(), cosine[place, right].numpy()))
                kept += len(left)
                if kept > 2 * _MOST_PAIRS:
                    found, threshold = _thin(found, threshold)
                    kept, all_kept = len(found[0][0]), False
            advance(min(_BLOCK, len(rows) - start))
    if kept > _MOST_PAIRS:
        found, _ = _thin(found, threshold)
        all_kept = False
    if not found:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), all_kept)
    left_rows, right_rows, cosines = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((right_rows, left_rows, -cosines))
    return Pairs(left_rows[order], right_rows[order], cosines[order], all_kept)


def propose(pairs: Pairs, count: int) -> Pairs:
    """Keep of each row the pairs with its few nearest others: those that pixels are asked about, the most alike first.

    Parameters
    ----------
    pairs : as `search` gives them, by falling cosine
    count : at most so many in all
    """
    row = np.concatenate([pairs.left, pairs.right])
    pair = np.tile(np.arange(len(pairs.left)), 2)
    order = np.lexsort((pair, row))
    row, pair = row[order], pair[order]
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    nth = np.arange(len(row)) - np.repeat(starts, np.diff(np.append(starts, len(row))))
    kept = np.unique(pair[nth < _NEAREST])
    return Pairs(
        pairs.left[kept][:count],
        pairs.right[kept][:count],
        pairs.cosine[kept][:count],
        pairs.all_kept and len(kept) <= count,
    )


def _thin(found: list[tuple[Rows, Rows, Floats]], threshold: float) -> tuple[list[tuple[Rows, Rows, Floats]], float]:
    """Keep the most similar pairs, and return the cosine from which on others count."""
    left, right, cosine = (np.concatenate(column) for column in zip(*found, strict=True))
    best = np.argsort(-cosine, kind="stable")[:_MOST_PAIRS]
    return [(left[best], right[best], cosine[best])], max(threshold, float(cosine[best[-1]]))
