"""What arrays say of labels and patients: numbers, names, columns of 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import plural, quoted
from ..columns.bits import say_nearly_one_hot
from ..columns.dataset import UNKNOWN_BIT, UNKNOWN_CLASS, DatasetOptions
from ..columns.labels import Classes, Labels, label_bits, label_classes, read_classes
from ..columns.patients import NO_GROUP, check_groups, number_groups, patient_columns
from ..columns.splits import SPLIT_NAMES
from .array_layout import Pair, single_labels

__all__ = ["read_groups", "read_labels", "say_unread"]

Array = npt.NDArray[Any]


def read_labels(
    parts: Sequence[Array],
    label_names: Sequence[str],
    options: DatasetOptions,
    classes: Sequence[str] | None,
    what: str,
) -> tuple[Classes, bool]:
    """Return the labels of all splits, and whether an image may have several.

    Parameters
    ----------
    parts : of each split (N,) or (N, 1) class indices or names, or (N, L) of 0 and 1
    label_names : what label 0, 1 … is called, where that is known; else it is called by its number
    classes : the cache's classes; labels without names may also mean them by position

    Raises
    ------
    DataError
        Labels mean nothing, or differ from those wanted.
    """
    if all(part.dtype.kind in "US" for part in parts):
        return read_classes(_joined_names(parts, what), options, classes, what, source="arrays"), False
    values = _joined_labels(parts, what)
    if values.ndim == 2 and not options.several_labels:
        values = single_labels(values, what)
    if values.ndim == 2:
        labels = _read_bits(values, label_names, options, classes, what)
        said = [] if label_names or classes is not None else say_nearly_one_hot(labels.label)
        return Classes(labels, options.exclude_classes, {}, tuple(said)), True
    return _read_classes(values, label_names, options, classes, what), False


def _joined_names(parts: Sequence[Array], what: str) -> list[str]:
    if any(part.ndim > 1 and part.shape[1:] != (1,) for part in parts):
        raise DataError(f"{what} has labels that are names in several columns; expected one name an image.")
    joined = np.concatenate([part.reshape(-1) for part in parts]) if parts else np.zeros(0, "U1")
    try:
        return (
            [value.strip() for value in np.char.decode(joined, "utf-8").tolist()]
            if joined.dtype.kind == "S"
            else [value.strip() for value in joined.tolist()]
        )
    except UnicodeDecodeError as exc:
        raise DataError(f"{what} has labels that are no UTF-8 text; expected names or class indices.") from exc


def _joined_labels(labels: Sequence[Array], what: str) -> npt.NDArray[np.int64]:
    """Return (N,) or (N, L) int64 of all splits."""
    columns = {1 if part.ndim == 1 else part.shape[1] for part in labels}
    if len(columns) != 1:
        raise DataError(
            f"{what} has labels of {' and '.join(map(str, sorted(columns)))} columns; expected one number of them."
        )
    joined = np.concatenate([part[:, None] if part.ndim == 1 else part for part in labels])
    if joined.dtype.kind not in "biuf" or (joined.dtype.kind == "f" and not (joined == np.round(joined)).all()):
        raise DataError(f"{what} has labels that are not whole numbers ({joined.dtype}); expected class indices.")
    if joined.size and (joined.min() < -1 or joined.max() >= 2**31):
        raise DataError(
            f"{what} has labels from {joined.min()} to {joined.max()}; expected class indices, or -1 = unknown."
        )
    whole = joined.astype(np.int64)
    return whole[:, 0] if whole.shape[1] == 1 else whole


def _read_classes(
    values: npt.NDArray[np.int64],
    label_names: Sequence[str],
    options: DatasetOptions,
    classes: Sequence[str] | None,
    what: str,
) -> Classes:
    found = np.unique(values[values >= 0])
    names = [label_names[value] if value < len(label_names) else str(value) for value in found.tolist()]
    numbered = not label_names and not options.exclude_classes and classes is not None
    if numbered and classes is not None and not set(names) <= set(classes) and found.max(initial=-1) < len(classes):
        # Made from the same labels with their names, by somebody who opened them as `medmnist:`.
        names = [classes[value] for value in found.tolist()]
    elif not label_names:
        cells = ["" if value < 0 else str(value) for value in values.tolist()]
        return read_classes(cells, options, classes, what, source="arrays")
    code = np.where(values >= 0, np.searchsorted(found, values), UNKNOWN_CLASS)
    labels = label_classes(
        names, code, exclude=options.exclude_classes, classes=classes, what=what, known=options.known_classes
    )
    return Classes(labels, options.exclude_classes, {})


def _read_bits(
    values: npt.NDArray[np.int64],
    label_names: Sequence[str],
    options: DatasetOptions,
    classes: Sequence[str] | None,
    what: str,
) -> Labels:
    bits = np.where(values == -1, UNKNOWN_BIT, values)
    wrong = np.argwhere(~np.isin(bits, (0, 1, UNKNOWN_BIT)))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{what} has {values[row, column]} in column {column} of its labels; expected 0, 1, or 255 = unknown."
        )
    names = list(label_names) if len(label_names) == bits.shape[1] else [str(index) for index in range(bits.shape[1])]
    if (
        not label_names
        and not options.exclude_classes
        and classes is not None
        and len(classes) == len(names)
        and set(classes) != set(names)
    ):
        names = list(classes)
    return label_bits(
        names,
        bits.astype(np.uint8),
        exclude=options.exclude_classes,
        classes=classes,
        what=what,
        known=options.known_classes,
    )


def read_groups(
    arrays: Mapping[str, Array], others: Sequence[str], pairs: Sequence[Pair], column: str | None, what: str
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the patient of each image, (N,) int64, -1 none, and the arrays that say it.

    Parameters
    ----------
    others : names of arrays that are neither images nor labels
    column : name of an array of patients, or what stands beside the name of each split: ``patients`` of
        ``train_patients``; None = none is known

    Raises
    ------
    DataError
        There is no such array, or it is not one value an image.
    """
    count = sum(len(arrays[pair.labels]) for pair in pairs)
    if column is None or column == NO_GROUP:
        return np.full(count, -1, np.int64), []
    names = [_name_of_groups(arrays, pair, column) for pair in pairs]
    missing = [pair.split for pair, name in zip(pairs, names, strict=True) if name is None]
    if missing:
        named = quoted(others) if others else "none"
        where = f" of {missing[0]}" if missing[0] else ""
        raise DataError(f"{what} has no array '{column}'{where} for --group-column; its other arrays are {named}.")
    values: list[str] = []
    for pair, name in zip(pairs, names, strict=True):
        part = arrays[str(name)]
        if len(part.reshape(-1)) != len(arrays[pair.labels]):
            raise DataError(
                f"'{name}' in {what} has the shape {part.shape}, and there are {len(arrays[pair.labels])} images; "
                "expected a patient for each."
            )
        values += map(str, part.reshape(-1).tolist())
    check_groups(values, column, what, drawn=pairs[0].split is None)
    return number_groups(values), [str(name) for name in names]


def _name_of_groups(arrays: Mapping[str, Array], pair: Pair, column: str) -> str | None:
    if pair.split is None:
        return column if column in arrays else None
    said = pair.images.lower().removesuffix("_images").removesuffix("_x").removesuffix("_data").removeprefix("x_")
    known = {name.lower(): name for name in arrays}
    return known.get(f"{said}_{column}".lower()) or known.get(f"{column}_{said}".lower())


def say_unread(unread: Sequence[str], patients: bool) -> list[str]:
    """Say which arrays are not read.

    Parameters
    ----------
    patients : whether it is known who is who
    """
    if not unread:
        return []
    said = [f"{len(unread)} {plural(len(unread), 'array')} not read: {quoted(unread)}"]
    likely = [] if patients else patient_columns(unread)
    if likely:
        words = [word for word in likely[0].split("_") if word.lower() not in SPLIT_NAMES]
        said.append(
            f"array '{likely[0]}' looks like patients: --group-column {'_'.join(words)} keeps each in one split"
        )
    return said
