"""The soft targets of several teachers, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheMismatch
from ...cache.join import find_keys
from ...cache.reader import Cache
from .load import SplitTargets, Targets

__all__ = ["average_teachers"]


def average_teachers(targets: Targets, also: Sequence[tuple[Cache, float]], keyed: str | None = None) -> Targets:
    """Average the logits with those of further caches: Σ weight · logits / Σ weight, the first cache's weight being 1.

    Rows are found by key, inside their split: a teacher whose probe was fitted on another's test images would carry
    their labels into the student.

    Parameters
    ----------
    keyed : `key_check` of the first cache

    Raises
    ------
    CacheMismatch
        A cache has keys of another kind, other classes, lacks images, or has other views of them.
    """
    total = 1.0 + sum(weight for _, weight in also)
    parts = dict(targets.splits)
    for cache, _ in also:
        _check_keys(cache, keyed)
    for name, part in targets.splits.items():
        summed = part.logits.astype(np.float64)
        for cache, weight in also:
            _check_classes(cache, targets)
            rows = _find_rows(cache, name, targets)
            summed += weight * _logits_like(cache, name, rows, part, targets.classes)
        parts[name] = replace(part, logits=(summed / total).astype(np.float32))
    described = tuple({"content_digest": cache.content_digest, "weight": weight} for cache, weight in also)
    return replace(targets, splits=parts, also=described)


def _check_keys(cache: Cache, keyed: str | None) -> None:
    if cache.manifest.key_check != keyed:
        raise CacheMismatch(
            f"--also-cache '{cache.path}' and the first cache have keys that cannot be compared: they were made with "
            "different secrets, or one of them without a secret. Make one again with the other's --key-secret; "
            "--from reuses its features."
        )


def _check_classes(cache: Cache, targets: Targets) -> None:
    manifest = cache.manifest
    if manifest.task != targets.task or set(manifest.classes) != set(targets.classes):
        raise CacheMismatch(
            f"--also-cache '{cache.path}' is {manifest.task} of {', '.join(manifest.classes)}; expected "
            f"{targets.task} of {', '.join(targets.classes)}, as in the first cache. Give a cache with the same "
            "labels."
        )


def _find_rows(cache: Cache, name: str, targets: Targets) -> npt.NDArray[np.int64]:
    key = cache.read(name, "key") if name in cache.splits else np.empty((0, 16), np.uint8)
    rows = find_keys(targets.splits[name].key, key)
    if (rows < 0).any():
        raise CacheMismatch(
            f"--also-cache '{cache.path}' lacks {int((rows < 0).sum())} of the {len(rows)} images in '{name}'; "
            "nothing was trained. Give a cache of the same images in the same splits."
        )
    return rows


def _logits_like(
    cache: Cache, name: str, rows: npt.NDArray[np.int64], part: SplitTargets, classes: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Return the cache's logits (N, V, C) in the rows, views and classes of a split."""
    views = part.logits.shape[1]
    if views > 1 and not np.array_equal(cache.read(name, "view")[rows], part.view):
        raise CacheMismatch(
            f"--also-cache '{cache.path}' stores other views of the images than the first cache; give one with the "
            "same --views, --augment and --seed, or train with --targets canonical."
        )
    order = [cache.manifest.classes.index(name) for name in classes]
    return np.asarray(cache.read(name, "logits")[rows, :views][..., order])
