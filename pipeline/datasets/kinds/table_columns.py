"""Which column of a table says what, and what its cells mean."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ..columns.bits import one_of, read_bits, split_labels
from ..columns.classes import Classes, read_classes
from ..columns.dataset import SPLITS, DatasetOptions, Task
from ..columns.labels import label_bits, no_labels, quoted
from ..columns.patients import NO_GROUP, patient_columns
from ..columns.splits import SPLIT_NAMES, find_split
from .lookup import Lookup
from .table_text import FIRST_ROW, Columns, read_columns

__all__ = ["FILE", "Found", "Named", "find_columns", "read_labels", "say_patient_columns"]

FILE = "file"
_LABEL, _FRAME, _GROUP = "label", "frame", "group"
USUAL = f"'{FILE}' and '{_LABEL}'"
_LISTED = 8


@dataclass(frozen=True, kw_only=True)
class Found:
    """The columns of a table by what they are for, (N,) each; None where there is none.

    Attributes
    ----------
    split : (N,) int8 index into `SPLITS`, -1 = to be drawn
    notes : what was guessed, in words
    """

    columns: Columns
    file_column: str
    files: Sequence[str]
    frames: Sequence[str] | None
    split: npt.NDArray[np.int8] | None
    domains: Sequence[str] | None
    groups: Sequence[str] | None
    group_column: str
    notes: tuple[str, ...] = ()

    def beside(self, rows: npt.NDArray[np.int64]) -> list[Hashable]:
        """Return what is said of some rows beside their labels."""
        said = [column for column in (self.domains, self.groups) if column is not None]
        if self.split is not None:
            said.append(self.split.tolist())
        return [tuple(column[row] for column in said) for row in rows.tolist()]


def find_columns(path: Path, options: DatasetOptions, lookup: Lookup, what: str) -> Found:
    """Read a table, and those of val and test that go with it, and find its columns.

    Raises
    ------
    DataError
        A table cannot be read, or a column is not there.
    """
    columns, part = _read_tables(path, options, what)
    file_column, notes = _file_column(columns, options, lookup, what)
    splits = _optional(columns, options.split_column, "split", "--split-column", what)
    if part is not None and splits is not None:
        raise DataError(
            f"{what} has a column of splits, and --val-table or --test-table says which rows are of which; expected "
            "one of them: leave these options out, or take the column out."
        )
    split = _splits(splits, dict(options.split_names), what) if part is None else part
    groups = None
    if options.group_column != NO_GROUP or NO_GROUP in columns:
        groups = _optional(columns, options.group_column, _GROUP, "--group-column", what)
        groups = None if options.group_pattern is not None and options.group_column is None else groups
    files = columns[file_column]
    empty = [number for number, file in enumerate(files, FIRST_ROW) if not file]
    if empty:
        raise DataError(
            f"{what} names no file in row {empty[0]}; expected a path relative to the table in '{file_column}'."
        )
    return Found(
        columns=columns,
        file_column=file_column,
        files=files,
        frames=columns.get(_FRAME),
        split=_listed_splits(files, split, options),
        domains=_optional(columns, options.domain_column, "domain", "--domain-column", what),
        groups=groups,
        group_column=options.group_column or _GROUP,
        notes=notes,
    )


def _read_tables(path: Path, options: DatasetOptions, what: str) -> tuple[Columns, npt.NDArray[np.int8] | None]:
    """Return the rows of all tables one after the other, and the split of each if tables say it."""
    columns = read_columns(path, what, USUAL)
    others = [(1, options.val_table), (2, options.test_table)]
    if not any(table for _, table in others):
        return columns, None
    part = [0] * len(next(iter(columns.values())))
    for split, table in others:
        if table is None:
            continue
        other = Path(table)
        more = read_columns(other, f"table '{other}'", USUAL)
        shared = [name for name in columns if name in more]
        if not shared:
            raise DataError(
                f"The table '{other}' has no column of {what}; expected the same columns, "
                f"{quoted(list(columns), _LISTED)}."
            )
        count = len(more[shared[0]])
        start = os.path.relpath(other.parent, path.parent)
        columns = {name: [*columns[name], *_from(more[name], other.parent, start)] for name in shared}
        part += [split] * count
    return columns, np.array(part, np.int8)


def _from(cells: Sequence[str], folder: Path, start: str) -> list[str]:
    """Return cells as they read from the first table's folder, where they are paths from another's."""
    if start == ".":
        return list(cells)
    return [f"{start}/{cell}" if cell and (folder / cell).is_file() else cell for cell in cells]


def _file_column(columns: Columns, options: DatasetOptions, lookup: Lookup, what: str) -> tuple[str, tuple[str, ...]]:
    """Return the column of files, and a note if it was guessed."""
    if options.file_column is not None:
        require(columns, [options.file_column], what, "--file-column")
        return options.file_column, ()
    if FILE in columns:
        return FILE, ()
    fitting = [name for name, cells in columns.items() if lookup.fits(cells)]
    if len(fitting) == 1:
        return fitting[0], (f"column '{fitting[0]}' names the files: it is the only one whose cells are files",)
    which = f"; {quoted(fitting)} could be" if fitting else ""
    hint = (
        "" if options.image_folders else ", and the folder that they lie under with --images, if not beside the table"
    )
    raise DataError(
        f"{what} has no column '{FILE}' for the images' paths{which}; its columns are {quoted(list(columns))}: name "
        f"the one of files with --file-column{hint}."
    )


def require(columns: Columns, wanted: Sequence[str], what: str, purpose: str) -> None:
    """Refuse a table without some columns.

    Raises
    ------
    DataError
    """
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise DataError(
            f"{what} has no column {quoted(missing)} for {purpose}; its columns are {quoted(list(columns))}."
        )


def _optional(columns: Columns, asked: str | None, usual: str, option: str, what: str) -> list[str] | None:
    if asked is not None:
        require(columns, [asked], what, option)
    return columns.get(asked or usual)


def _splits(values: Sequence[str] | None, names: dict[str, str], what: str) -> npt.NDArray[np.int8] | None:
    """Return (N,) int8 index into `SPLITS`, -1 where none is said; None where none is said at all."""
    if values is None or not any(values):
        return None
    known = {value: find_split(value, names) if value else -1 for value in set(values)}
    wrong = [number for number, value in enumerate(values, FIRST_ROW) if value and known[value] < 0]
    if wrong:
        value = values[wrong[0] - FIRST_ROW]
        others = [name for name, split in known.items() if name and split < 0]
        flags = ",".join(f"{name}={split}" for name, split in zip(sorted(others), SPLITS, strict=False))
        raise DataError(
            f"{what} has the split '{value}' in row {wrong[0]}; expected one of {quoted(list(SPLIT_NAMES))}, or empty "
            f"= to be drawn: say what names mean, as with --split-names {flags}."
        )
    return np.array([known[value] for value in values], np.int8)


def _listed_splits(
    files: Sequence[str], split: npt.NDArray[np.int8] | None, options: DatasetOptions
) -> npt.NDArray[np.int8] | None:
    """Put into a split what a list of names says is of it; what no list names keeps what it has."""
    if not options.split_lists:
        return split
    listed = np.full(len(files), -1, np.int8) if split is None else split.copy()
    last = [file.replace("\\", "/").rpartition("/")[2] for file in files]
    for name, path in options.split_lists:
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as exc:
            raise DataError(
                f"--split-list {name}={path} cannot be read ({exc}); expected a name on each line."
            ) from exc
        named = {line.strip() for line in text.splitlines() if line.strip()}
        rows = [row for row, file in enumerate(files) if file in named or last[row] in named]
        if not rows:
            raise DataError(
                f"--split-list {name}={path} names no file of the table, '{min(named, default='')}' for one; expected "
                f"names as in the table, '{files[0]}' for one."
            )
        listed[rows] = SPLITS.index(name)
    return listed


def say_patient_columns(found: Found, options: DatasetOptions) -> list[str]:
    """Say which columns look like the patients' while none is named."""
    named = {found.file_column, options.label_column, *options.label_columns, options.domain_column}
    likely = [
        name
        for name in patient_columns(list(found.columns))
        if name not in named and max(Counter(filter(None, found.columns[name])).values(), default=1) > 1
    ]
    return [
        f"column '{name}' repeats: if these are patients, keep each in one split with --group-column '{name}'"
        for name in likely[:1]
    ]


