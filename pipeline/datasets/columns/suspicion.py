"""Classes that look as if they were none: read as they stand, everything learned from them would be wrong."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from ....cache.errors import DataError
from ....cache.text import plural
from .dataset import class_order
from .labels import quoted

__all__ = ["check_classes", "is_missing"]

ACCEPT = "--accept-classes"  # what takes classes as they are
# More than any public set that people sort by hand into classes; a column of identifiers or ages has more.
MOST_CLASSES = 50
_MOST_GRADES = 10
_LISTED = 8
# What pandas, R, spreadsheets and people write for "no label". In this case alone: a grade may well be called "none".
_MISSING = frozenset(
    {
        "NA",
        "N/A",
        "n/a",
        "#N/A",
        "<NA>",
        "N.A.",
        "n.a.",
        "NULL",
        "Null",
        "null",
        "None",
        "NIL",
        "NaT",
        "-1",
        "-1.0",
        "?",
        "??",
        "-",
        "--",
        ".",
    }
)
_SEPARATORS = "|;,+&/"

Counts = Mapping[str, int]


def is_missing(name: str) -> bool:
    """Tell whether a cell is spelled as programs and people spell "no label"."""
    return name in _MISSING or name.lower() == "nan"


def check_classes(counts: Counts, what: str, *, column: bool, first_row: Callable[[str], int] | None = None) -> None:
    """Refuse classes that are most likely none, with what was seen and the option that settles it.

    Parameters
    ----------
    counts : how many rows each class has
    column : they are cells of a table, not names of folders
    first_row : of a class, for the message

    Raises
    ------
    DataError
    """
    if column:
        _check_missing(counts, what, first_row)
        _check_separators(counts, what)
    _check_alike(counts, what)
    _check_many(counts, what, column)


def _check_missing(counts: Counts, what: str, first_row: Callable[[str], int] | None) -> None:
    missing = [name for name in counts if is_missing(name)]
    if not missing:
        return
    total = sum(counts[name] for name in missing)
    row = f", row {min(map(first_row, missing))} for one" if first_row else ""
    flags = " ".join(f"--unknown-label {_word(name)}" for name in missing)
    raise DataError(
        f"{what} has {_listed(missing, counts)} for a class in {total} {plural(total, 'row')}{row}; expected a class, "
        f"or an empty cell = unknown: {flags} reads {plural(len(missing), 'it', 'them')} as unknown, "
        f"{ACCEPT} as {plural(len(missing), 'a class', 'classes')}."
    )


def _check_separators(counts: Counts, what: str) -> None:
    lists = [name for name in counts if "[" in name or "]" in name or "{" in name]
    if lists:
        raise DataError(
            f"{what} has {_listed(lists, counts)} for a class, which looks like a list of labels; "
            f"--label-separator ',' reads lists as several labels an image, {ACCEPT} takes them as classes."
        )
    for separator in _SEPARATORS:
        joined = [name for name in counts if separator in name]
        if joined and (separator in "|;" or _is_list(joined, counts, separator)):
            raise DataError(
                f"{what} has {_listed(joined, counts)} for a class, which looks like several labels; "
                f"--label-separator {_word(separator)} reads several labels an image, {ACCEPT} takes them as classes."
            )


def _is_list(joined: Sequence[str], counts: Counts, separator: str) -> bool:
    """Tell whether parts of some names are classes themselves, or are parts of several."""
    parts = [part.strip() for name in joined for part in {*name.split(separator)}]
    return any(part in counts for part in parts) or len(set(parts)) < len(parts)


def _check_alike(counts: Counts, what: str) -> None:
    alike: dict[str, list[str]] = {}
    for name in counts:
        alike.setdefault(_plain(name), []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    if not groups:
        return
    flags = []
    for names in groups:
        kept = min(names, key=lambda name: (_is_number(name) and len(name), -counts[name], name))
        flags += [f"--rename-class {_word(f'{name}={kept}')}" for name in names if name != kept]
    seen = "; ".join(_listed(names, counts) for names in groups[:_LISTED])
    raise DataError(
        f"{what} has classes that differ only in case, spaces or the spelling of a number: {seen}; "
        f"{' '.join(flags)} makes one of them, {ACCEPT} takes them as they stand."
    )


def _plain(name: str) -> str:
    """Return what is left of a name when case, spaces and the spelling of a number do not count."""
    if _is_number(name):
        return repr(float(name))
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_-]+", " ", folded).strip()


def _is_number(name: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d*)?", name) is not None


def _check_many(counts: Counts, what: str, column: bool) -> None:
    names = class_order(list(counts))
    numbers = sorted(float(name) for name in counts) if all(map(_is_number, counts)) else []
    grades = numbers and numbers[0] in (0, 1) and numbers == [numbers[0] + step for step in range(len(numbers))]
    measured = len(numbers) > _MOST_GRADES and not grades
    if not measured and len(names) <= MOST_CLASSES:
        return
    looks = "which look like a measurement" if measured else f"more than {MOST_CLASSES}"
    remedy = (
        "name the column of classes with --label-column"
        if column
        else "if these are patients or series, the classes lie deeper or elsewhere (--class-level K)"
    )
    raise DataError(
        f"{what} has {len(names)} classes, {looks}: {quoted(names, _LISTED)}; {remedy}, leave rare ones out with "
        f"--min-class-images N, or take them as they stand with {ACCEPT}."
    )


def _listed(names: Sequence[str], counts: Counts) -> str:
    shown = ", ".join(f"'{name}' ({counts[name]})" for name in names[:_LISTED])
    return shown + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _word(text: str) -> str:
    return shlex.quote(text)
