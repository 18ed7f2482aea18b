"""Which column of a table says what, and what its cells mean."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .....cache.errors import DataError
from .....cache.text import quoted
from ...columns.dataset import DatasetOptions
from ...columns.patients import NO_GROUP, patient_columns
from ...columns.splits import check_split_names
from ...pixels.file_kinds import IMAGES, kind_of_name
from .lookup import Lookup
from .splits import NO_SPLIT, are_splits, listed_splits, read_splits, say_unread_splits
from .text import Columns, Table, find_column, read_table, require

__all__ = ["FILE", "Roles", "find_roles", "say_patient_columns"]

FILE = "file"
_FRAME, _GROUP, _DOMAIN, _SPLIT, _LABEL = "frame", "group", "domain", "split", "label"
USUAL = f"'{FILE}' and '{_LABEL}'"
_LISTED = 8


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The columns of a table by what they are for, (N,) each; None where there is none.

    Attributes
    ----------
    starts : of each file, the folder that its cell starts from, as a path from the first table's; None = all from there
    split : (N,) int8 index into `SPLITS`, -1 = to be drawn
    notes : what was guessed, in words
    """

    table: Table
    file_column: str
    files: Sequence[str]
    starts: Sequence[str] | None
    frames: Sequence[str] | None
    split: npt.NDArray[np.int8] | None
    domains: Sequence[str] | None
    groups: Sequence[str] | None
    group_column: str
    notes: tuple[str, ...] = ()

    def beside(self, rows: npt.NDArray[np.int64]) -> list[Hashable]:
        """Return the split, domain and group cells of some rows."""
        said = [column for column in (self.domains, self.groups) if column is not None]
        if self.split is not None:
            said.append(self.split.tolist())
        return [tuple(column[row] for column in said) for row in rows.tolist()]


def find_roles(path: Path, options: DatasetOptions, lookup: Lookup, what: str, *, fresh: bool) -> Roles:
    """Read a table, and those of val and test that go with it, and find its columns.

    Parameters
    ----------
    fresh : no cache beside it says how it was read

    Raises
    ------
    DataError
        A table cannot be read, a column is not there, or one looks as if it said more than it was asked.
    """
    table, part, starts, said = _read_tables(path, options, what)
    columns = table.columns
    file_column, guessed = _file_column(columns, options, lookup, what)
    files = columns[file_column]
    empty = [number for number, file in zip(table.numbers, files, strict=True) if not file]
    if empty:
        raise DataError(
            f"{what} names no file in row {empty[0]}; expected a path relative to the table in '{file_column}'."
        )
    split, of_lists = _find_splits(table, files, part, options, what, fresh=fresh)
    group_column, groups = _find_groups(columns, options, what, fresh=fresh)
    domain_column = _optional(columns, options.domain_column, _DOMAIN, "--domain-column", what)
    frame_column = find_column(columns, _FRAME)
    unread = []
    if fresh and split is None and options.split_column is None and not options.unlabelled:
        told = {file_column, group_column, domain_column, options.label_column or find_column(columns, _LABEL)}
        unread = say_unread_splits(columns, [*options.label_columns, *(name for name in told if name)])
    return Roles(
        table=table,
        file_column=file_column,
        files=files,
        starts=_own_starts(files, starts, lookup),
        frames=columns[frame_column] if frame_column else None,
        split=split,
        domains=columns[domain_column] if domain_column else None,
        groups=groups,
        group_column=group_column or _GROUP,
        notes=(*said, *guessed, *of_lists, *unread),
    )


def _own_starts(files: Sequence[str], starts: Sequence[str] | None, lookup: Lookup) -> list[str] | None:
    """Return where each cell starts from: its own table's folder if that has one of its files, else the first's."""
    if starts is None:
        return None
    own = {""}
    for file, start in zip(files, starts, strict=True):
        if start not in own and lookup.is_beside(f"{start}/{file}"):
            own.add(start)
    return [start if start in own else "" for start in starts]


def _find_splits(
    table: Table,
    files: Sequence[str],
    part: npt.NDArray[np.int8] | None,
    options: DatasetOptions,
    what: str,
    *,
    fresh: bool,
) -> tuple[npt.NDArray[np.int8] | None, list[str]]:
    """Return the split of each row, and what to say of it."""
    columns = table.columns
    asked = options.split_column if options.split_column != NO_SPLIT or NO_SPLIT in columns else None
    if options.split_column is not None and asked is None:
        return listed_splits(files, part, options)
    column = _optional(columns, asked, _SPLIT, "--split-column", what)
    names = dict(options.split_names)
    if not fresh and asked is None and column != _SPLIT and not are_splits(columns.get(column or "", ()), names):
        column = None  # caches from before this name counted read such a table without it
    if part is not None and column is not None:
        raise DataError(
            f"{what} has a column of splits, and --val-table or --test-table says which rows are of which; expected "
            "one of them: leave these options out, or take the column out."
        )
    values = columns[column] if column else None
    if fresh:
        check_split_names(names, values or (), what)
    split = read_splits(values, table.numbers, names, what) if part is None else part
    return listed_splits(files, split, options)


