"""The bootstrap: how far a test set of this size can be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .datasets.dataset import Task
from .scores import Ranking, hits, known, probabilities, rankings

__all__ = ["Resamples", "bootstrap"]

# Weights of one block of resamples: 4 or 8 MiB, so that memory stays small and rows stay in the processor's cache.
_BLOCK_ITEMS = 1 << 20
_BLOCK_RESAMPLES = 32


@dataclass(frozen=True, eq=False)
class Resamples:
    """AUROC and accuracy of each resample, (B,) float64, NaN where undefined.

    Resamples of the same rows with the same seed are the same draws, so that two models can be compared pairwise.
    """

    auroc: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    def intervals(self) -> dict[str, list[float]]:
        """Return the 95 % percentile intervals, NaN where no resample is defined."""
        return {"auroc": _interval(self.auroc), "accuracy": _interval(self.accuracy)}


@dataclass(frozen=True, eq=False)
class _Sorted:
    """One ranking, prepared so that a resample costs no sorting: per positive row, how many negatives lie below."""

    positive: npt.NDArray[np.int64]  # (P,) rows
    negative: npt.NDArray[np.int64]  # (M,) rows by ascending value
    below: npt.NDArray[np.int64]  # (P,) count of negatives with a smaller value
    up_to: npt.NDArray[np.int64]  # (P,) count of negatives with a smaller or equal value


def bootstrap(
    logits: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    task: Task,
    *,
    groups: npt.NDArray[Any] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Resamples:
    """Draw rows with replacement and score each draw; a class that a draw lacks is left out of its macro mean.

    Parameters
    ----------
    logits : (N, C)
    labels : (N,) class index, -1 unknown; or (N, C) of 0/1, 255 unknown
    groups : (N,) patient of each row, -1 none: patients are drawn whole, since their images resemble each other
    seed : of the draws, which depend on the order of rows too
    """
    given = known(labels, task)
    rows = np.flatnonzero(given if task == "multiclass" else given.any(1))
    if not len(rows):
        return Resamples(np.full(resamples, np.nan), np.full(resamples, np.nan))
    labels = labels[rows]
    probability = probabilities(logits[rows], task)
    prepared = [_prepare(item) for item in rankings(probability, labels, task)]
    hit, counts = hits(probability, labels, task)  # (N, L)
    auroc, accuracy = [], []
    for weight in _weights(_units(len(rows), None if groups is None else groups[rows]), seed, resamples):
        auroc.append(_row_mean(np.array([_weighted_auroc(item, weight) for item in prepared])))
        accuracy.append(_row_mean(_ratio(_sums(hit, weight), _sums(counts, weight))))
    return Resamples(np.concatenate(auroc), np.concatenate(accuracy))


def _units(n_rows: int, groups: npt.NDArray[Any] | None) -> npt.NDArray[np.int64]:
    """Return what is drawn together: (N,) unit numbers from 0; a row without a group is its own unit."""
    if groups is None:
        return np.arange(n_rows)
    own = np.arange(n_rows) + (int(groups.max()) + 1)
    _, first, unit = np.unique(np.where(groups >= 0, groups, own), return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # by first appearance: the group numbers themselves mean nothing
    return np.asarray(order[unit], np.int64)


def _weights(unit: npt.NDArray[np.int64], seed: int, resamples: int) -> Iterator[npt.NDArray[Any]]:
    """Yield how often each row was drawn, (N, b) float32 or float64, in blocks of b resamples."""
    generator = np.random.default_rng(seed)
    n_units = int(unit.max()) + 1
    # float32 halves the traffic and is exact for whole numbers to 2²⁴; the sums below reach twice the total weight.
    exact = 2 * n_units * int(np.bincount(unit).max()) <= 1 << 24
    block = max(1, min(_BLOCK_RESAMPLES, _BLOCK_ITEMS // len(unit)))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.integers(0, n_units, (size, n_units)) + np.arange(size)[:, None] * n_units
        times = np.bincount(drawn.ravel(), minlength=size * n_units).reshape(size, n_units)
        yield times.astype(np.float32 if exact else np.float64).T[unit]


def _prepare(ranking: Ranking) -> _Sorted:
    positive = np.flatnonzero(ranking.positive)
    negative = np.flatnonzero(ranking.negative)
    # Positives ascending too, so that the look-ups below walk through memory in order.
    positive = positive[np.argsort(ranking.value[positive], kind="stable")]
    negative = negative[np.argsort(ranking.value[negative], kind="stable")]
    values, high = ranking.value[negative], ranking.value[positive]
    return _Sorted(positive, negative, np.searchsorted(values, high, "left"), np.searchsorted(values, high, "right"))


def _weighted_auroc(item: _Sorted, weight: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the AUROC under each column of weights (N, b): (b,), NaN where a side has no weight."""
    running = np.zeros((len(item.negative) + 1, weight.shape[1]), weight.dtype)
    np.cumsum(weight[item.negative], axis=0, out=running[1:])
    positive = weight[item.positive]
    twice_won = np.einsum("pb,pb->b", positive, running[item.below] + running[item.up_to], dtype=np.float64)
    return _ratio(twice_won, 2 * positive.sum(0, dtype=np.float64) * running[-1])


def _sums(flags: npt.NDArray[np.bool_], weight: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the weight of the flagged rows: (N, L) and (N, b) → (L, b)."""
    return np.asarray(flags.T.astype(weight.dtype) @ weight, np.float64)


def _ratio(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _row_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean over the first axis of what is not NaN: (classes, b) → (b,)."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(0), defined.sum(0).astype(np.float64))


def _interval(values: npt.NDArray[np.float64]) -> list[float]:
    defined = values[~np.isnan(values)]
    return np.percentile(defined, (2.5, 97.5)).tolist() if len(defined) else [float("nan")] * 2
