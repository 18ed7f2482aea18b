"""What a table says of splits: in a column, or in lists of names beside it; or would say, if somebody asked it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .....cache.errors import DataError
from .....cache.text import plural, quoted
from ...columns.dataset import SPLITS, DatasetOptions
from ...columns.splits import SPLIT_NAMES, find_split, words_of_splits
from ...columns.suspicion import is_missing
from .lookup import Names
from .text import Columns, read_text

__all__ = ["NO_SPLIT", "are_splits", "listed_splits", "read_splits", "say_contrary", "say_unread_splits"]

NO_SPLIT = "none"  # what --split-column is given to have splits drawn

_LISTED = 8
_MOST_VALUES = 12  # of a column that says splits
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")

Split = npt.NDArray[np.int8]


def read_splits(
    values: Sequence[str] | None, numbers: Sequence[str], names: Mapping[str, str], what: str
) -> Split | None:
    """Return (N,) int8 index into `SPLITS`, -1 where none is said; None where none is said at all.

    Raises
    ------
    DataError
        A cell names no split.
    """
    if values is None:
        return None
    values = ["" if is_missing(value) and value not in names else value for value in values]
    if not any(values):
        return None
    known = {value: find_split(value, names) if value else -1 for value in set(values)}
    wrong = [row for row, value in enumerate(values) if value and known[value] < 0]
    if wrong:
        others = [name for name, split in known.items() if name and split < 0]
        flags = ",".join(f"{name}={split}" for name, split in zip(sorted(others), SPLITS, strict=False))
        raise DataError(
            f"{what} has the split '{values[wrong[0]]}' in row {numbers[wrong[0]]}; expected one of "
            f"{quoted(list(SPLIT_NAMES))}, or empty = to be drawn: say what names mean, as with --split-names {flags}, "
            f"or have splits drawn with --split-column {NO_SPLIT}."
        )
    return np.array([known[value] for value in values], np.int8)


def are_splits(values: Sequence[str], names: Mapping[str, str]) -> bool:
    """Tell whether all values are names of splits, or empty."""
    return all(not value or find_split(value, names) >= 0 for value in set(values))


def say_unread_splits(columns: Columns, read: Sequence[str]) -> list[str]:
    """Say of columns that nobody named that they look like splits, where splits are going to be drawn.

    Parameters
    ----------
    read : columns that say something else
    """
    said = []
    for name, cells in columns.items():
        if name in read:
            continue
        values = sorted({cell for cell in cells if cell})
        if len(values) > _MOST_VALUES:
            continue
        splits = {find_split(value, {}) for value in values}
        flags = f"--split-column '{name}'"
        if len(splits) < 2 or -1 in splits:
            words = words_of_splits(name)
            folded = {value.lower(): value for value in values}
            yes, no = (next((folded[word] for word in answers if word in folded), None) for answers in (_YES, _NO))
            if len(words) != 1 or len(values) != 2 or yes is None or no is None:
                continue
            other = "test" if words == {"train"} else "train"
            flags += f" --split-names {yes}={next(iter(words))},{no}={other}"
        said.append(
            f"column '{name}' looks like splits ({quoted(values, _LISTED)}) and is not read: {flags} reads it, "
            f"--split-column {NO_SPLIT} says that they are to be drawn all the same"
        )
    return said


def say_contrary(
    files: Sequence[str], split: Split | None, label: npt.NDArray[Any], classes: Sequence[str], options: DatasetOptions
) -> list[str]:
    """Say where a table and the folders of its files name different splits or different classes.

    Parameters
    ----------
    files : (N,) paths with slashes
    label : (N,) int class index, -1 unknown; of several labels nothing is said
    """
    of_file = [file.rpartition("/")[0] for file in files]
    parts = {folder: folder.split("/") for folder in dict.fromkeys(of_file)}
    splits = {folder: _only(find_split(part, {}) for part in names) for folder, names in parts.items()}
    said = []
    if len({found for found in splits.values() if found >= 0}) > 1:
        theirs = np.array([splits[folder] for folder in of_file], np.int8)
        if split is None and options.split_column is None and not options.unlabelled:
            said.append(
                f"files lie in folders called as splits, '{files[int((theirs >= 0).argmax())]}' for one, and the table "
                f"has no column of splits: write them into a column 'split', or they are drawn (--split-column "
                f"{NO_SPLIT})"
            )
        elif split is not None:
            apart = np.flatnonzero((theirs >= 0) & (split >= 0) & (theirs != split))
            if len(apart):
                said.append(
                    f"{len(apart)} of {len(files)} files are of another split than their folder is called, "
                    f"'{files[apart[0]]}' of {SPLITS[split[apart[0]]]} for one: the table is heeded"
                )
    number = {name: index for index, name in enumerate(classes)}
    named = {folder: _only(number.get(part, -1) for part in names) for folder, names in parts.items()}
    if label.ndim == 1 and set(named.values()) >= set(number.values()):
        theirs = np.array([named[folder] for folder in of_file], np.int64)
        apart = np.flatnonzero((theirs >= 0) & (label >= 0) & (theirs != label))
        # Folders may be numbered as classes are.
        if len(apart) and (2 * len(apart) < len(files) or not any(name.isdecimal() for name in classes)):
            said.append(
                f"{len(apart)} of {len(files)} files are of another class than their folder is called, "
                f"'{files[apart[0]]}' of '{classes[label[apart[0]]]}' for one: the table is heeded"
            )
    return said


def _only(found: Iterable[int]) -> int:
    """Return the only number from 0, or -1 where there is none or there are several."""
    numbers = {number for number in found if number >= 0}
    return numbers.pop() if len(numbers) == 1 else -1


def listed_splits(files: Sequence[str], split: Split | None, options: DatasetOptions) -> tuple[Split | None, list[str]]:
    """Put into a split what a list of names says is of it, and return what to say of these lists.

    What no list names keeps what it has. A name may be a path or the end of one, with or without the suffix.

    Raises
    ------
    DataError
        A list cannot be read or names nothing, a name fits files of several paths, or two lists name a file.
    """
    if not options.split_lists:
        return split, []
    listed = np.full(len(files), -1, np.int8) if split is None else split.copy()
    names = Names(files)
    said: list[str] = []
    of_list = np.full(len(files), -1, np.int64)
    for number, (name, path) in enumerate(options.split_lists):
        list_of = f"--split-list {name}={path}"
        wanted = _read_list(path, list_of)
        found = {line: names.find(line) for line in wanted}
        several = [line for line, cells in found.items() if len(cells) > 1]
        if several:
            raise DataError(
                f"{list_of} has '{several[0]}', which fits several files of the table, "
                f"{quoted(found[several[0]], 3)}; expected names that fit one each, with their folders."
            )
        missing = [line for line, cells in found.items() if not cells]
        if len(missing) == len(wanted):
            raise DataError(
                f"{list_of} names no file of the table, '{min(wanted, default='')}' for one; expected names as in the "
                f"table, '{files[0]}' for one."
            )
        if missing:
            said.append(
                f"{list_of}: {len(missing)} of {len(wanted)} names are of no row of the table, '{missing[0]}' for one"
            )
        meant = {cells[0] for cells in found.values() if cells}
        rows = np.array([file in meant for file in files])
        twice = np.flatnonzero(rows & (of_list >= 0))
        others = [row for row in twice.tolist() if options.split_lists[of_list[row]][0] != name]
        if others:
            raise DataError(
                f"{list_of} has {len(others)} {plural(len(others), 'file')} that another --split-list has for "
                f"{options.split_lists[of_list[others[0]]][0]}, '{files[others[0]]}' for one; expected each in one "
                "split: take them out of one of the lists."
            )
        of_list[rows] = number
        listed[rows] = SPLITS.index(name)
    return listed, said


def _read_list(path: str, list_of: str) -> list[str]:
    try:
        text = read_text(Path(path), f"file '{path}' of --split-list")
    except OSError as exc:
        raise DataError(f"{list_of} cannot be read ({exc}); expected a name on each line.") from exc
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
