"""Images without labels, added to those of the dataset: only the teacher's soft targets are used for them.

Their logits are those of the first cache's probe, or of the one that was fitted anew, on their own cached features.
That probe has seen none of them, so that these are what it would answer for any new image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheMismatch
from ...cache.join import find_keys, image_members
from ...cache.keys import KeySecret
from ...cache.reader import Cache, open_cache
from ...pipeline.datasets.columns.dataset import (
    UNKNOWN_BIT,
    UNKNOWN_CLASS,
    Dataset,
    DatasetOptions,
    Deep,
    Images,
    Place,
)
from ...pipeline.datasets.opening import open_dataset
from ...pipeline.datasets.recorded import recorded_options
from ...pipeline.views.preprocessing import Intensity
from .load import ProbeHead, SplitTargets, Targets
from .refitting import head_logits

__all__ = ["Beside", "add_unlabelled", "open_beside"]

# What two caches must have in common for one's probe to act on the other's features.
_TEACHER = ("weights_sha256", "feature", "feature_dim")


@dataclass(frozen=True)
class Beside:
    """A cache of unlabelled images, its dataset, and what the user calls that."""

    cache: Cache
    dataset: Dataset
    spec: str


def open_beside(cache_path: str, spec: str, key_secret: KeySecret | None) -> Beside:
    """Open a cache of unlabelled images and its dataset; existing labels are ignored.

    Parameters
    ----------
    key_secret : what the keys of both caches are keyed with, None = plain keys

    Raises
    ------
    CacheError, DataError
        One of the two cannot be used.
    """
    cache = open_cache(cache_path)
    read = recorded_options(DatasetOptions(key_secret=key_secret), cache.manifest, spec)
    options = DatasetOptions(unlabelled=True, intensity=read.intensity, window=read.window, key_secret=read.key_secret)
    return Beside(cache, open_dataset(spec, options), spec)


def add_unlabelled(
    targets: Targets,
    cache: Cache,
    dataset: Dataset,
    beside: Sequence[Beside],
    *,
    on_missing: Literal["refuse", "drop"],
    stored: bool,
    features: bool,
) -> tuple[Targets, Dataset]:
    """Add the train rows of further caches to train, their labels unknown, and their images to the dataset's.

    What stands in the dataset already is left out: an image of val or test, whose soft target would carry it into
    training, and one of train, which has its place there. Copies of an image count once.

    Parameters
    ----------
    cache : what the targets come from
    stored, features : whether the targets have all stored views, and the teacher's features

    Raises
    ------
    CacheMismatch
        A cache is of another teacher, recipe or preprocessing, has no features, or lacks images.
    """
    head = targets.head or ProbeHead(*(cache.read("probe", name)[-1] for name in ("weight", "bias")))
    known = {name: part.key for name, part in targets.splits.items()}
    parts, all_images, fit = [targets.splits["train"]], dataset.images, dict(targets.fit)
    counts = dict.fromkeys(("unlabelled", "unlabelled_in_val_or_test", "unlabelled_in_train"), 0)
    for one in beside:
        _check(one.cache, cache, stored=stored)
        rows = _find_rows(one, on_missing)
        key = one.cache.read("train", "key")
        measured = image_members(key, np.concatenate([known[name] for name in known if name != "train"]))
        twice = image_members(key, np.concatenate([known["train"], *(part.key for part in parts[1:])]))
        first = np.zeros(len(key), np.bool_)
        first[np.unique(find_keys(key, key))] = True
        kept = np.flatnonzero((rows >= 0) & ~measured & ~twice & first)
        counts["unlabelled_in_val_or_test"] += int((measured & (rows >= 0)).sum())
        counts["unlabelled_in_train"] += int(((twice | ~first) & ~measured & (rows >= 0)).sum())
        counts["unlabelled"] += len(kept)
        places = rows[kept] + len(all_images)
        parts.append(_part(one.cache, kept, places, head, targets, stored=stored, features=features))
        all_images = Together(all_images, one.dataset.images)
    splits = {**targets.splits, "train": SplitTargets.together(parts)}
    # The dataset's own columns have been read: what is still asked of it is images by row.
    return replace(targets, splits=splits, fit=fit | counts), replace(dataset, images=all_images)


def _part(
    cache: Cache,
    kept: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    head: ProbeHead,
    targets: Targets,
    *,
    stored: bool,
    features: bool,
) -> SplitTargets:
    views = slice(None) if stored else slice(1)
    column = {name: np.ascontiguousarray(cache.read("train", name)[kept, views]) for name in ("view", "view_check")}
    feature = cache.read("train", "feature")[kept, views]
    count, like = len(kept), targets.splits["train"]
    unknown = UNKNOWN_CLASS if targets.task == "multiclass" else UNKNOWN_BIT
    return SplitTargets(
        row=places,
        key=cache.read("train", "key")[kept],
        label=np.full((count, *like.label.shape[1:]), unknown, like.label.dtype),
        logits=head_logits(feature, head),
        **column,
        group=np.full(count, -1, np.int32),
        domain=np.full(count, -1, np.int16),
        feature=feature if features else None,
    )


def _check(other: Cache, cache: Cache, *, stored: bool) -> None:
    """Refuse features that the first cache's probe cannot use."""
    ours, theirs = cache.manifest, other.manifest
    pairs: dict[str, tuple[Any, Any]] = {
        f"teacher's {name}": (ours.teacher.get(name), theirs.teacher.get(name)) for name in _TEACHER
    }
    pairs |= {
        f"preprocessing's {name}": (value, theirs.preprocessing.get(name)) for name, value in ours.preprocessing.items()
    }
    # Keys are only comparable if they were made with the same secret.
    pairs["keys' secret"] = (ours.key_check, theirs.key_check)
    if stored:
        pairs |= {f"views' {name}": (_views(ours.raw, name), _views(theirs.raw, name)) for name in ("count", "policy")}
    different = [f"{name} ('{one}' and '{two}')" for name, (one, two) in pairs.items() if one != two]
    if different:
        raise CacheMismatch(
            f"--unlabelled '{other.path}' does not fit the first cache '{cache.path}': they differ in "
            f"{', '.join(different)}; nothing was trained. Make it with the same teacher and settings: medal "
            "cache-teacher DATASET OUT --unlabelled."
        )
    if not theirs.size.features_kept:
        raise CacheMismatch(
            f"--unlabelled '{other.path}' was made with --no-features, and the first cache's probe needs its "
            "features; make it again without that option."
        )


