"""Few labels: student and probe use only a share of the labels of train and val."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.reader import Cache
from ...pipeline.datasets.columns.dataset import UNKNOWN_BIT, UNKNOWN_CLASS, Task
from ...pipeline.datasets.columns.units import find_units
from ..settings import StudentSettings
from .load import Targets
from .refitting import hide_labels, refit

__all__ = ["choose_labelled", "forget_labels"]

# Of each class, for any share: a probe cannot learn from one image.
_FEWEST = 2


def forget_labels(targets: Targets, cache: Cache, settings: StudentSettings) -> Targets:
    """Keep a share of the labels of train and val, and refit the probe on them from the cached features.

    Labelled rows get out-of-fold logits of that probe, K folds within the share; all others those of the probe fitted
    on the whole share, which has not seen their labels. The same share of val's labels is kept: they choose temperature
    and epoch, so they count as labelling effort too. Labels of test are only used for measuring, and all are kept.

    Parameters
    ----------
    targets : with features

    Raises
    ------
    DataError
        The labels that are left are all of one class.
    """
    kept = {
        name: choose_labelled(
            part.key, part.group, part.label, targets.task, fraction=settings.label_fraction, seed=settings.seed
        )
        for name, part in targets.splits.items()
        if name != "test"
    }
    label = {name: hide_labels(targets.splits[name].label, ~rows, targets.task) for name, rows in kept.items()}
    val = {name: replace(targets.splits[name], label=label[name]) for name in kept if name == "val"}
    targets = refit(replace(targets, splits={**targets.splits, **val}), cache, kept["train"])
    blind = replace(targets.splits["train"], label=label["train"])
    fit = {**targets.fit, "labelled": int(kept["train"].sum())}
    return replace(targets, splits={**targets.splits, "train": blind}, fit=fit)


def choose_labelled(
    key: npt.NDArray[np.uint8],
    group: npt.NDArray[Any],
    label: npt.NDArray[Any],
    task: Task,
    *,
    fraction: float,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Choose the rows whose labels are kept, (N,) bool: whole patients and copies, by class, two of each at least.

    Within a class (multi-label: among those whose rarest label it is) units are taken in the order of a hash until the
    share is reached, so that a smaller share is part of a larger one. A pure function of the seed and the rows.

    Parameters
    ----------
    key : (N, 16) uint8
    group : (N,) patient, -1 none
    label : (N,) class index, -1 unknown; or (N, L) of 0/1, 255 unknown
    """
    unit = find_units(key, group)
    rarest = _rarest(label, task, unit)
    size = np.bincount(unit)
    order = np.argsort(_tickets(key, unit, seed), kind="stable")
    chosen = np.zeros(len(size), np.bool_)
    for stratum in np.unique(rarest[rarest >= 0]).tolist():
        units = order[rarest[order] == stratum]
        before = np.cumsum(size[units]) - size[units]
        # Slightly less than the share, so that 0.2 of 10 rows is 2 and not 3.
        wanted = before < fraction * size[units].sum() - 1e-9
        wanted[:_FEWEST] = True
        chosen[units[wanted]] = True
    return np.asarray(chosen[unit])


def _rarest(label: npt.NDArray[Any], task: Task, unit: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the stratum of each unit: the rarest class it has, (U,); -1 where no label of it is known."""
    if task == "multiclass":
        rows, strata = np.flatnonzero(label != UNKNOWN_CLASS), label[label != UNKNOWN_CLASS].astype(np.int64)
    else:
        rows, strata = np.nonzero(label == 1)
        nothing = np.flatnonzero(~(label == 1).any(1) & (label != UNKNOWN_BIT).any(1))
        rows, strata = np.append(rows, nothing), np.append(strata, np.full(len(nothing), label.shape[1]))
    count = np.bincount(strata)
    rarest = np.full(int(unit.max()) + 1, -1, np.int64)
    # From the most frequent to the rarest, so that the rarest is written last.
    for stratum in np.lexsort((np.arange(len(count)), -count)).tolist():
        rarest[unit[rows[strata == stratum]]] = stratum
    return rarest


def _tickets(key: npt.NDArray[np.uint8], unit: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """Return a number for each unit that depends on its smallest key and the seed alone, (U,)."""
    by_unit = np.lexsort((*key.T[::-1], unit))
    size = np.bincount(unit)
    smallest = by_unit[np.cumsum(size) - size]
    salt = f"medal:labelled {seed} ".encode()
    digests = b"".join(blake2b(salt + row.tobytes(), digest_size=8).digest() for row in key[smallest])
    return np.frombuffer(digests, "<u8").astype(np.uint64)
