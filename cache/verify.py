"""Verification: every byte of a cache against its manifest, every problem as a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CacheError
from .format.digest import Rows, array_sha256, rows_per_block
from .format.forms import form_of, reading
from .format.values import value_problems
from .reader import Cache, open_cache

__all__ = ["LOGITS_TOLERANCE", "count_repeats", "verify", "verify_path"]

# `logits = feature · weightᵀ + bias` holds to this, by the contract of format 1.
LOGITS_TOLERANCE = 1e-4


def verify_path(path: str | PathLike[str]) -> list[str]:
    """Verify the cache at a path; an error on opening is reported as a problem."""
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
            values: dict[str, None] = {}
            for path in sound:
                problems += _check_bytes(cache, path, arrays[path], values)
            if not problems:
                problems += _check_contents(cache, arrays, list(values))
    except CacheError as error:
        problems.append(str(error))
    return problems


def _check_bytes(cache: Cache, path: str, rows: Rows, values: dict[str, None]) -> Iterator[str]:
    """Yield problems with the bytes of an array; problems with its values are added to `values`."""

    def look(block: npt.NDArray[Any]) -> None:
        values.update(dict.fromkeys(value_problems(cache.manifest, path, block)))

    try:
        if array_sha256(rows, look) != cache.manifest.sha256[path]:
            yield f"Array '{path}' does not have its sealed SHA-256."
        with reading(cache.path):
            yield from form_of(cache.path).padding_problems(cache.path, path, cache.manifest.arrays[path])
    except CacheError as error:
        # One array that cannot be read must not keep the others from being checked.
        yield f"Array '{path}': {error}"


def _check_contents(cache: Cache, arrays: Mapping[str, Rows], problems: list[str]) -> Iterator[str]:
    """Yield problems with values: the `problems` found while the bytes were read, and further ones."""
    keys = {}
    yield from problems
    for split in cache.splits:
        key, label, fold = (arrays[f"{split}/{name}"][:] for name in ("key", "label", "fold"))
        keys[split] = key
        if not _is_ordered(key, label):
            yield f"Rows of '{split}' are not in ascending order of key and label."
        # A fold out of bounds names a missing probe, and infinite numbers cannot be compared.
        if cache.manifest.size.features_kept and not problems:
            yield from _check_logits(split, arrays, fold)
    repeats = count_repeats(keys)
    if cache.manifest.dataset.get("repeats") != repeats:
        yield f"The manifest counts repeats {cache.manifest.dataset.get('repeats')}, the keys give {repeats}."


def _is_ordered(key: npt.NDArray[np.uint8], label: npt.NDArray[Any]) -> bool:
    """Tell whether rows ascend by key and label. A sort of them all would take as long as all the hashing."""
    high, low = _key_words(key).T
    equal = high[1:] == high[:-1]
    if ((high[1:] < high[:-1]) | (equal & (low[1:] < low[:-1]))).any():
        return False
    equal &= low[1:] == low[:-1]
    repeats = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    order = np.lexsort(order_columns(key[repeats], label[repeats])) if len(repeats) else repeats
    return np.array_equal(label[repeats][order], label[repeats])


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
    words = np.concatenate([_key_words(key) for key in keys.values()])
    split = np.repeat(np.arange(len(keys)), [len(key) for key in keys.values()])
    # Splits are stored in order, so that a stable sort by half a key only merges them, in a tenth of the time.
    order = np.argsort(words[:, 0], kind="stable")
    high, low = words[order].T
    if ((high[1:] == high[:-1]) & (low[1:] < low[:-1])).any():
        order = np.lexsort((words[:, 1], words[:, 0]))
        high, low = words[order].T
    # The number of each row's image, (N,)
    image = np.cumsum(np.append(False, (high[1:] != high[:-1]) | (low[1:] != low[:-1])))
    stands = np.zeros((len(keys), image[-1] + 1), np.bool_)  # (splits, images)
    stands[split[order], image] = True
    names = list(keys)
    return {
        "within": {name: len(keys[name]) - int(row.sum()) for name, row in zip(names, stands, strict=True)},
        "across": {
            f"{a}-{b}": int((stands[i] & stands[j]).sum())
            for i, a in enumerate(names)
            for j, b in enumerate(names[i + 1 :], i + 1)
        },
    }


def _key_words(key: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return keys as two numbers each, (N, 2) uint64, which are in the order of the keys."""
    return np.ascontiguousarray(key).view(">u8").astype(np.uint64)
