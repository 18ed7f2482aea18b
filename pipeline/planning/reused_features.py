"""Reuses features of sealed caches by key: if the dataset grows, only new images are computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheCorrupt, CacheMismatch
from ...cache.format.digest import Rows, little_endian, rows_per_block
from ...cache.join import find_keys, image_members
from ...cache.keys import KeySecret, match_secret
from ...cache.making.life import differences
from ...cache.reader import Cache
from ..views.policies import Views
from .chunks import record_dtype
from .rows import SplitRows

__all__ = [
    "Known",
    "MergedRows",
    "check_source",
    "find_fresh",
    "is_grown",
    "stage_known",
    "stage_rows",
    "useful_splits",
]

# What of a request makes a feature what it is; the rest makes splits and probes.
_DECISIVE = ("teacher", "preprocessing", "precision", "views")
_FIELDS = ("feature", "view", "view_check")


def check_source(cache: Cache, request: Mapping[str, Any], secret: KeySecret | None = None) -> None:
    """Refuse a source cache without features, with features of another kind, or with keys of another secret.

    Raises
    ------
    CacheMismatch
    """
    if not cache.manifest.size.features_kept:
        raise CacheMismatch(
            f"Cache '{cache.path}' was made with --no-features, so it has no features to reuse; leave it out of --from."
        )
    match_secret(secret, cache.manifest.key_check, f"cache '{cache.path}'")
    unlike = _unlike(cache, request)
    if unlike:
        raise CacheMismatch(
            f"The features of cache '{cache.path}' do not fit: it differs in {', '.join(unlike)}. Leave it out of "
            "--from, or use the same settings."
        )


def _unlike(cache: Cache, request: Mapping[str, Any]) -> list[str]:
    there = cache.manifest.raw.get("request", {})
    return differences({name: there.get(name) for name in _DECISIVE}, {name: request[name] for name in _DECISIVE})


def read_keys(cache: Cache, split: str, secret: KeySecret | None) -> npt.NDArray[np.uint8]:
    """Return the keys of a split as they are asked for, (N, 16) uint8: plain ones can be keyed without the images."""
    key = cache.read(split, "key")
    return key if secret is None or cache.manifest.key_check is not None else secret.keys(key)


def is_grown(cache: Cache, rows: Mapping[str, SplitRows], request: Mapping[str, Any]) -> bool:
    """Tell whether a request is for all images of a cache and more, with the same kind of features."""
    if not cache.manifest.size.features_kept or _unlike(cache, request):
        return False
    asked = np.concatenate([part.key for part in rows.values()])
    there = np.concatenate([cache.read(split, "key") for split in cache.splits])
    return bool(image_members(there, asked).all()) and not bool(image_members(asked, there).all())


@dataclass(frozen=True)
class Known:
    """Records of images by key, on disk.

    Attributes
    ----------
    key : (M, 16) uint8
    record : (M,) of `chunks.record_dtype`, mapped into memory
    """

    key: npt.NDArray[np.uint8]
    record: npt.NDArray[Any]

    def find(self, key: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Return for each key (N, 16) the record that has it, -1 if none does."""
        return find_keys(key, self.key)


class MergedRows:
    """One field of rows that are partly known and partly fresh, as an array that is read by slice.

    Parameters
    ----------
    index : (N,) record of `known` for each row, -1 for the next fresh one
    fresh : rows in the order of those that are not known
    """

    def __init__(self, known: Known, field: str, index: npt.NDArray[np.int64], fresh: Rows | None) -> None:
        self._known, self._index, self._fresh = known.record[field], index, fresh
        self._before = np.cumsum(np.append(0, index < 0))
        self.dtype: np.dtype[Any] = self._known.dtype
        self.shape: tuple[int, ...] = (len(index), *self._known.shape[1:])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        start, stop, _ = rows.indices(len(self._index))
        index = self._index[start:stop]
        found = np.empty((len(index), *self.shape[1:]), self.dtype)
        found[index >= 0] = self._known[index[index >= 0]]
        if self._fresh is not None:
            found[index < 0] = self._fresh[int(self._before[start]) : int(self._before[max(start, stop)])]
        return found


