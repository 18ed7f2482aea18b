"""Format 1: which arrays a cache has, with what shapes and dtypes. The same in both backends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["FORMAT", "SPLITS", "ArraySpec", "Dimensions", "expected_arrays"]

FORMAT = 1
SPLITS = ("train", "val", "test")
Task = Literal["multiclass", "multilabel"]


@dataclass(frozen=True)
class ArraySpec:
    """Shape and numpy dtype name of one array."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The numbers that every shape of a cache follows from."""

    task: Task
    rows: Mapping[str, int]
    classes: int
    feature: int
    views: int
    view_parameters: int
    probes: int
    features_kept: bool


def expected_arrays(size: Dimensions) -> dict[str, ArraySpec]:
    """Return every array of a cache by its path, for instance ``train/logits``."""
    arrays = {
        "probe/weight": ArraySpec((size.probes, size.classes, size.feature), "float32"),
        "probe/bias": ArraySpec((size.probes, size.classes), "float32"),
    }
    for split, count in size.rows.items():
        views = size.views if split == "train" else 1
        multilabel = size.task == "multilabel"
        columns = {
            "key": ArraySpec((count, 16), "uint8"),
            "label": ArraySpec((count, size.classes), "uint8") if multilabel else ArraySpec((count,), "int32"),
            "logits": ArraySpec((count, views, size.classes), "float32"),
            "view": ArraySpec((count, views, size.view_parameters), "float32"),
            "view_check": ArraySpec((count, views, 4), "float32"),
            "domain": ArraySpec((count,), "int16"),
            "group": ArraySpec((count,), "int32"),
            "fold": ArraySpec((count,), "int8"),
        }
        if size.features_kept:
            columns["feature"] = ArraySpec((count, views, size.feature), "float16")
        arrays |= {f"{split}/{name}": spec for name, spec in columns.items()}
    return arrays
