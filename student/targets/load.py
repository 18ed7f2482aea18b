"""What the student learns from: the cache's soft and hard labels, joined to a dataset's images, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheMismatch
from ...cache.join import Join, image_members, join
from ...cache.reader import Cache
from ...pipeline.datasets.columns.dataset import SPLITS, UNKNOWN_BIT, UNKNOWN_CLASS, Dataset, Task
from ...pipeline.datasets.columns.units import find_units
from ...pipeline.metrics import rests_on

__all__ = ["ProbeHead", "SplitTargets", "Targets", "labelled_rows", "lacks_labels", "load_targets"]

# Of patients, or images without one, with a known label, and of these in the rarest class.
_FEWEST_UNITS, _FEWEST_OF_A_CLASS = 20, 5

_BY_VIEW = ("logits", "view", "view_check", "feature")


class ProbeHead(NamedTuple):
    """A linear probe: weight (C, F) float32 and bias (C,) float32."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


@dataclass(frozen=True)
class SplitTargets:
    """The rows of one split in the cache's order, which is that of their keys.

    Attributes
    ----------
    row : (N,) int64 row of the dataset
    key : (N, 16) uint8
    label : (N,) int32 or (N, C) uint8
    logits : (N, V, C) float32 of the teacher for each view, before temperature; the canonical one first. V is 1 unless
        stored views are asked for
    view : (N, V, P) float32 parameters that replay each view
    view_check : (N, V, 4) float32 means of the quarters of each view at the teacher's size, in 0…1
    group : (N,) int32 patient code, -1 none
    domain : (N,) int16 index into `Targets.domains`, -1 none
    feature : (N, V, F) float16 of the teacher, where they are needed
    """

    row: npt.NDArray[np.int64]
    key: npt.NDArray[np.uint8]
    label: npt.NDArray[Any]
    logits: npt.NDArray[np.float32]
    view: npt.NDArray[np.float32]
    view_check: npt.NDArray[np.float32]
    group: npt.NDArray[np.int32]
    domain: npt.NDArray[np.int16]
    feature: npt.NDArray[np.float16] | None = None

    def __len__(self) -> int:
        return len(self.row)

    @property
    def patients(self) -> npt.NDArray[np.int64] | None:
        """Patient codes (N,) int64, None where no patient is known."""
        return self.group.astype(np.int64) if (self.group >= 0).any() else None

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """What resamples draw whole, (N,) int64: the images of a patient, and copies of one image."""
        return find_units(self.key, self.group)

    @property
    def teacher(self) -> npt.NDArray[np.float32]:
        """Logits of the canonical view, (N, C) float32."""
        return self.logits[:, 0]

    def can_choose(self, task: Task) -> bool:
        """Whether there are enough labels to choose an epoch or a teacher; with fewer, a choice is mostly chance."""
        found = rests_on(self.label, task, self.units)
        return found["units"] >= _FEWEST_UNITS and found["rarest"] >= _FEWEST_OF_A_CLASS

    def take(self, rows: npt.NDArray[Any]) -> SplitTargets:
        """Return some of the rows, by number or by mask."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        taken: dict[str, Any] = {name: None if one is None else one[rows] for name, one in columns.items()}
        return SplitTargets(**taken)

    @classmethod
    def together(cls, parts: Sequence[SplitTargets]) -> SplitTargets:
        """Return the rows of several parts in ascending (key, label), of each row as many views as all of them have."""
        columns: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            given = [getattr(part, name) for part in parts]
            if any(column is None for column in given):
                continue
            if name in _BY_VIEW:
                given = [column[:, : min(other.shape[1] for other in given)] for column in given]
            columns[name] = np.concatenate(given)
        whole = cls(**columns)
        labels = whole.label.reshape(len(whole), -1)
        return whole.take(np.lexsort((*labels.T[::-1], *whole.key.T[::-1])))


@dataclass(frozen=True)
class Targets:
    """Soft and hard labels per split, and how dataset and cache fit.

    Attributes
    ----------
    also : content digest and weight of each further cache whose logits are in the mean
    head : the probe that answers for images that it has not seen, where it was fitted anew; None = the cache's own
    """

    task: Task
    classes: tuple[str, ...]
    splits: Mapping[str, SplitTargets]
    fit: Mapping[str, int]
    domains: tuple[str, ...] = ()
    also: tuple[Mapping[str, Any], ...] = ()
    head: ProbeHead | None = None

    @property
    def feature_dim(self) -> int | None:
        """F of the features, None where they were not loaded."""
        feature = self.splits["train"].feature
        return None if feature is None else feature.shape[2]

    def without_features(self) -> Targets:
        """Return the same without features, which are large."""
        return replace(self, splits={name: replace(part, feature=None) for name, part in self.splits.items()})

    def digest(self) -> str:
        """Return a SHA-256 of keys, labels and logits: the inputs of the training, independent of the dataset's
        order."""
        digest = sha256()
        for name, part in self.splits.items():
            digest.update(f"{name} {len(part)}\n".encode())
            stored = (part.logits, part.view) if part.logits.shape[1] > 1 else (part.teacher,)
            features = () if part.feature is None else (part.feature,)
            for column in (part.key, part.label, *stored, *features):
                digest.update(np.ascontiguousarray(column).astype(column.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()


def labelled_rows(label: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the rows of which a label is known, from (N,) class indices or (N, C) bits."""
    return np.flatnonzero(label != UNKNOWN_CLASS if label.ndim == 1 else (label != UNKNOWN_BIT).any(1))


