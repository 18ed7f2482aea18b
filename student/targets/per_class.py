"""``--alpha per-class``: the teacher's weight for each class is its out-of-fold recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...cache.errors import CacheMismatch
from ...cache.reader import Cache
from ...pipeline.metrics import measure
from ..settings import StudentSettings
from .load import Targets

__all__ = ["require_out_of_fold", "settle_per_class"]

# Even for a class that the teacher always recognises, labels keep some weight.
_MOST_ALPHA = 0.9


def require_out_of_fold(caches: Sequence[Cache]) -> None:
    """Refuse caches with in-sample logits of train, whose recall is too optimistic.

    Raises
    ------
    CacheMismatch
    """
    for cache in caches:
        if (cache.read("train", "fold") < 0).any():
            raise CacheMismatch(
                f"--alpha per-class needs the teacher's out-of-fold recall, and cache '{cache.path}' was made with "
                "--folds 0; give --alpha a number or auto, or make a cache with --folds 5."
            )


def settle_per_class(settings: StudentSettings, targets: Targets) -> StudentSettings:
    """Replace ``--alpha per-class`` by the out-of-fold recall of each class, at most 0.9; absent ones have the mean."""
    if settings.alpha != "per-class":
        return settings
    train = targets.splits["train"]
    classes = measure(train.teacher, train.label, targets.task, targets.classes)["classes"]
    recall = [figures["sensitivity"] for figures in classes.values()]
    known = [value for value in recall if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    weights = tuple(round(min(_MOST_ALPHA, mean if value is None else value), 4) for value in recall)
    return replace(settings, alpha=weights)