def find_fresh(
    sources: Sequence[Cache], rows: Mapping[str, SplitRows], views: Views, secret: KeySecret | None = None
) -> dict[str, npt.NDArray[np.bool_]]:
    """Tell for each row, (N,) bool by split, whether no source has its image, and in all of its views."""
    fresh = {}
    for name, part in rows.items():
        keys = [np.empty((0, 16), np.uint8)]
        for cache in sources:
            keys += [read_keys(cache, split, secret) for split in useful_splits(cache.splits, name, views)]
        fresh[name] = ~image_members(part.key, np.concatenate(keys))
    return fresh


def useful_splits(splits: Iterable[str], name: str, views: Views) -> Sequence[str]:
    """Return those of a source's splits whose rows can serve a split: drawn views stand in train alone."""
    return [split for split in splits if views.of(name) == 1 or split == "train"]


def stage_known(
    sources: Sequence[Cache],
    name: str,
    part: SplitRows,
    views: Views,
    feature_dim: int,
    path: Path,
    secret: KeySecret | None = None,
) -> Known:
    """Copy from caches what they know of the images of a split into one file, checked against their digests.

    Chunked arrays are slow to read row by row, and a cache may be replaced while its features are taken over.

    Parameters
    ----------
    name, part : the split and its rows
    path : file to write
    secret : what the rows' keys are keyed with

    Raises
    ------
    CacheCorrupt
        A cache's arrays are not what its seal says.
    """
    record = record_dtype(feature_dim, views.of(name))
    keys: list[npt.NDArray[np.uint8]] = []
    with path.open("wb") as file:
        for cache in sources:
            for split in useful_splits(cache.splits, name, views):
                key = read_keys(cache, split, secret)
                wanted = image_members(key, part.key)
                _copy(cache, split, key, wanted, record, file)
                keys.append(key[wanted])
    found = np.concatenate(keys) if keys else np.empty((0, 16), np.uint8)
    return _map(path, found, record)


def stage_rows(cache: Cache, split: str, wanted: npt.NDArray[np.bool_], path: Path) -> Known:
    """Copy some rows (N,) of a split of a cache into one file, in their order, checked against their digests.

    Raises
    ------
    CacheCorrupt
        The cache's arrays are not what its seal says.
    """
    size = cache.manifest.size
    record = record_dtype(size.feature, size.views if split == "train" else 1, size.view_parameters)
    key = cache.read(split, "key")
    with path.open("wb") as file:
        _copy(cache, split, key, wanted, record, file)
    return _map(path, key[wanted], record)


def _map(path: Path, key: npt.NDArray[np.uint8], record: np.dtype[Any]) -> Known:
    return Known(key, np.memmap(path, record, "r", shape=(len(key),)) if len(key) else np.empty(0, record))


def _copy(
    cache: Cache,
    split: str,
    key: npt.NDArray[np.uint8],
    wanted: npt.NDArray[np.bool_],
    record: np.dtype[Any],
    file: Any,
) -> None:
    paths = {name: f"{split}/{name}" for name in _FIELDS}
    views = record["feature"].shape[0]
    digests = {name: sha256() for name in _FIELDS}
    with cache.open_arrays(*paths.values()) as arrays:
        step = rows_per_block(arrays[paths["feature"]])
        for start in range(0, len(key), step):
            part = slice(start, start + step)
            block = np.zeros(len(key[part]), record)
            block["key"] = key[part]
            for name, path in paths.items():
                stored = arrays[path][part]
                digests[name].update(little_endian(stored).data)
                block[name] = stored[:, :views]
            file.write(block[wanted[part]].tobytes())
    for name, path in paths.items():
        if digests[name].hexdigest() != cache.manifest.sha256[path]:
            raise CacheCorrupt(
                f"Cache '{cache.path}' is damaged: array '{path}' does not have its sealed SHA-256. Nothing was "
                "reused; leave it out, or get a new copy."
            )
