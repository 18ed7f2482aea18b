"""Rows of a table that name one image, as one a box or one a reader: put together, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import plural
from .dataset import UNKNOWN_BIT, UNKNOWN_CLASS, Repeated

__all__ = ["Merged", "merge_rows"]


class Merged(NamedTuple):
    """Rows, one an image, and their labels.

    Attributes
    ----------
    rows : (M,) int64 first row of each image
    label : (M,) or (M, L) of these rows
    gone : (K,) int64 rows that were put together with one of `rows`
    """

    rows: npt.NDArray[np.int64]
    label: npt.NDArray[Any]
    gone: npt.NDArray[np.int64]


def merge_rows(
    image: Sequence[Hashable],
    beside: Sequence[Hashable],
    label: npt.NDArray[Any],
    names: Sequence[str],
    how: Repeated,
    what: str,
    numbers: Sequence[str],
) -> Merged:
    """Put rows of one image together.

    Rows whose labels agree become one; a row without a label agrees with any. Rows that differ in `beside` (split,
    domain or group) stand as they are as long as their labels agree.

    Parameters
    ----------
    image, beside : of each row, what it is of, and what else is said of it
    label : (N,) int, or (N, L) uint8
    numbers : of each row in the table, for messages

    Raises
    ------
    DataError
        Labels of one image differ and nothing says whose counts, or splits of rows that are put together differ.
    """
    if len(set(image)) == len(image):
        return Merged(np.arange(len(image)), label, np.zeros(0, np.int64))
    of_image: dict[Hashable, list[int]] = {}
    for row, name in enumerate(image):
        of_image.setdefault(name, []).append(row)
    several = [rows for rows in of_image.values() if len(rows) > 1]
    contrary = [rows for rows in several if not _agree(label[rows])]
    if contrary and how == "refuse":
        rows = contrary[0]
        raise DataError(
            f"{what} has {len(several)} {plural(len(several), 'image')} in more than one row "
            f"({sum(map(len, several))} rows), and the labels of {len(contrary)} differ, '{image[rows[0]]}' in the "
            f"rows {', '.join(numbers[row] for row in rows[:5])} for one; expected one label an image: "
            "--repeated first, any or majority says whose counts."
        )
    keep = np.ones(len(image), np.bool_)
    merged = label.copy()
    for rows in several:
        one = _put_together(label[rows], how, names, f"{what}, '{image[rows[0]]}'")
        for part in [rows] if how != "refuse" else _alike(rows, beside):
            merged[part[0]] = one
            keep[part[1:]] = False
        if how != "refuse" and len({beside[row] for row in rows}) > 1:
            raise DataError(
                f"{what} has '{image[rows[0]]}' in several rows of different split, domain or group, rows "
                f"{', '.join(numbers[row] for row in rows[:5])}; expected the same, as --repeated {how} makes one "
                "row of them."
            )
    return Merged(np.flatnonzero(keep), merged[keep], np.flatnonzero(~keep))


def _alike(rows: list[int], beside: Sequence[Hashable]) -> list[list[int]]:
    parts: dict[Hashable, list[int]] = {}
    for row in rows:
        parts.setdefault(beside[row], []).append(row)
    return list(parts.values())


def _agree(label: npt.NDArray[Any]) -> bool:
    unknown = UNKNOWN_CLASS if label.ndim == 1 else UNKNOWN_BIT
    known = np.where(label == unknown, -1, label.astype(np.int64)).reshape(len(label), -1)
    return bool(((known == known.max(0)) | (known < 0)).all())


def _put_together(label: npt.NDArray[Any], how: Repeated, names: Sequence[str], which: str) -> Any:
    """Return the one label of several rows."""
    if label.ndim == 2:
        return np.array([_bit(column.tolist(), how) for column in label.T], np.uint8)
    known = [value for value in label.tolist() if value != UNKNOWN_CLASS]
    if not known:
        return UNKNOWN_CLASS
    if how == "majority":
        (first, count), *others = Counter(known).most_common()
        if others and others[0][1] == count:
            raise DataError(
                f"{which}: as many rows say '{names[first]}' as '{names[others[0][0]]}'; expected a majority: take "
                "--repeated first, or decide in the table."
            )
        return first
    if how == "any" and len(names) > 2 and len(set(known)) > 1:
        raise DataError(
            f"{which}: the rows say '{names[known[0]]}' and others, and --repeated any means one of two classes, the "
            "second if any row has it; with --label-separator '|' an image has all labels of its rows."
        )
    return max(known) if how == "any" else known[0]


def _bit(values: list[int], how: Repeated) -> int:
    known = [value for value in values if value != UNKNOWN_BIT]
    if not known:
        return UNKNOWN_BIT
    if how == "majority":
        return UNKNOWN_BIT if 2 * sum(known) == len(known) else int(2 * sum(known) > len(known))
    return max(known) if how == "any" else known[0]
