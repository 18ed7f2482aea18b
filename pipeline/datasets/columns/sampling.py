"""A few rows of each split, for trials: of every class, in its share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from .dataset import SPLITS, Dataset
from .units import image_numbers

__all__ = ["sample_rows"]

# Of each class: a probe needs two in train, and a figure of a class one in val and test.
_LEAST = {0: 2, 1: 1, 2: 1}


def sample_rows(
    dataset: Dataset, key: npt.NDArray[np.uint8], split: npt.NDArray[np.int8], count: int
) -> npt.NDArray[np.int64]:
    """Return at most `count` rows of each split, in dataset order, (M,) int64.

    Every class keeps two rows in train and one elsewhere where it has them, and its share beyond that; of several
    labels an image counts for its rarest. Which rows of a class are taken their keys decide, never their order.

    Parameters
    ----------
    key : (N, 16) uint8
    split : (N,) int8 index into `SPLITS`

    Raises
    ------
    DataError
        There are more classes than `count` has room for.
    """
    number = image_numbers(key)
    stratum = _rarest(dataset)
    taken = [
        _of_split(dataset, np.flatnonzero(split == index), stratum, number, index, count)
        for index in range(len(SPLITS))
    ]
    return np.sort(np.concatenate(taken))


def _rarest(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Return the class of each row, or its rarest label, (N,) int64; the number of classes = none is known."""
    classes = len(dataset.classes)
    if dataset.task == "multiclass":
        return np.where(dataset.label >= 0, dataset.label, classes).astype(np.int64)
    ones = dataset.label == 1
    order = np.argsort(ones.sum(0), kind="stable")
    first = ones[:, order].argmax(1)
    return np.where(ones.any(1), order[first], classes)


def _of_split(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    stratum: npt.NDArray[np.int64],
    number: npt.NDArray[np.int64],
    split: int,
    count: int,
) -> npt.NDArray[np.int64]:
    if len(rows) <= count:
        return rows
    sizes = np.bincount(stratum[rows], minlength=len(dataset.classes) + 1)
    least = np.minimum(sizes, _LEAST[split])
    least[-1] = 0
    if least.sum() > count:
        if split == 0:
            raise DataError(
                f"--limit {count} has no room for {_LEAST[split]} train images of each of the "
                f"{int((sizes[:-1] > 0).sum())} classes of dataset '{dataset.name}'; expected --limit {least.sum()} or "
                "more."
            )
        least = np.zeros_like(least)
    quota = least
    for _ in range(count - int(quota.sum())):
        # Webster's rule: proportional at every count.
        share = np.where(quota < sizes, sizes / (2 * quota + 1), -1.0)
        quota[share.argmax()] += 1
    by_class = rows[np.lexsort((rows, number[rows], stratum[rows]))]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return np.concatenate([by_class[start : start + wanted] for start, wanted in zip(starts[:-1], quota, strict=True)])
