"""Verification: every byte of a cache against its manifest, every problem as a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from .digest import Rows, array_sha256, rows_per_block
from .errors import CacheError
from .forms import form_of, reading
from .reader import Cache, open_cache
from .values import value_problems

__all__ = ["LOGITS_TOLERANCE", "count_repeats", "verify", "verify_path"]

# `logits = feature · weightᵀ + bias` holds to this, by the contract of format 1.
LOGITS_TOLERANCE = 1e-4


def verify_path(path: str | PathLike[str]) -> list[str]:
    """Verify whatever stands at a path; what keeps it from being opened is a problem like any other."""
    try:
        return verify(open_cache(path))
    except CacheError as error:
        return [str(error)]


def verify(cache: Cache) -> list[str]:
    """Read every byte of a cache and return what is wrong with it, as sentences; an empty list if nothing is.

    Checked: that there are exactly the files and objects that the manifest implies, each of its size, shape and
    dtype; the digest of every array; and once those are right, finiteness, labels, domains, folds and groups within
    their bounds, the order of rows, the counts of repeats, and the logits against feature · weight + bias.
    """
    problems: list[str] = []
    try:
        layout = cache.survey()
        problems += layout.problems
        sound = {path: cache.manifest.arrays[path] for path in layout.sound}
        with form_of(cache.path).open_arrays(cache.path, sound) as arrays:
            for path in sound:
                problems += _check_bytes(cache, path, arrays[path])
            if not problems:
                problems += _check_contents(cache, arrays)
    except CacheError as error:
        problems.append(str(error))
    return problems


def _check_bytes(cache: Cache, path: str, rows: Rows) -> Iterator[str]:
    try:
        if array_sha256(rows) != cache.manifest.sha256[path]:
            yield f"Array '{path}' does not have its sealed SHA-256."
        with reading(cache.path):
            yield from form_of(cache.path).padding_problems(cache.path, path, cache.manifest.arrays[path])
    except CacheError as error:
        # One array that cannot be read must not keep the others from being checked.
        yield f"Array '{path}': {error}"


def _check_contents(cache: Cache, arrays: Mapping[str, Rows]) -> Iterator[str]:
    keys = {}
    problems = [problem for path, rows in arrays.items() for problem in _check_values(cache, path, rows)]
    yield from problems
    for split in cache.splits:
        key, label, fold = (arrays[f"{split}/{name}"][:] for name in ("key", "label", "fold"))
        keys[split] = key
        order = np.lexsort(order_columns(key, label))
        if not np.array_equal(key[order], key) or not np.array_equal(label[order], label):
            yield f"Rows of '{split}' are not in ascending order of key and label."
        # A fold out of bounds names a probe that is not there, and nothing can be said of numbers without end.
        if cache.manifest.size.features_kept and not problems:
            yield from _check_logits(split, arrays, fold)
    repeats = count_repeats(keys)
    if cache.manifest.dataset.get("repeats") != repeats:
        yield f"The manifest counts repeats {cache.manifest.dataset.get('repeats')}, the keys give {repeats}."


def _check_values(cache: Cache, path: str, rows: Rows) -> list[str]:
    step = rows_per_block(rows)
    blocks = (rows[start : start + step] for start in range(0, rows.shape[0], step))
    found = (problem for block in blocks for problem in value_problems(cache.manifest, path, block))
    return list(dict.fromkeys(found))


def order_columns(key: npt.NDArray[np.uint8], label: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """Return the sort columns of (key, label) for `numpy.lexsort`, which wants the last one first.

    Multi-label rows sort by their labels as bytes, so that unknown (255) comes last.
    """
    words = np.ascontiguousarray(key).view(">u8")  # (N, 2)
    labels = label.reshape(len(label), -1).T[::-1]
    return (*labels, words[:, 1], words[:, 0])


def _check_logits(split: str, arrays: Mapping[str, Rows], fold: npt.NDArray[np.int8]) -> Iterator[str]:
    # In double precision, which no product of stored numbers leaves.
    weight, bias = arrays["probe/weight"][:].astype(np.float64), arrays["probe/bias"][:].astype(np.float64)
    features, logits = arrays[f"{split}/feature"], arrays[f"{split}/logits"]
    step = rows_per_block(features)
    worst = 0.0
    for start in range(0, features.shape[0], step):
        feature = features[start : start + step].astype(np.float64)  # (B, V, F)
        stored = logits[start : start + step]
        for probe in np.unique(fold[start : start + step]):
            rows = fold[start : start + step] == probe
            given = feature[rows] @ weight[probe].T + bias[probe]  # probe -1 is the last, fitted on all of train
            scale = max(1.0, float(np.abs(given).max()))
            worst = max(worst, float(np.abs(given - stored[rows]).max()) / scale)
    if worst > LOGITS_TOLERANCE:
        yield f"Logits of '{split}' differ from feature · weight + bias by {worst:.2g}."


def count_repeats(keys: Mapping[str, npt.NDArray[np.uint8]]) -> dict[str, Any]:
    """Count repeated images from the (N, 16) keys of each split.

    Returns
    -------
    {"within": {split: rows beyond the first of their key}, "across": {"a-b": keys that stand in both}}
    """
    distinct = {split: _distinct(key) for split, key in keys.items()}
    names = list(keys)
    return {
        "within": {split: len(keys[split]) - distinct[split] for split in names},
        "across": {
            f"{a}-{b}": distinct[a] + distinct[b] - _distinct(np.concatenate([keys[a], keys[b]]))
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        },
    }


def _distinct(key: npt.NDArray[np.uint8]) -> int:
    words = np.ascontiguousarray(key).view(np.uint64)  # (N, 2)
    words = words[np.lexsort((words[:, 1], words[:, 0]))]
    return len(words) and 1 + int((words[1:] != words[:-1]).any(1).sum())
