"""The rows of a cache: a dataset's images per split, in an order that only depends on content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.text import plural
from ...cache.verify import order_columns
from ..datasets.columns.dataset import SPLITS, Dataset

__all__ = ["SplitRows", "anonymous_groups", "arrange_rows", "repeat_warnings", "rows_digest"]


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split in ascending (key, label).

    Attributes
    ----------
    source : (N,) int64 row of the dataset
    key : (N, 16) uint8
    label : (N,) int32 or (N, L) uint8
    domain : (N,) int16
    group : (N,) int32 codes of the group partition over all splits by first appearance, -1 none
    """

    source: npt.NDArray[np.int64]
    key: npt.NDArray[np.uint8]
    label: npt.NDArray[Any]
    domain: npt.NDArray[np.int16]
    group: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.source)

    def take(self, keep: npt.NDArray[np.bool_]) -> SplitRows:
        """Return some of the rows, in their order."""
        return SplitRows(self.source[keep], self.key[keep], self.label[keep], self.domain[keep], self.group[keep])


def arrange_rows(dataset: Dataset, key: npt.NDArray[np.uint8], split: npt.NDArray[np.int8]) -> dict[str, SplitRows]:
    """Sort a dataset's rows into the splits that have any.

    Copies of an image with the same label are ordered by domain and by the other images of their group, so that the
    dataset's order has no effect.

    Parameters
    ----------
    key : (N, 16) uint8
    split : (N,) int8 index into train, val, test
    """
    words = order_columns(key, dataset.label)
    signature = _group_signatures(key, dataset.group)
    columns: list[npt.NDArray[Any]] = [signature, dataset.domain, *words]
    order = np.lexsort(columns)
    arranged = {name: order[split[order] == index] for index, name in enumerate(SPLITS) if (split == index).any()}
    codes = _codes_by_appearance(dataset.group, np.concatenate(list(arranged.values())))
    return {
        name: SplitRows(rows, key[rows], dataset.label[rows], dataset.domain[rows], codes[rows])
        for name, rows in arranged.items()
    }


def _group_signatures(key: npt.NDArray[np.uint8], group: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return for each row a number made of all images of its group, (N,) uint64; 0 without a group."""
    signature = np.zeros(len(key), np.uint64)
    members = np.flatnonzero(group >= 0)
    if len(members) == 0:
        return signature
    words = np.ascontiguousarray(key[members]).view(np.uint64)
    members = members[np.lexsort((words[:, 1], words[:, 0], group[members]))]
    starts = np.flatnonzero(np.diff(group[members], prepend=-1))
    for rows in np.split(members, starts[1:]):
        digest = blake2b(key[rows].tobytes(), digest_size=8).digest()
        signature[rows] = int.from_bytes(digest, "little")
    return signature


def _codes_by_appearance(group: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    codes = np.full(len(group), -1, np.int32)
    seen = order[group[order] >= 0]
    _, first, inverse = np.unique(group[seen], return_index=True, return_inverse=True)
    codes[seen] = np.argsort(np.argsort(first))[inverse]
    return codes


def rows_digest(rows: Mapping[str, SplitRows]) -> dict[str, str]:
    """Return a SHA-256 of each split's sorted rows (key, label, domain, group partition): the dataset's fingerprint."""
    return {
        name: sha256(
            b"".join(
                np.ascontiguousarray(column).astype(column.dtype.newbyteorder("<")).tobytes()
                for column in (part.key, part.label, part.domain, part.group)
            )
        ).hexdigest()
        for name, part in rows.items()
    }


def repeat_warnings(rows: Mapping[str, SplitRows]) -> list[str]:
    """Return a sentence on images in several splits, one on images with several labels, one on patients in several."""
    key = np.concatenate([part.key for part in rows.values()])
    split = np.repeat(np.arange(len(rows)), [len(part) for part in rows.values()])
    label = np.concatenate([part.label for part in rows.values()])
    _, code = np.unique(label, axis=0, return_inverse=True)
    words = np.ascontiguousarray(key).view(np.uint64)
    order = np.lexsort((words[:, 1], words[:, 0]))
    starts = np.flatnonzero(np.any(np.diff(words[order], axis=0, prepend=~words[order[:1]]), axis=1))
    several, contrary = (_count_mixed(column.reshape(-1)[order], starts) for column in (split, code))
    found = []
    if several:
        found.append(f"{_images(several)} in more than one split, but val and test should be new to probe and student")
    if contrary:
        found.append(f"{_images(contrary)} in the dataset several times with different labels")
    group = np.concatenate([part.group for part in rows.values()])
    known = np.flatnonzero(group >= 0)
    known = known[np.argsort(group[known], kind="stable")]
    torn = _count_mixed(split[known], np.flatnonzero(np.diff(group[known], prepend=-1))) if len(known) else 0
    if torn:
        found.append(
            f"{torn} {plural(torn, 'patient has', 'patients have')} images in more than one split, but val and test "
            "should be new to probe and student: give other splits, or none, to have them drawn by patient"
        )
    return found


def _images(count: int) -> str:
    return f"{count} {plural(count, 'image is', 'images are')}"


def _count_mixed(values: npt.NDArray[Any], starts: npt.NDArray[np.int64]) -> int:
    """Count the stretches, by where they start, whose values are not all the same."""
    low, high = (ufunc.reduceat(values, starts) for ufunc in (np.minimum, np.maximum))
    return int((low != high).sum())


def anonymous_groups(rows: Mapping[str, SplitRows], seed: int) -> dict[str, npt.NDArray[np.int32]]:
    """Return the groups as a seeded permutation of their codes, so that a code reveals neither order nor id."""
    count = 1 + max((int(part.group.max(initial=-1)) for part in rows.values()), default=-1)
    permuted = np.append(np.random.default_rng(seed).permutation(count), -1).astype(np.int32)
    return {name: permuted[part.group] for name, part in rows.items()}
