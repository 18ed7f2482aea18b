"""Rare classes: weights for the loss, priors for the logits, and an order in which every class comes equally often."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import StudentError
from ...pipeline.datasets.columns.dataset import UNKNOWN_CLASS, Task
from ..settings import StudentSettings

__all__ = ["balanced_order", "balanced_weights", "check_imbalance", "log_priors"]


def check_imbalance(settings: StudentSettings, task: Task) -> None:
    """Refuse what has no meaning for several labels.

    Raises
    ------
    StudentError
    """
    if task == "multiclass":
        return
    for asked, option in (
        (settings.sampler == "balanced", "--sampler balanced"),
        (settings.logit_adjustment, "--logit-adjustment"),
    ):
        if asked:
            raise StudentError(
                f"{option} needs classes that exclude each other, and this cache has several labels per image; give "
                "--class-weight balanced, which weights 0 and 1 of each label."
            )


def balanced_weights(label: npt.NDArray[Any], task: Task, classes: int) -> npt.NDArray[np.float32]:
    """Return the weight of each class, n / (C · n_c) as scikit-learn's ``balanced``, (C,); their mean over rows is 1.

    Multi-label: of each label where it is 0 and where it is 1, n / (2 · n_0) and n / (2 · n_1), (2, C), n the number of
    rows where it is known. What does not occur has weight 1, and never counts.
    """
    if task == "multiclass":
        count = np.bincount(label[label != UNKNOWN_CLASS], minlength=classes)
        kinds = (count > 0).sum()
    else:
        count = np.stack([(label == 0).sum(0), (label == 1).sum(0)])
        kinds = (count > 0).sum(0)
    weights = count.sum(0) / (np.maximum(kinds, 1) * np.maximum(count, 1))
    return np.asarray(np.where(count > 0, weights, 1.0), np.float32)


def log_priors(label: npt.NDArray[Any], classes: int) -> npt.NDArray[np.float32]:
    """Return log(n_c / n) of each class, (C,); one without a sample counts as half of one."""
    count = np.bincount(label[label != UNKNOWN_CLASS], minlength=classes)
    return np.asarray(np.log(np.maximum(count, 0.5) / max(1, count.sum())), np.float32)


def balanced_order(key: npt.NDArray[np.uint8], label: npt.NDArray[Any], seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the positions of an epoch in which every class stands equally often, (N,) int64.

    As many as there are rows. Rows of a rare class stand several times, those of a frequent one are a part that is
    another one in each epoch; what is left over in the division falls to the rarest classes. Rows of unknown label
    stand once each. A pure function of seed, epoch and keys: each row's place is a hash.

    Parameters
    ----------
    key : (N, 16) uint8 in the cache's order
    label : (N,), -1 unknown
    """
    present, count = np.unique(label[label != UNKNOWN_CLASS], return_counts=True)
    share, over = divmod(int(count.sum()), max(1, len(present)))
    positions, copies = [np.flatnonzero(label == UNKNOWN_CLASS)], [np.zeros((label == UNKNOWN_CLASS).sum(), np.int64)]
    for rank, name in enumerate(present[np.argsort(count, kind="stable")]):
        rows = np.flatnonzero(label == name)
        drawn = _hashes(key[rows], np.zeros(len(rows), np.int64), f"draw {seed} {epoch}")
        rows = rows[np.argsort(drawn, kind="stable")]
        places = np.arange(share + (rank < over))
        positions.append(rows[places % len(rows)])
        copies.append(places // len(rows))
    position, copy = np.concatenate(positions), np.concatenate(copies)
    order = np.argsort(_hashes(key[position], copy, f"order {seed} {epoch}"), kind="stable")
    return position[order]


def _hashes(key: npt.NDArray[np.uint8], copy: npt.NDArray[np.int64], salt: str) -> npt.NDArray[np.uint64]:
    parts = zip(key, copy.tolist(), strict=True)
    digests = [blake2b(row.tobytes() + str(n).encode(), digest_size=8, key=salt.encode()).digest() for row, n in parts]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