# ── Labels ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Named:
    """Labels of a table's rows, and what is to be kept of how they were read."""

    task: Task
    label_columns: tuple[str, ...]
    classes: Classes
    notes: tuple[str, ...] = ()


def read_labels(columns: Columns, options: DatasetOptions, classes: Sequence[str] | None, what: str) -> Named:
    """Read the labels of a table in the one of its forms that the options say.

    Raises
    ------
    DataError
        Columns are missing, options contradict each other, or cells mean nothing.
    """
    count = len(next(iter(columns.values())))
    column = options.label_column or _LABEL
    if options.unlabelled:
        return Named("multiclass", (column,), Classes(no_labels(count), options.exclude_classes, {}))
    several = _label_columns(columns, options, classes)
    require(columns, several or [column], what, "the labels (--label-column, --label-columns)")
    _check_forms(options, bool(several))
    if options.label_separator is not None:
        read = split_labels(columns[column], options.label_separator, options, classes, what)
        excluded = (*options.exclude_classes, *_rare_labels(read.bits, read.names, options, classes))
        labels = label_bits(
            read.names, read.bits, exclude=excluded, classes=classes, what=what, known=options.known_classes
        )
        made = Classes(labels, excluded, dict(options.rename_classes))
        return Named("multilabel", (column,), made)
    if not several:
        made = read_classes(columns[column], options, classes, what, first_row=FIRST_ROW)
        return Named("multiclass", (column,), made)
    read = read_bits(columns, several, options, what, FIRST_ROW)
    if options.one_hot:
        values = one_of(read, what, FIRST_ROW)
        without = [name for name in several if name not in set(values)]
        made = read_classes(values, options, classes, what, first_row=FIRST_ROW)
        notes = (f"no image is of {quoted(without)}: no classes",) if without else ()
        return Named("multiclass", tuple(several), made, notes)
    excluded = (*options.exclude_classes, *_rare_labels(read.bits, read.names, options, classes))
    labels = label_bits(
        read.names, read.bits, exclude=excluded, classes=classes, what=what, known=options.known_classes
    )
    return Named("multilabel", tuple(several), Classes(labels, excluded, {}), read.notes)