def lacks_labels(label: npt.NDArray[Any], share: float) -> bool:
    """Tell whether some rows have a label, but fewer than a share of all.

    Parameters
    ----------
    label : (N,) class indices or (N, C) bits
    """
    return 0 < len(labelled_rows(label)) < round(share * len(label))


def load_targets(
    cache: Cache,
    dataset: Dataset,
    *,
    spec: str,
    on_missing: Literal["refuse", "drop"] = "refuse",
    labels: Literal["cache", "dataset"] | None = None,
    stored: bool = False,
    features: bool = False,
) -> Targets:
    """Join a dataset to a cache and read what the student needs.

    Parameters
    ----------
    spec : what the user calls the dataset, for messages
    on_missing : ``drop`` leaves out dataset rows that the cache lacks
    labels : whose labels count where the two disagree; None refuses
    stored : the targets of all stored views, not of the canonical one alone
    features : the teacher's features as well

    Raises
    ------
    CacheMismatch
        The cache was made from other images or labels than the dataset's; the message says how many match.
    """
    if dataset.task != cache.manifest.task:
        raise CacheMismatch(
            f"Dataset '{spec}' is {dataset.task} and cache '{cache.path}' is {cache.manifest.task}; nothing was "
            "trained. Give the dataset and the label columns that the cache was made from."
        )
    joined, skipped = _join(cache, dataset)
    if len(joined.missing) and (on_missing == "refuse" or not joined.matched):
        raise CacheMismatch(_missing(cache, dataset, joined, spec))
    if labels is None and len(joined.disagree):
        raise CacheMismatch(
            f"{len(joined.disagree)} of {len(dataset)} images have different labels in dataset '{spec}' and in cache "
            f"'{cache.path}', for example {dataset.images.describe(int(joined.disagree[0]))}; nothing was trained. "
            "Choose the labels to use: --labels cache or --labels dataset."
        )
    if features:
        _require_features(cache)
    splits = {}
    for name in cache.splits:
        kept = np.flatnonzero(joined.rows[name] >= 0)
        rows = joined.rows[name][kept]
        splits[name] = SplitTargets(
            row=rows,
            key=cache.read(name, "key")[kept],
            label=dataset.label[rows] if labels == "dataset" else cache.read(name, "label")[kept],
            **{
                column: np.ascontiguousarray(cache.read(name, column)[kept, : None if stored else 1])
                for column in ("logits", "view", "view_check")
            },
            group=cache.read(name, "group")[kept],
            domain=cache.read(name, "domain")[kept],
            feature=cache.read(name, "feature")[kept, : None if stored else 1] if features else None,
        )
    _require_rows(splits, cache, spec)
    fit = {
        "matched": joined.matched,
        "missing": len(joined.missing),
        "skipped": skipped,
        "extra": joined.extra,
        "disagree": len(joined.disagree),
        "moved": _count_moved(cache, dataset, joined),
    }
    kept_splits = {name: part for name, part in splits.items() if len(part)}
    return Targets(cache.manifest.task, cache.manifest.classes, kept_splits, fit, cache.manifest.domains)


def _join(cache: Cache, dataset: Dataset) -> tuple[Join, int]:
    """Join the two; images that the cache declares as skipped do not count as missing; also return their number."""
    declared = cache.manifest.skipped
    key, unreadable = dataset.find_keys()
    if len(unreadable) > declared.without_key:
        dataset.refuse(unreadable)
    joined = join(cache, key, dataset.label, dataset.split)
    skipped = image_members(key[joined.missing], declared.keys) | np.isin(joined.missing, list(unreadable))
    return replace(joined, missing=joined.missing[~skipped]), int(skipped.sum())


def _require_features(cache: Cache) -> None:
    if not cache.manifest.size.features_kept:
        raise CacheMismatch(
            f"Cache '{cache.path}' was made with --no-features, and --loss feature, --label-fraction and "
            "--leave-one-domain-out need features; make it again without that option, or leave these out."
        )


def _require_rows(splits: Mapping[str, SplitTargets], cache: Cache, spec: str) -> None:
    for name, fewest in (("train", 2), ("val", 1)):
        if len(splits.get(name, ())) < fewest:
            raise CacheMismatch(
                f"Dataset '{spec}' has {len(splits.get(name, ()))} of the images that cache '{cache.path}' "
                f"has in '{name}'; a student needs at least {fewest}. Give the dataset that the cache was made from."
            )


def _count_moved(cache: Cache, dataset: Dataset, joined: Join) -> int:
    """Count images that dataset and cache put into different splits; splits drawn by medal do not count."""
    if dataset.split is None or cache.manifest.dataset.get("splits") != "given":
        return 0
    moved = 0
    for name, rows in joined.rows.items():
        claimed = dataset.split[rows[rows >= 0]]
        moved += int(((claimed >= 0) & (claimed != SPLITS.index(name))).sum())
    return moved


def _missing(cache: Cache, dataset: Dataset, joined: Join, spec: str) -> str:
    limit = cache.manifest.dataset.get("limit")
    remedy = f"Make a cache of this dataset: medal cache-teacher {spec}"
    if joined.matched:
        remedy += ", or give --on-missing drop to leave those images out"
    return (
        f"Cache '{cache.path}' was made from other images than dataset '{spec}': {joined.matched} of {len(dataset)} "
        f"match, {len(joined.missing)} are not in the cache{f' (made with --limit {limit})' if limit else ''}, for "
        f"example {dataset.images.describe(int(joined.missing[0]))}; nothing was trained. {remedy}."
    )