def _find_groups(
    columns: Columns, options: DatasetOptions, what: str, *, fresh: bool
) -> tuple[str | None, Sequence[str] | None]:
    """Return the column of patients and its cells, None where there is none or it is not to be heeded."""
    if options.group_column == NO_GROUP and NO_GROUP not in columns:
        return None, None
    if not fresh and options.group_column is None and _GROUP not in columns:
        return None, None  # caches from before this name counted read such a table without it
    column = _optional(columns, options.group_column, _GROUP, "--group-column", what)
    if column is None or (options.group_pattern is not None and options.group_column is None):
        return column, None
    return column, columns[column]


def _read_tables(
    path: Path, options: DatasetOptions, what: str
) -> tuple[Table, npt.NDArray[np.int8] | None, list[str] | None, list[str]]:
    """Return the rows of all tables one after the other; of each the split if tables say it, and where it starts.

    Columns that a table lacks are left out with a word, or refused where they are of patients or domains.
    """
    first = read_table(path, what, USUAL)
    columns, numbers = first
    others = [(split, Path(table)) for split, table in ((1, options.val_table), (2, options.test_table)) if table]
    if not others:
        return first, None, None, []
    part, starts, said = [0] * len(numbers), [""] * len(numbers), []
    needed = _needed(columns, options)
    for split, other in others:
        more, its_numbers = read_table(other, f"table '{other}'", USUAL)
        shared = [name for name in columns if name in more]
        if not shared:
            raise DataError(
                f"The table '{other}' has no column of {what}; expected the same columns, "
                f"{quoted(list(columns), _LISTED)}."
            )
        lacking = [name for name in columns if name not in more]
        missing = [name for name in lacking if name in needed]
        if missing:
            raise DataError(
                f"The table '{other}' has no column {quoted(missing)}, which is read of {what}; its columns are "
                f"{quoted(list(more))}: expected the same in all tables."
            )
        if lacking:
            said.append(f"table '{other}' has no column {quoted(lacking, _LISTED)}, which is read of no row")
        start = os.path.relpath(other.parent, path.parent)
        columns = {name: [*columns[name], *more[name]] for name in shared}
        numbers = [*numbers, *(f"{number} of '{other}'" for number in its_numbers)]
        part += [split] * len(its_numbers)
        starts += ["" if start == "." else start] * len(its_numbers)
    return Table(columns, numbers), np.array(part, np.int8), starts if any(starts) else None, said


def _needed(columns: Columns, options: DatasetOptions) -> set[str | None]:
    """Return the columns without which rows would lose their label, patient, domain or frame."""
    group = None if options.group_pattern is not None else options.group_column or find_column(columns, _GROUP)
    labels = options.label_columns or [options.label_column or find_column(columns, _LABEL)]
    domain = options.domain_column or find_column(columns, _DOMAIN)
    return {group, domain, find_column(columns, _FRAME), *([] if options.unlabelled else labels)}


def _file_column(columns: Columns, options: DatasetOptions, lookup: Lookup, what: str) -> tuple[str, tuple[str, ...]]:
    """Return the column of files, and a note if it was guessed."""
    if options.file_column is not None:
        require(columns, [options.file_column], what, "--file-column")
        return options.file_column, ()
    usual = find_column(columns, FILE)
    if usual is not None:
        return usual, ()
    fitting = [name for name, cells in columns.items() if lookup.fits(cells)]
    if len(fitting) == 1:
        if kind_of_name(fitting[0]) in IMAGES:
            raise DataError(
                f"{what} has '{fitting[0]}' in its first row, which names a file, and no header; expected a row with "
                f"the names of its columns, such as {USUAL}, before all others."
            )
        return fitting[0], (f"column '{fitting[0]}' names the files: it is the only one whose cells are files",)
    which = f"; {quoted(fitting)} could be" if fitting else ""
    hint = (
        "" if options.image_folders else ", and the folder that they lie under with --images, if not beside the table"
    )
    raise DataError(
        f"{what} has no column '{FILE}' for the images' paths{which}; its columns are {quoted(list(columns))}: name "
        f"the one of files with --file-column{hint}."
    )


def _optional(columns: Columns, asked: str | None, usual: str, option: str, what: str) -> str | None:
    if asked is not None:
        require(columns, [asked], what, option)
    return asked or find_column(columns, usual)


def say_patient_columns(found: Roles, options: DatasetOptions) -> list[str]:
    """Say which columns look like the patients' while none is named."""
    named = {found.file_column, options.label_column, *options.label_columns, options.domain_column}
    likely = [
        name
        for name in patient_columns(list(found.table.columns))
        if name not in named and max(Counter(filter(None, found.table.columns[name])).values(), default=1) > 1
    ]
    return [
        f"column '{name}' repeats: if these are patients, keep each in one split with --group-column '{name}'"
        for name in likely[:1]
    ]
