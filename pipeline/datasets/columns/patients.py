"""Who is who: patients from paths, and signs that images share one that nobody has named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from posixpath import splitext

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import plural, quoted
from .dataset import SPLITS
from .splits import find_split
from .suspicion import is_missing, plain_name

__all__ = [
    "NO_GROUP",
    "check_groups",
    "group_by_pattern",
    "number_groups",
    "patient_columns",
    "say_likely_patients",
    "without_missing",
]

NO_GROUP = "none"  # what --group-column is given to go without
_LISTED = 6
# A name starts with its patient. A number at its end counts the images of that patient; a word or a letter names one:
# 14-015704_1, P7-left, p12a.
_COUNTER = re.compile(r"(?P<stem>[^\d]*\d.*?)[ _.-]+\(?\d+\)?", re.DOTALL)
_WHICH = re.compile(r"(?P<stem>[^\d]*\d+)(?:[ _.-]+[A-Za-z]\w{0,9}|[A-Za-z])", re.DOTALL)
# What is made of X stands beside X as X_flip, X_crop2.
_MADE = re.compile(r"(?P<of>.+?)[ _.-]+[A-Za-z]\w*")
# A fifth of the images: fewer may be chance.
_SHARE = 5
_SAMPLE = 1000
_FOLDERS, _MOST_IN_FOLDER = 2, 200  # folders for each of a class in a split; more images in one are no patient's
_PATIENT = re.compile(
    r"patient|subject|lesion|participant|donor|specimen|(^|[^a-z])(pid|mrn|cases?|study|exam|slide|person|id)([^a-z]|$)",
    re.IGNORECASE,
)
_OTHER = re.compile("label|class|target|diagnos|categor|type|split|fold|site|scanner|device", re.IGNORECASE)

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
    if drawn and 0 < len(found) < len(SPLITS):
        raise DataError(
            f"{what} has {len(found)} {plural(len(found), 'value')} in column '{column}', {quoted(found)}, which "
            f"cannot fill three splits; expected a column of patients, each of whom stays in one split: name it with "
            f"--group-column, or go without with --group-column {NO_GROUP}."
        )


def without_missing(values: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return patients, empty where a cell only says that none is known, and what to say of how they are written."""
    missing = sorted(value for value in set(values) if is_missing(value))
    said = []
    if missing:
        count = sum(value in missing for value in values)
        said.append(f"{count} rows have {quoted(missing)} for a patient, which is read as none")
    kept = ["" if value in missing else value for value in values] if missing else list(values)
    alike: dict[str, list[str]] = {}
    for value in dict.fromkeys(kept):
        if value:
            alike.setdefault(plain_name(value), []).append(value)
    several = [names for names in alike.values() if len(names) > 1]
    if several:
        said.append(
            f"{len(several)} {plural(len(several), 'patient is', 'patients are')} written in several ways, "
            f"{quoted(several[0], 3)} for one, and {plural(len(several), 'counts', 'count')} as several: write each "
            "alike, or a patient comes into several splits"
        )
    return kept, said


def say_likely_patients(names: Sequence[str], split: Sequence[int] | None, places: int) -> list[str]:
    """Say that names or folders look as if several images were of one patient, if they do.

    Parameters
    ----------
    split : of each, where none is going to be drawn; it is said whether they stand in several
    places : number of folders that classes and splits explain
    """
    # Of a hundred thousand names, patterns take a third of the time of listing them: a sample says whether they fit.
    few = names[:: max(1, len(names) // _SAMPLE)]
    made = _say_made(names, few)
    said = [*made, *_say_other_suffixes(names)]
    if made and split is None:
        return said
    folders = [name.rpartition("/")[0] for name in names]
    nothing = [""] * len(names)
    stems = list(map(_stem_of, names)) if 2 * _SHARE * sum(map(bool, map(_stem_of, few))) >= len(few) else nothing
    for keys, what, pattern in (
        (stems, "stem", r"([^/]+)[ _.-]+\w+\.\w+$"),
        (folders if _are_many(folders, places) else nothing, "folder", "([^/]+)/[^/]+$"),
    ):
        sizes = Counter(filter(None, keys))
        shared = {key: count for key, count in sizes.items() if count > 1}
        if len(shared) < 2 or _SHARE * sum(shared.values()) < len(names):
            continue
        first = min(shared)
        if split is None:
            said.append(
                f"{sum(shared.values())} images share a {what} with others ({len(shared)} {what}s, "
                f"'{names[keys.index(first)]}' is one of {shared[first]}): if these are patients, keep each in one "
                f"split with --group-pattern, for instance --group-pattern '{pattern}'"
            )
            break
        of_key: dict[str, set[int]] = {}
        for key, part in zip(map(_without_splits, keys), split, strict=True):
            if key:
                of_key.setdefault(key, set()).add(part)
        torn = sorted(key for key, parts in of_key.items() if len(parts) > 1)
        if len(torn) > 1:
            said.append(
                f"images of {len(torn)} names with a {what} in common stand in several splits, '{torn[0]}' for one: if "
                "these are patients, val and test are not new to probe and student; --group-pattern says who they are"
            )
            break
    return said


def _stem_of(name: str) -> str:
    folder, _, file = name.rpartition("/")
    base, _, suffix = file.rpartition(".")
    bare = file if not base or suffix[:1].isdecimal() else base
    match = _COUNTER.fullmatch(bare) or _WHICH.fullmatch(bare)
    return "" if match is None else f"{folder}/{match['stem']}"


def _are_many(folders: Sequence[str], places: int) -> bool:
    count = len(set(folders))
    return count > _FOLDERS * places and len(folders) < _MOST_IN_FOLDER * count


def _without_splits(key: str) -> str:
    return "/".join(part for part in key.split("/") if find_split(part, {}) < 0)


def _say_other_suffixes(names: Sequence[str]) -> list[str]:
    """Say that images have the name of another but for the suffix."""
    bases = Counter(name.rpartition(".")[0] for name in dict.fromkeys(names))
    twice = [base for base, count in bases.items() if count > 1 and base]
    if not twice:
        return []
    return [
        f"{len(twice)} images are there with several suffixes, '{twice[0]}' for one: if these are one image in several "
        "formats, keep one of them, or it comes into several splits"
    ]


def _say_made(names: Sequence[str], few: Sequence[str]) -> list[str]:
    """Say that images are called as others are, with a word behind."""
    if 2 * _SHARE * sum(_MADE.fullmatch(splitext(name)[0]) is not None for name in few) < len(few):
        return []
    stems = {splitext(name)[0] for name in names}
    made = [name for name in names if (found := _MADE.fullmatch(splitext(name)[0])) and found["of"] in stems]
    if len(made) < 2 or _SHARE * len(made) < len(names):
        return []
    return [
        f"{len(made)} images are called as another is with a word behind it, '{made[0]}' for one: if they are made of "
        "it, they are no images of their own, or belong into its split (--group-pattern)"
    ]


def patient_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns of a table whose names speak of patients."""
    return [name for name in columns if _PATIENT.search(name) and not _OTHER.search(name)]
