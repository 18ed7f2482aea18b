"""The rounds of docs/PROTOCOL.md: which student learns, which recipes are candidates, what it is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ROUNDS", "Round", "Settings"]

Settings = Mapping[str, Any]

_LABELS: dict[str, Settings] = {"labels alone": {"alpha": 0.0}}
_KD: Settings = {"loss": "kd", "temperature": 2.0, "alpha": 0.5}
_BOTH: Settings = {"loss": "kd+feature", "temperature": 2.0, "alpha": 0.5}
_HALF: Settings = {"labelled_share": 0.5}
_VIEWS: Settings = {"targets": "stored"}


@dataclass(frozen=True, kw_only=True)
class Round:
    """One student and the recipes that compete for it.

    Attributes
    ----------
    student : settings of every training; `weights` ``random``, or a folder below the shared students
    pilots : seeds of the choice; their mean counts
    candidates : recipes by name; the first is the labels alone, which is shown and cannot be chosen
    variants : added to the best candidate, which they must beat to be chosen
    repeat : the first repeat of the folds that it is measured on
    """

    student: Settings
    pilots: tuple[int, ...]
    candidates: Mapping[str, Settings]
    variants: Mapping[str, Settings]
    repeat: int

    def settings(self, students: Path) -> dict[str, Any]:
        """Return the student's settings, its weights' folder among them."""
        found = {"batch_size": 32, "labelled_share": 0.0, **self.student}
        return found if found["weights"] == "random" else {**found, "weights": str(students / found["weights"])}


_LITE: Settings = {"student": "tf_efficientnet_lite0", "weights": "tf_efficientnet_lite0", "precision": "fp32"}

ROUNDS = {
    "first": Round(
        student=_LITE,
        pilots=(100,),
        repeat=0,
        variants={},
        candidates={
            **_LABELS,
            "kd, T 2, alpha .5": _KD,
            "kd, T 2, alpha .9": {**_KD, "alpha": 0.9},
            "kd, T 4, alpha .9": {**_KD, "temperature": 4.0, "alpha": 0.9},
            "kd+feature, T 2, alpha .5": _BOTH,
            "kd+feature, T 2, alpha .9": {**_BOTH, "alpha": 0.9},
        },
    ),
    "second": Round(
        student=_LITE,
        pilots=(100,),
        repeat=1,
        variants={"4 stored views": _VIEWS},
        candidates={
            **_LABELS,
            "kd+feature, T 2, alpha .5": _BOTH,
            "kd, T 2, alpha .5, half labelled": {**_KD, **_HALF},
            "kd+feature, T 2, alpha .5, half labelled": {**_BOTH, **_HALF},
            "feature, alpha .5, half labelled": {"loss": "feature", "alpha": 0.5, **_HALF},
        },
    ),
    "resnet18": Round(
        student={"student": "resnet18", "weights": "random", "precision": "bf16"},
        pilots=(100,),
        repeat=0,
        variants={},
        candidates={
            **_LABELS,
            "kd, T 2, alpha .5": _KD,
            "kd, T 2, alpha .5, half labelled": {**_KD, **_HALF},
            "kd+feature, T 2, alpha .5": _BOTH,
            "kd+feature, T 2, alpha .5, half labelled": {**_BOTH, **_HALF},
        },
    ),
}
