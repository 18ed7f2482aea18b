"""From what rows call their classes to labels: unknown ones, renamed ones, rare ones, and those that look wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ....cache.errors import DataError
from ....cache.text import plural
from .dataset import UNKNOWN_CLASS, DatasetOptions, class_order
from .labels import Labels, label_classes, quoted
from .suspicion import Source, check_classes, say_doubtful

__all__ = ["Classes", "read_classes"]


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
    first_row: int | None = None,
    empty: Sequence[str] = (),
) -> Classes:
    """Turn the class of each row into labels.

    Parameters
    ----------
    values : (N,) names of classes; empty = unknown
    classes : those of a cache, in its order: they were looked at when it was made
    source : what names the classes
    first_row : number of the first row, where these are cells of a table
    empty : classes that the dataset names and that have no image; they may be left out

    Raises
    ------
    DataError
        Classes look wrong, are not those wanted, or too few are left.
    """
    renamed = dict(options.rename_classes)
    unknown = {"", *options.unknown_labels}
    asked = [*renamed, *options.unknown_labels]
    strange = [name for name in asked if name not in set(values)] if classes is None else []
    if strange:
        raise DataError(
            f"{what} has no class {quoted(strange)} for --rename-class or --unknown-label; its classes are "
            f"{quoted(class_order([name for name in set(values) if name]))}."
        )
    known = {name: "" if name in unknown else renamed.get(name, name) for name in set(values)}
    named = [known[value] for value in values]
    counts = Counter(name for name in named if name)
    notes: list[str] = []
    if classes is None and not options.accept_classes:
        first = None if first_row is None else (lambda name: first_row + named.index(name))
        in_order = {name: counts[name] for name in class_order(list(counts))}
        check_classes(in_order, what, source, first)
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
