"""Who is who: patients from paths, and signs that images share one that nobody has named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import plural
from .labels import quoted

__all__ = ["NO_GROUP", "check_groups", "group_by_pattern", "number_groups", "say_shared_stems"]

NO_GROUP = "none"  # what --group-column is given to go without
_SPLITS = 3
_LISTED = 6
# A number at the end of a name counts the images of what stands before it.
_COUNTER = re.compile(r"(?P<stem>[^\d]*\d.*?)[ _.-]+\(?\d+\)?(\.[^.\d][^.]*)?$", re.DOTALL)
# A fifth of the images: fewer may be chance.
_SHARE = 5
_PATIENT = re.compile(r"patient|subject|lesion|participant|(^|[^a-z])(pid|mrn|case)([^a-z]|$)", re.IGNORECASE)

Group = npt.NDArray[np.int64]


def number_groups(values: Sequence[str]) -> Group:
    """Return a number for each value, (N,) int64, -1 for an empty one."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(value, len(number)) if value else -1 for value in values], np.int64)


def group_by_pattern(names: Sequence[str], pattern: str, what: str) -> tuple[list[str], str]:
    """Return the patient of each path by a regular expression, empty where it does not match, and what to say of them.

    The patient is what the pattern's group ``group`` matches, else its first group, else all of it.

    Raises
    ------
    DataError
        It matches no path.
    """
    compiled = re.compile(pattern)
    found = []
    for name in names:
        match = compiled.search(name)
        if match is None:
            found.append("")
        elif "group" in compiled.groupindex:
            found.append(match["group"] or "")
        else:
            found.append((match[1] if compiled.groups else match[0]) or "")
    groups = len({value for value in found if value})
    if not groups:
        raise DataError(
            f"{what} has no path that --group-pattern '{pattern}' matches, '{names[0]}' for one; expected a regular "
            "expression whose first group is the patient."
        )
    said = f"--group-pattern finds {groups} patients among {len(names)} images"
    without = sum(not value for value in found)
    return found, said + (f", and none in {without} of their paths" if without else "")


def check_groups(values: Sequence[str], column: str, what: str, drawn: bool) -> None:
    """Refuse a column of too few values to be of patients who stay in one split each.

    Raises
    ------
    DataError
    """
    found = sorted({value for value in values if value})
    if drawn and 0 < len(found) < _SPLITS:
        raise DataError(
            f"{what} has {len(found)} {plural(len(found), 'value')} in column '{column}', {quoted(found)}, which "
            f"cannot fill three splits; expected a column of patients, each of whom stays in one split: name it with "
            f"--group-column, or go without with --group-column {NO_GROUP}."
        )


def say_shared_stems(names: Sequence[str]) -> str | None:
    """Say that names look as if several images were of one patient, if they do."""
    stems: Counter[str] = Counter()
    example: dict[str, str] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        match = _COUNTER.match(file)
        if match is not None:
            stem = f"{folder}/{match['stem']}"
            stems[stem] += 1
            example.setdefault(stem, file)
    shared = {stem: count for stem, count in stems.items() if count > 1}
    if len(shared) < 2 or _SHARE * sum(shared.values()) < len(names):
        return None
    first = min(shared)
    return (
        f"{sum(shared.values())} images share a stem with others ({len(shared)} stems, '{example[first]}' is one of "
        f"{shared[first]}): if these are patients, keep each in one split with --group-pattern, for instance "
        r"--group-pattern '([^/]+)[ _.-]+\d+\.\w+$'"
    )


def patient_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns of a table whose names speak of patients."""
    return [name for name in columns if _PATIENT.search(name)]
