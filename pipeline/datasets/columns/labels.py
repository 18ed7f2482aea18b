"""From what a dataset calls its classes to the numbers of `Dataset.label`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import plural
from .dataset import UNKNOWN_CLASS, UNLABELLED, class_order

__all__ = ["Labels", "exclude_flags", "label_bits", "label_classes", "no_labels", "others_beside", "quoted"]

_BESIDE = 5


class Labels(NamedTuple):
    """Labels as `Dataset` holds them, and which of the rows given they are of.

    Attributes
    ----------
    label : (M,) int32 class index, -1 unknown; or (M, L) uint8 of 0/1, 255 unknown
    rows : (M,) int64
    """

    classes: tuple[str, ...]
    label: npt.NDArray[Any]
    rows: npt.NDArray[np.int64]


def label_classes(
    names: Sequence[str],
    code: npt.NDArray[np.int64],
    *,
    exclude: Sequence[str],
    classes: Sequence[str] | None,
    what: str,
    known: Sequence[str] = (),
) -> Labels:
    """Number the classes of a multi-class dataset and drop the rows of those that are left out.

    Parameters
    ----------
    names : the dataset's own class names, in its own order
    code : (N,) index into `names`, -1 unknown
    exclude : classes to leave out, of those that have rows or are `known`
    classes : the order wanted; None = the dataset's own, without classes that have no rows
    known : classes that may be left out without having rows, as a cache knows them

    Raises
    ------
    DataError
        A class to leave out is not there, a class is not among those wanted, or fewer than two are left.
    """
    found = {names[index] for index in np.unique(code[code >= 0])}
    _require_known(exclude, found, known, what)
    kept = tuple(name for name in names if name in found and name not in exclude)
    wanted = tuple(classes) if classes is not None else kept
    outside = [name for name in kept if name not in wanted]
    if outside and not any(name in wanted for name in kept):
        raise DataError(
            f"{what} has the {plural(len(outside), 'class')} {quoted(outside)}, and none of those of the cache, "
            f"{quoted(wanted)}: is it the dataset that the cache was made from?"
        )
    if outside:
        raise DataError(
            f"{what} has the {plural(len(outside), 'class')} {quoted(outside)}; expected only {quoted(wanted)}, the "
            f"classes of the cache: leave out what is too much with {exclude_flags(outside)}."
        )
    if classes is None and len(wanted) < 2:
        if exclude:
            raise DataError(
                f"{what} has {_count(wanted)} left after --exclude-class; expected two or more: leave out fewer of its "
                f"classes, {quoted(class_order(sorted(found)))}."
            )
        raise DataError(f"{what} has {_count(wanted)}; expected two or more.")
    # One place more, for -1.
    new = np.full(len(names) + 1, UNKNOWN_CLASS, np.int32)
    new[:-1] = [wanted.index(name) if name in wanted else UNKNOWN_CLASS for name in names]
    dropped = np.array([*(name in exclude for name in names), False])
    rows = np.flatnonzero(~dropped[code])
    return Labels(wanted, new[code[rows]], rows)


def label_bits(
    names: Sequence[str],
    bits: npt.NDArray[np.uint8],
    *,
    exclude: Sequence[str],
    classes: Sequence[str] | None,
    what: str,
    known: Sequence[str] = (),
) -> Labels:
    """Order the labels of a multi-label dataset, leaving some out. All rows stay.

    Parameters
    ----------
    names : (L,) the dataset's own label names
    bits : (N, L) uint8 of 0/1, 255 unknown
    known : labels that may be left out without being there, as a cache knows them

    Raises
    ------
    DataError
        A label to leave out is not there, or the labels are not those wanted.
    """
    _require_known(exclude, set(names), known, what)
    kept = [name for name in names if name not in exclude]
    wanted = tuple(classes) if classes is not None else tuple(kept)
    if set(wanted) != set(kept):
        raise DataError(f"{what} has the labels {quoted(kept)}; expected {quoted(wanted)}, the labels of the cache.")
    if not wanted:
        raise DataError(f"{what} has no label left; leave fewer of {quoted(names)} out.")
    columns = [names.index(name) for name in wanted]
    return Labels(wanted, np.ascontiguousarray(bits[:, columns]), np.arange(len(bits)))


def no_labels(count: int) -> Labels:
    """Return the labels of images alone."""
    return Labels(UNLABELLED, np.full(count, UNKNOWN_CLASS, np.int32), np.arange(count))


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} {plural(len(names), 'class')}" + (f" ({quoted(names)})" if names else "")


def quoted(names: Sequence[str], most: int = 20) -> str:
    """Write names for a message, the first `most` of them."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def others_beside(path: Path) -> str:
    """Name, for a message, the files of the same kind in the folder of one that is not there."""
    if not path.parent.is_dir():
        return f", nor a folder '{path.parent}'"
    others = sorted(file.name for file in path.parent.glob(f"*{path.suffix}"))
    return f"; '{path.parent}' has {quoted(others, _BESIDE)}" if others else ""


def exclude_flags(names: Sequence[str]) -> str:
    """Write the options that leave classes out."""
    return " ".join(f"--exclude-class {shlex.quote(name)}" for name in names)


def _require_known(exclude: Sequence[str], found: set[str], known: Sequence[str], what: str) -> None:
    missing = [name for name in exclude if name not in found and name not in known]
    if missing:
        raise DataError(
            f"{what} has no class {quoted(missing)} to leave out; its classes are {quoted(class_order(sorted(found)))}."
        )