def _views(manifest: Mapping[str, Any], name: str) -> Any:
    return manifest.get("views", {}).get(name)


def _find_rows(one: Beside, on_missing: str) -> npt.NDArray[np.int64]:
    """Return the dataset's row of each train row of the cache, (N,), -1 where it has none."""
    key, unreadable = one.dataset.find_keys()
    declared = one.cache.manifest.skipped
    if len(unreadable) > declared.without_key:
        one.dataset.refuse(unreadable)
    cached = [one.cache.read(name, "key") for name in one.cache.splits]
    missing = ~image_members(key, np.concatenate([*cached]))
    missing[list(unreadable)] = False
    missing &= ~image_members(key, declared.keys)
    rows = find_keys(one.cache.read("train", "key"), key)
    if missing.any() and (on_missing == "refuse" or not (rows >= 0).any()):
        raise CacheMismatch(
            f"--unlabelled '{one.cache.path}' was made from other images than '{one.spec}': {int((~missing).sum())} "
            f"of {len(key)} match, and {one.dataset.images.describe(int(np.flatnonzero(missing)[0]))}, for example, "
            f"is not in it; nothing was trained. Make a cache of them: medal cache-teacher {one.spec} OUT "
            "--unlabelled, or give --on-missing drop to leave those images out."
        )
    return rows


@dataclass(frozen=True)
class Together:
    """The images of two datasets, one after the other."""

    first: Images
    second: Images

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def key(self, row: int) -> bytes:
        images, own = self._of(row)
        return images.key(own)

    def remembering(self) -> AbstractContextManager[Together]:
        return nullcontext(self)  # keys are asked of either dataset, before its images are put together

    def read(self, row: int) -> npt.NDArray[Any]:
        images, own = self._of(row)
        return images.read(own)

    def deep(self, row: int) -> Deep | None:
        images, own = self._of(row)
        return images.deep(own)

    def with_intensity(self, intensity: Intensity) -> Together:
        return replace(self, first=self.first.with_intensity(intensity), second=self.second.with_intensity(intensity))

    def describe(self, row: int) -> str:
        images, own = self._of(row)
        return images.describe(own)

    def locate(self, row: int) -> Place:
        images, own = self._of(row)
        return images.locate(own)

    def _of(self, row: int) -> tuple[Images, int]:
        own = row - len(self.first)
        return (self.second, own) if own >= 0 else (self.first, row)
