"""Input of an audit: the rows of a cache, all splits one after another, and their place in the dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheMismatch
from ...cache.join import join
from ...cache.reader import Cache
from ..datasets.columns.dataset import SPLITS, Dataset, DatasetOptions, Task
from ..datasets.columns.units import find_units, image_numbers
from ..datasets.opening import open_dataset
from ..datasets.recorded import recorded_options

__all__ = ["Subject", "load_subject"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """The N rows of a cache over all splits.

    Attributes
    ----------
    splits : names of the splits that have rows
    split : (N,) int8 index into `SPLITS`
    key : (N, 16) uint8
    image : (N,) int64 number of the row's image: equal numbers are equal keys
    unit : (N,) int64: equal numbers are tied by an image or a patient, and never torn apart by a cross-validation
    label : (N,) int32, -1 unknown; or (N, L) uint8, 255 unknown
    logits : (N, C) float32 of the canonical view, before temperature
    fold : (N,) int8, -1 where the row's logits come from the probe that was fitted on all of train
    group : (N,) int32 patient, -1 none
    domain : (N,) int16, -1 none
    feature : (N, F) float16 of the canonical view, None if the cache keeps none
    views : (n, V, F) float16, a sample of train rows with all their stored views; None where there is one view
    source : (N,) int64 row of the dataset, -1 if the dataset lacks it
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    splits: tuple[str, ...]
    split: npt.NDArray[np.int8]
    key: npt.NDArray[np.uint8]
    image: npt.NDArray[np.int64]
    unit: npt.NDArray[np.int64]
    label: npt.NDArray[Any]
    logits: npt.NDArray[np.float32]
    fold: npt.NDArray[np.int8]
    group: npt.NDArray[np.int32]
    domain: npt.NDArray[np.int16]
    feature: npt.NDArray[np.float16] | None
    views: npt.NDArray[np.float16] | None
    temperature: float
    source: npt.NDArray[np.int64]
    dataset: Dataset
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.key)

    def describe(self, row: int) -> str:
        """Name a row as its dataset does, by its key if the dataset lacks it."""
        source = int(self.source[row])
        return self.dataset.images.describe(source) if source >= 0 else f"image {self.key[row].tobytes().hex()}"

    def split_name(self, row: int) -> str:
        """Name the split of a row."""
        return SPLITS[self.split[row]]

    def label_name(self, row: int) -> str:
        """Return a row's label in words: a class, the names of its positive labels, or ``unknown``."""
        label = self.label[row]
        if self.label.ndim == 1:
            return self.classes[label] if label >= 0 else "unknown"
        return ", ".join(name for name, bit in zip(self.classes, label, strict=True) if bit == 1) or "none"


# Of stored views, as many train rows as a quantile needs.
_VIEWED = 2_000


def load_subject(cache: Cache, spec: str, options: DatasetOptions) -> Subject:
    """Read a cache whole and join it to its dataset.

    Raises
    ------
    CacheMismatch
        None of the cache's images is in the dataset, or the two are of another task.
    DataError
        The dataset cannot be opened.
    CacheCorrupt
        An array is not the sealed one.
    """
    manifest = cache.manifest
    dataset = open_dataset(spec, recorded_options(options, manifest, spec), manifest.classes)
    if dataset.task != manifest.task:
        raise CacheMismatch(
            f"Dataset '{spec}' is {dataset.task} and cache '{cache.path}' is {manifest.task}; give the dataset and "
            "the label columns that the cache was made from."
        )
    key, unreadable = dataset.find_keys()
    joined = join(cache, key, dataset.label, dataset.split)
    if not joined.matched:
        raise CacheMismatch(
            f"None of the images of cache '{cache.path}' is in dataset '{spec}'; give the dataset it was made from."
        )
    splits = cache.splits
    column = {
        name: np.concatenate([cache.read(split, name) for split in splits])
        for name in ("key", "label", "fold", "group", "domain")
    }
    first = {name: np.concatenate([cache.read(split, name)[:, 0] for split in splits]) for name in _wide(cache)}
    counts = [manifest.rows[split] for split in splits]
    return Subject(
        name=str(manifest.dataset.get("name")),
        task=manifest.task,
        classes=manifest.classes,
        domains=manifest.domains,
        splits=splits,
        split=np.repeat(np.array([SPLITS.index(name) for name in splits], np.int8), counts),
        image=image_numbers(column["key"]),
        unit=find_units(column["key"], column["group"]),
        logits=first["logits"],
        feature=first.get("feature"),
        views=_views(cache),
        temperature=_temperature(cache),
        source=np.concatenate([joined.rows[split] for split in splits]),
        dataset=dataset,
        notes=_notes(spec, len(joined.missing), joined.extra, len(joined.disagree), len(unreadable)),
        **column,
    )


def _wide(cache: Cache) -> tuple[str, ...]:
    return ("logits", "feature") if cache.manifest.size.features_kept else ("logits",)


def _views(cache: Cache) -> npt.NDArray[np.float16] | None:
    size = cache.manifest.size
    if not size.features_kept or size.views < 2 or not size.rows.get("train"):
        return None
    stored = cache.read("train", "feature")
    views: npt.NDArray[np.float16] = stored[:: max(1, -(-len(stored) // _VIEWED))]
    return views


def _temperature(cache: Cache) -> float:
    """Return the temperature that calibrates the probe; 1 where another writer gives none."""
    said = cache.manifest.probe.get("temperature")
    return float(said) if isinstance(said, int | float) and 0 < said < float("inf") else 1.0


def _notes(spec: str, missing: int, extra: int, disagree: int, unreadable: int) -> tuple[str, ...]:
    told = {
        f"of the images of '{spec}' {missing} are not in the cache and are not audited": missing,
        f"of the images of '{spec}' {unreadable} cannot be read": unreadable,
        f"{extra} images of the cache are not in '{spec}'; they are named by their keys": extra,
        f"{disagree} images have different labels in '{spec}' and in the cache; the cache's are audited": disagree,
    }
    return tuple(sentence for sentence, count in told.items() if count)
