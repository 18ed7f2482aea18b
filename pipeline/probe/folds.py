"""Folds: a stratified partition of train that keeps tied rows together and does not depend on their order."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array

from ..datasets.columns.dataset import Task
from ..datasets.columns.units import find_units
from ..metrics.scores import known

__all__ = ["assign_folds"]


def assign_folds(
    keys: npt.NDArray[np.uint8],
    groups: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    task: Task,
    n_classes: int,
    folds: int,
    seed: int,
) -> npt.NDArray[np.int8]:
    """Put every row into one of at most `folds` folds, whole patients and whole repeated images together.

    A class (multi-label: the positives of a label) that stands in fewer units than `folds` shrinks their number, to
    two at least. A class that one unit holds alone does not: however few the folds, the probe that must not see
    that unit never sees the class. Rows of unknown label get a fold as well, since a patient or a copy of theirs may
    be labelled.

    Parameters
    ----------
    keys : (N, 16) uint8
    groups : (N,) patient, -1 none
    labels : (N,) class index, -1 unknown; or (N, L) of 0/1, 255 unknown

    Returns
    -------
    (N,) int8 in 0…K-1: a pure function of the seed and the set of (key, label, partition by group); all -1 (no
    folds) where there are fewer than two units
    """
    unit = find_units(keys, groups)
    n_units = int(unit.max()) + 1
    if n_units < 2:
        return np.full(len(keys), -1, np.int8)
    strata = _strata(labels, task, n_classes)
    per_unit = csr_array(coo_array((np.ones(len(strata), np.int64), (unit[strata[:, 0]], strata[:, 1]))))
    per_unit.sum_duplicates()  # rows of one unit, and columns in order, so that costs add up alike in any order of rows
    in_units = np.bincount(per_unit.indices, minlength=n_classes)[:n_classes]
    rare = in_units[in_units >= 2].min(initial=folds)
    fold = _deal(per_unit, _shuffled(keys, unit, seed), max(2, min(folds, int(rare), n_units)))
    return fold[unit]


def _strata(labels: npt.NDArray[Any], task: Task, n_classes: int) -> npt.NDArray[np.int64]:
    """Return pairs (row, stratum) to be balanced, (M, 2): the classes first, then what else tells rows apart."""
    given = known(labels, task)
    if task == "multiclass":
        return np.stack([np.arange(len(labels)), np.where(given, labels, n_classes)], 1)
    positive = np.argwhere(given & (labels == 1))
    negative = np.argwhere(given & (labels == 0)) + np.array([0, n_classes])
    nothing = np.flatnonzero(~given.any(1))
    return np.concatenate([positive, negative, np.stack([nothing, np.full(len(nothing), 2 * n_classes)], 1)])


def _shuffled(keys: npt.NDArray[np.uint8], unit: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Return the units in the order they are dealt: large ones first, while there is room to even them out."""
    size = np.bincount(unit)
    smallest = np.lexsort((*keys.T[::-1], unit))[np.cumsum(size) - size]  # row of each unit's smallest key
    salt = f"medal:fold {seed} ".encode()
    digests = b"".join(blake2b(salt + key.tobytes(), digest_size=8).digest() for key in keys[smallest])
    return np.lexsort((np.frombuffer(digests, "<u8"), -size))


def _deal(per_unit: csr_array[Any, tuple[int, int]], order: npt.NDArray[np.int64], folds: int) -> npt.NDArray[np.int8]:
    """Give each unit the fold where it adds least to Σ (rows of a stratum in a fold / rows of the stratum)²."""
    starts, strata, counts = per_unit.indptr, per_unit.indices, per_unit.data
    scale = 1.0 / np.maximum(per_unit.sum(0), 1).astype(np.float64) ** 2
    filled = np.zeros((folds, per_unit.shape[1]))
    rows = np.zeros(folds)
    fold = np.empty(per_unit.shape[0], np.int8)
    for unit in order:
        here = slice(starts[unit], starts[unit + 1])
        columns, count = strata[here], counts[here]
        cost = filled[:, columns] @ (count * scale[columns])
        best = int(np.lexsort((rows, cost))[0])
        filled[best, columns] += count
        rows[best] += count.sum()
        fold[unit] = best
    return fold
