"""Datasets: whatever the user has, as images in order with labels, splits, domains and groups beside them."""

from __future__ import annotations

from .columns.dataset import SPLITS, Dataset, DatasetOptions
from .columns.labels import exclude_flags
from .columns.sampling import sample_rows
from .columns.splits import check_filled, check_rare, describe_drawing, draw_splits, rarest_class
from .opening import dataset_kind, dataset_name, open_dataset

__all__ = [
    "SPLITS",
    "Dataset",
    "DatasetOptions",
    "check_filled",
    "check_rare",
    "dataset_kind",
    "dataset_name",
    "describe_drawing",
    "draw_splits",
    "exclude_flags",
    "open_dataset",
    "rarest_class",
    "sample_rows",
]
