"""Joins a dataset to a cache by content: which row of the dataset is which row of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .format.layout import SPLITS
from .reader import Cache

__all__ = ["Join", "find_keys", "image_members", "join"]

# Odd 64-bit constants of splitmix64; any would do, they only prevent collisions of sums of small numbers.
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9))


@dataclass(frozen=True, kw_only=True)
class Join:
    """How a dataset and a cache fit together.

    Attributes
    ----------
    rows : split → (N,) int64, for each row of the cache the matching dataset row, -1 if there is none
    missing : dataset rows whose image the cache lacks, or has fewer copies of
    disagree : dataset rows whose image the cache has with another label; they are still joined in `rows`
    extra : cache rows without a matching dataset row
    matched : dataset rows joined, `disagree` included
    """

    rows: Mapping[str, npt.NDArray[np.int64]]
    missing: npt.NDArray[np.int64]
    disagree: npt.NDArray[np.int64]
    extra: int
    matched: int


@dataclass(frozen=True)
class _Side:
    """Key (N, 2) and label (N, W) as 64-bit words, and split (N,), of one side of the join."""

    key: npt.NDArray[np.uint64]
    label: npt.NDArray[np.uint64]
    split: npt.NDArray[np.int8]

    def codes(self, rows: npt.NDArray[np.int64], with_label: bool, with_split: bool) -> npt.NDArray[np.uint64]:
        """Return one number a row that is equal where key, and label and split if asked for, are."""
        # Half of a cryptographic hash tells a million images apart; the whole key is compared after the match.
        code: npt.NDArray[np.uint64] = self.key[rows, 0]
        if with_label:
            # By words: a byte at a time, fourteen labels of a million rows took a third of the whole join.
            weights = np.cumprod(np.full(self.label.shape[1], _MIX[0]), dtype=np.uint64)
            for word, weight in zip(self.label.T, weights, strict=True):
                code = code + word[rows] * weight
        if with_split:
            code = code + (self.split[rows].astype(np.uint64) + np.uint64(1)) * _MIX[1]
        return code


def join(
    cache: Cache, key: npt.NDArray[np.uint8], label: npt.NDArray[Any], split: npt.NDArray[np.int8] | None = None
) -> Join:
    """Match dataset rows to cache rows: a multiset join on (key, label), inside a split where the dataset has splits.

    A row without a partner of its split and label is matched to a free row of the same image: first with the same label
    in any split (the cache's splits are used), then with another label, which counts as disagreement. Each round is
    done for all rows before the next, so that no row takes the partner of one that fits better.

    Parameters
    ----------
    key : (N, 16) uint8
    label : (N,) int32 or (N, L) uint8, classes in the cache's order
    split : (N,) int8 index into train, val, test; -1 = not said
    """
    names = cache.splits
    labels = {name: cache.read(name, "label") for name in names}
    counts = [len(labels[name]) for name in names]
    theirs = _Side(
        _words(np.concatenate([cache.read(name, "key") for name in names])),
        _words(np.concatenate([labels[name] for name in names])),
        np.repeat(np.array([SPLITS.index(name) for name in names], np.int8), counts),
    )
    unsaid = np.full(len(key), -1, np.int8)
    ours = _Side(_words(key), _words(label.astype(labels[names[0]].dtype)), unsaid if split is None else split)
    partner = np.full(len(theirs.key), -1, np.int64)  # of each cache row
    pending = np.arange(len(key))
    disagree = np.empty(0, np.int64)
    for with_label, with_split in ((True, True), (True, False), (False, False)):
        free = np.flatnonzero(partner < 0)
        left, right = _match(ours.codes(pending, with_label, with_split), theirs.codes(free, with_label, with_split))
        mine, cached = pending[left], free[right]
        same = (ours.key[mine] == theirs.key[cached]).all(1)
        partner[cached[same]] = mine[same]
        if not with_label:
            disagree = np.sort(mine[same])
        joined = np.zeros(len(key), np.bool_)
        joined[mine[same]] = True
        pending = pending[~joined[pending]]
    ends = np.cumsum(counts)[:-1]
    return Join(
        rows=dict(zip(names, np.split(partner, ends), strict=True)),
        missing=pending,
        disagree=disagree,
        extra=int((partner < 0).sum()),
        matched=len(key) - len(pending),
    )


def image_members(key: npt.NDArray[np.uint8], of: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Tell which of some keys (N, 16) are among others (M, 16), (N,) bool."""
    return find_keys(key, of) >= 0


def find_keys(key: npt.NDArray[np.uint8], among: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return for each key (N, 16) a row of `among` (M, 16) that has it, the first; -1 if none does."""
    if not len(among):
        return np.full(len(key), -1, np.int64)
    whole = _whole(among)
    order = np.argsort(whole, kind="stable")
    place = np.minimum(np.searchsorted(whole[order], _whole(key)), len(whole) - 1)
    row = order[place]
    return np.where((among[row] == key).all(1), row, -1)


def _whole(key: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    return np.ascontiguousarray(key).view("V16").reshape(-1)


def _words(column: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return the bytes of each row as 64-bit words, (N, W) uint64, the last word filled up with zeros."""
    rows = np.ascontiguousarray(column).reshape(len(column), -1 if column.size else 1).view(np.uint8)  # (N, bytes)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8))).view(np.uint64)


def _match(
    left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pair equal numbers of two lists, each used once: the first with the first, the second with the second."""
    left_order, right_order = np.argsort(left, kind="stable"), np.argsort(right, kind="stable")
    left_sorted, right_sorted = left[left_order], right[right_order]
    nth = np.arange(len(left)) - np.searchsorted(left_sorted, left_sorted)  # which copy of its number
    place = np.searchsorted(right_sorted, left_sorted) + nth
    found = place < len(right)
    found[found] = right_sorted[place[found]] == left_sorted[found]
    return left_order[found], right_order[place[found]]