def _rare_labels(
    bits: npt.NDArray[np.uint8], names: Sequence[str], options: DatasetOptions, classes: Sequence[str] | None
) -> list[str]:
    if options.min_class_images is None or classes is not None:
        return []
    counts = (bits == 1).sum(0).tolist()
    return [
        name
        for name, count in zip(names, counts, strict=True)
        if count < options.min_class_images and name not in options.exclude_classes
    ]


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


def _check_forms(options: DatasetOptions, several: bool) -> None:
    """Refuse options of labels that would go unheard."""
    asked = {
        "--one-hot": options.one_hot,
        "--blank": options.blank is not None,
        "--uncertain": options.uncertain is not None,
    }
    unheard = [option for option, given in asked.items() if given]
    if unheard and not several:
        raise DataError(
            f"{', '.join(unheard)} is about columns of 0 and 1, and none are named; expected --label-columns NAME,NAME…"
        )
    if several and options.label_separator is not None:
        raise DataError(
            "--label-separator and --label-columns were both given; expected one: a column whose cells have several "
            "labels, or several columns of 0 and 1."
        )
    if options.other_class is not None and (options.label_separator is not None or (several and not options.one_hot)):
        raise DataError(
            "--other puts classes together, and images with several labels have none; leave --other out: "
            "--min-class-images leaves rare labels out."
        )
