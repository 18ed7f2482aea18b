"""A .csv table that names image files and what is known of each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ..columns.dataset import SPLITS, UNKNOWN_BIT, UNKNOWN_CLASS, Dataset, DatasetOptions, Task, class_order
from ..columns.labels import Labels, label_bits, label_classes, no_labels, others_beside, quoted
from ..columns.splits import SPLIT_NAMES
from ..pixels.files import list_images

__all__ = ["BITS", "FIRST_ROW", "open_table", "read_columns"]

_FILE, _LABEL, _FRAME = "file", "label", "frame"
BITS = {"0": 0, "1": 1, "": UNKNOWN_BIT, "-1": UNKNOWN_BIT, "255": UNKNOWN_BIT}
FIRST_ROW = 2  # as a spreadsheet counts, the header being row 1
_LISTED = 20
_MOST_DOMAINS = 32_767  # domains are int16 in a cache

Columns = dict[str, list[str]]


def open_table(path: Path, name: str, options: DatasetOptions, classes: Sequence[str] | None = None) -> Dataset:
    """Read a table of image files; none is opened, but DICOM headers are read for the number of frames.

    The separator may be a comma, a semicolon or a tab. An empty class is an unknown one, an empty split is one to be
    drawn, an empty domain or group is none. A DICOM file of several frames is as many rows, alike in all but the image,
    unless a column ``frame`` names one of them.

    Parameters
    ----------
    classes : the cache's classes; if the table has no class column and all of these are columns, it is multi-label

    Raises
    ------
    DataError
        The table cannot be read, lacks columns, names files that are not there, or has a label or split that means
        nothing.
    """
    what = f"table '{path}'"
    columns = read_columns(path, what)
    bits = [] if options.unlabelled else _label_columns(columns, options, classes)
    label_column = options.label_column or _LABEL
    _require(columns, [_FILE], what, "the images' paths")
    if not options.unlabelled:
        _require(columns, bits or [label_column], what, "the labels (--label-column, --label-columns)")
    splits = _optional(columns, options.split_column, "split", "--split-column", what)
    domains = _optional(columns, options.domain_column, "domain", "--domain-column", what)
    groups = _optional(columns, options.group_column, "group", "--group-column", what)
    files = columns[_FILE]
    _require_files(path.parent, files, what)
    task: Task = "multilabel" if bits else "multiclass"
    if options.unlabelled:
        labels = no_labels(len(files))
    elif bits:
        labels = _read_bits(columns, bits, options, classes, what)
    else:
        labels = _read_classes(columns[label_column], options, classes, what)
    rows = labels.rows
    split = _splits(splits, what)
    domain_names, domain = _codes(domains, rows)
    if len(domain_names) > _MOST_DOMAINS:
        raise DataError(
            f"{what} has {len(domain_names)} domains; expected at most {_MOST_DOMAINS}: is --domain-column right?"
        )
    _, group = _codes(groups, rows)
    frames = [columns[_FRAME][row] for row in rows] if _FRAME in columns else None
    listing = list_images(path.parent, [files[row] for row in rows], options, what, frames)
    return Dataset(
        name=name,
        task=task,
        classes=labels.classes,
        images=listing.images,
        label=labels.label[listing.place],
        split=None if split is None else split[rows[listing.place]],
        domain=domain.astype(np.int16)[listing.place],
        group=listing.group(group),
        domains=domain_names,
        excluded=options.exclude_classes,
        label_columns=tuple(bits) or (label_column,),
    )


def read_columns(path: Path, what: str, usual: str = f"'{_FILE}' and '{_LABEL}'") -> Columns:
    """Read a table into its columns by name, cells stripped.

    Parameters
    ----------
    usual : columns that such a table has, for messages

    Raises
    ------
    DataError
        It cannot be read, or is no table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            separator = max(",;\t", key=header.count)
            reader = csv.reader(file, delimiter=separator, strict=True)
            names = [cell.strip() for cell in next(reader, [])]
            rows = [row for row in reader if any(row)]
    except FileNotFoundError as exc:
        raise DataError(
            f"There is no {what}{others_beside(path)}; expected the path of a .csv with the columns {usual}."
        ) from exc
    except OSError as exc:
        raise DataError(f"{what} cannot be read: {exc.strerror}; mend that, or give another table.") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{what} is not UTF-8 text ({exc.reason} at byte {exc.start}); save it as CSV UTF-8.") from exc
    except csv.Error as exc:
        raise DataError(f"{what} is not a table that can be read ({exc}); save it again as CSV.") from exc
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(
            f"{what} has the column{'s' * (len(twice) > 1)} {quoted(twice)} twice; expected one of each name."
        )
    for number, row in enumerate(rows, FIRST_ROW):
        if len(row) != len(names):
            raise DataError(f"{what} has {len(row)} cells in row {number}; expected {len(names)}, as in its header.")
    if not rows:
        raise DataError(f"{what} has no rows; expected a header and a row for each image.")
    return {name: [row[place].strip() for row in rows] for place, name in enumerate(names) if name}


