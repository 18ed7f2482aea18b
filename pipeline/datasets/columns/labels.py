"""From what a dataset calls its classes to the numbers of `Dataset.label`: unknown, renamed, rare, or looking wrong."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import plural, quoted
from .dataset import UNKNOWN_CLASS, UNLABELLED, DatasetOptions, class_order
from .suspicion import Source, check_classes, say_doubtful

__all__ = ["Classes", "Labels", "exclude_flags", "label_bits", "label_classes", "no_labels", "read_classes"]


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


def exclude_flags(names: Sequence[str]) -> str:
    """Write the options that leave classes out."""
    return " ".join(f"--exclude-class {shlex.quote(name)}" for name in names)


def _require_known(exclude: Sequence[str], found: set[str], known: Sequence[str], what: str) -> None:
    missing = [name for name in exclude if name not in found and name not in known]
    if missing:
        raise DataError(
            f"{what} has no class {quoted(missing)} to leave out; its classes are {quoted(class_order(sorted(found)))}."
        )


class Classes(NamedTuple):
    """Labels, and what was left out or put together on the way.

    Attributes
    ----------
    excluded : all classes that were left out, the rare ones too
    renamed : what classes were called, and what they are called now
    notes : what looks odd, in words
    """

    labels: Labels
    excluded: tuple[str, ...]
    renamed: Mapping[str, str]
    notes: tuple[str, ...] = ()


def read_classes(
    values: Sequence[str],
    options: DatasetOptions,
    classes: Sequence[str] | None,
    what: str,
    *,
    source: Source,
    numbers: Sequence[str] | None = None,
    empty: Sequence[str] = (),
) -> Classes:
    """Turn the class of each row into labels.

    Parameters
    ----------
    values : (N,) names of classes; empty = unknown
    classes : those of a cache, in its order: they were looked at when it was made
    source : what names the classes
    numbers : of each row, where these are cells of a table
    empty : classes that the dataset names and that have no image; they may be left out

    Raises
    ------
    DataError
        Classes look wrong, are not those wanted, or too few are left.
    """
    renamed = dict(options.rename_classes)
    unknown = {"", *options.unknown_labels}
    asked = [*renamed, *options.unknown_labels]
    found = set(values)
    strange = [name for name in asked if name not in found] if classes is None else []
    if strange:
        raise DataError(
            f"{what} has no class {quoted(strange)} for --rename-class or --unknown-label; its classes are "
            f"{quoted(class_order([name for name in found if name]))}."
        )
    known = {name: "" if name in unknown else renamed.get(name, name) for name in found}
    named = [known[value] for value in values]
    counts = Counter(name for name in named if name)
    notes: list[str] = []
    if classes is None and not options.accept_classes:
        where = None if numbers is None else (lambda names: numbers[min(map(named.index, names))])
        in_order = {name: counts[name] for name in class_order(list(counts))}
        check_classes(in_order, what, source, where)
        notes = say_doubtful(in_order)
    excluded = options.exclude_classes
    if options.min_class_images is not None and classes is None:
        rare = _rare(counts, options, what)
        if options.other_class is None:
            excluded = (*excluded, *rare)
        else:
            renamed |= dict.fromkeys(rare, options.other_class)
            named = [renamed.get(name, name) for name in named]
    names = class_order([name for name in set(named) if name])
    number = {name: index for index, name in enumerate(names)} | {"": UNKNOWN_CLASS}
    labels = label_classes(
        names,
        np.array([number[name] for name in named], np.int64),
        exclude=excluded,
        classes=classes,
        what=what,
        known=(*options.known_classes, *empty),
    )
    return Classes(labels, excluded, renamed, tuple(notes))


def _rare(counts: Mapping[str, int], options: DatasetOptions, what: str) -> tuple[str, ...]:
    least = options.min_class_images or 0
    rare = class_order([name for name, count in counts.items() if count < least])
    left = [name for name in counts if name not in rare and name not in options.exclude_classes]
    if len(left) + (options.other_class is not None) < 2:
        raise DataError(
            f"{what} has {len(left)} {plural(len(left), 'class')} of {least} images or more; expected two or more: "
            "give a lower --min-class-images."
        )
    return tuple(name for name in rare if name not in options.exclude_classes)