def _label_columns(columns: Columns, options: DatasetOptions, classes: Sequence[str] | None) -> list[str]:
    if options.label_columns and options.label_column:
        raise DataError(
            "--label-column and --label-columns were both given; expected one: classes, or several 0/1 labels."
        )
    if options.label_columns:
        if len(set(options.label_columns)) < len(options.label_columns):
            raise DataError(f"--label-columns names a column twice: {quoted(list(options.label_columns))}.")
        return list(options.label_columns)
    if classes and options.label_column is None and _LABEL not in columns and set(classes) <= set(columns):
        return list(classes)
    return []


def _require(columns: Columns, wanted: Sequence[str], what: str, purpose: str) -> None:
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise DataError(
            f"{what} has no column {quoted(missing)} for {purpose}; its columns are {quoted(list(columns))}."
        )


def _optional(columns: Columns, asked: str | None, usual: str, option: str, what: str) -> list[str] | None:
    if asked is not None:
        _require(columns, [asked], what, option)
    return columns.get(asked or usual)


def _require_files(folder: Path, files: Sequence[str], what: str) -> None:
    empty = [number for number, file in enumerate(files, FIRST_ROW) if not file]
    if empty:
        raise DataError(f"{what} names no file in row {empty[0]}; expected a path relative to the table in 'file'.")
    missing = [file for file in dict.fromkeys(files) if not (folder / file).is_file()]
    if missing:
        several = len(missing) > 1
        raise DataError(
            f"{what} names {len(missing)} file{'s' * several} that {'are' if several else 'is'} not there, relative to "
            f"'{folder}': {quoted(missing, _LISTED)}; put them there or take their rows out."
        )


def _read_classes(values: Sequence[str], options: DatasetOptions, classes: Sequence[str] | None, what: str) -> Labels:
    if any(value.lower() == "nan" for value in set(values)):
        unreadable = [number for number, value in enumerate(values, FIRST_ROW) if value.lower() == "nan"]
        # What many a program writes for "nothing": as a class of its own, everything learned of it would be wrong.
        raise DataError(
            f"{what} has '{values[unreadable[0] - FIRST_ROW]}' for a class in {len(unreadable)} "
            f"row{'s' * (len(unreadable) > 1)}, row {unreadable[0]} for one; expected a class, or an empty cell = "
            "unknown."
        )
    names = class_order([value for value in set(values) if value])
    number = {name: index for index, name in enumerate(names)} | {"": UNKNOWN_CLASS}
    code = np.array([number[value] for value in values])
    return label_classes(
        names, code, exclude=options.exclude_classes, classes=classes, what=what, known=options.known_classes
    )


def _read_bits(
    columns: Columns, names: Sequence[str], options: DatasetOptions, classes: Sequence[str] | None, what: str
) -> Labels:
    bits = np.empty((len(columns[_FILE]), len(names)), np.uint8)
    for place, name in enumerate(names):
        for index, value in enumerate(columns[name]):
            if value not in BITS:
                raise DataError(
                    f"{what} has '{value}' in column '{name}', row {index + FIRST_ROW}; expected 0, 1, or empty = "
                    "unknown."
                )
            bits[index, place] = BITS[value]
    return label_bits(
        names, bits, exclude=options.exclude_classes, classes=classes, what=what, known=options.known_classes
    )


def _splits(values: Sequence[str] | None, what: str) -> npt.NDArray[np.int8] | None:
    """Return (N,) int8 index into `SPLITS`, -1 where none is said; None where none is said at all."""
    if values is None or not any(values):
        return None
    wrong = [number for number, value in enumerate(values, FIRST_ROW) if value and value.lower() not in SPLIT_NAMES]
    if wrong:
        raise DataError(
            f"{what} has the split '{values[wrong[0] - FIRST_ROW]}' in row {wrong[0]}; expected one of "
            f"{quoted(list(SPLIT_NAMES))}, or empty = to be drawn."
        )
    return np.array([SPLITS.index(SPLIT_NAMES[value.lower()]) if value else -1 for value in values], np.int8)


def _codes(values: Sequence[str] | None, rows: npt.NDArray[np.int64]) -> tuple[tuple[str, ...], npt.NDArray[Any]]:
    """Return the different values among some rows, and (M,) int64 which each has, -1 for empty."""
    if values is None:
        return (), np.full(len(rows), -1, np.int64)
    taken = [values[row] for row in rows.tolist()]
    names = class_order([value for value in set(taken) if value])
    number = {name: index for index, name in enumerate(names)} | {"": -1}
    return names, np.array([number[value] for value in taken], np.int64)
