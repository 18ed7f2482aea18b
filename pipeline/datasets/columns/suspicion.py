"""Classes that look as if they were none: read as they stand, everything learned from them would be wrong."""

from __future__ import annotations

import difflib
import re
import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from ....cache.errors import DataError
from ....cache.text import plural, quoted
from .dataset import class_order

__all__ = ["Source", "check_alike", "check_classes", "check_separators", "is_missing", "plain_name", "say_doubtful"]

ACCEPT = "--accept-classes"  # what takes classes as they are
# More than any public set that people sort by hand into classes; a column of identifiers or ages has more.
MOST_CLASSES = 50
_MOST_GRADES = 10
_LEAST_MEASURED = 3
_MOST_HALVES = 5  # as many as clinical dementia has: 0, 0.5, 1, 2, 3
_LISTED = 8
# Six letters of which two are exchanged are as close as that; a mistake is rarer than what is meant.
_LONG, _CLOSE, _RARE = 5, 0.83, 4
# What pandas, R, SPSS, spreadsheets and people write for "no label". "None" in this case alone: a grade may well be
# called "none".
_MISSING = frozenset(
    {"na", "n/a", "#n/a", "<na>", "n.a.", "null", "<null>", "#null!", "#value!", "#ref!", "#div/0!", "#num!", "#name?"}
    | {"nil", "nan", "nat", "?", "??", "???", "-", "--", "---", ".", "..", "missing", "not available", "unlabeled"}
    | {"unlabelled", "tbd", "todo", "not labeled", "not labelled", "no label", "undefined"}
)
_MISSING_AS_WRITTEN = frozenset({"None", "NONE"})
# Among grades, numbers that stand for none in SPSS and in arrays of eight bits.
_CODES = frozenset({-1, -2, -8, -9, -88, -98, -99, -999, -9999, 9, 88, 99, 255, 888, 999, 9999})
# What may well be a class of its own, and may well be none: said, not refused.
_DOUBTFUL = frozenset({"unknown", "unk", "other/unknown", "uncertain", "none", "not sure", "unspecified", "ungradable"})
_SEPARATORS = "|;,+&/"
# Between labels, if all that they part are classes themselves: names have them too.
_LOOSE = (" and ", *" -_.^#~:\\\t\n")
# The same answer in two spellings.
_ANSWERS = {"yes": "1", "true": "1", "no": "0", "false": "0"}
# Folders and columns of these are of who or where, not of what; with numbers behind.
_WHO = re.compile(
    r"(patients?|pat|pt|subjects?|subj?|cases?|persons?|id|pid|folds?|parts?|batch|images?|imgs?|chunk|folder|"
    r"dir|site|hospital|cent(?:er|re)|scans?|series|study|session|ses|visit|slides?|wsi|split|volumes?|vol)",
    re.IGNORECASE,
)
_WHAT = re.compile(r"(class|cls|category|cat|type|label|grade|stage|level|score|diagnosis|c|k)?", re.IGNORECASE)
_LEAST_WHO, _LEAST_CODES, _DIGITS = 3, 11, 3
_WITH_UNIT = re.compile(r"[<>~+-]?\d[\d.,:/ -]*(\D*)")

Counts = Mapping[str, int]
Where = Callable[[Sequence[str]], str]
Source = Literal["column", "folders", "arrays"]
_ELSEWHERE: dict[Source, str] = {
    "column": "name the column of classes with --label-column",
    "folders": "say which folder is the class with --class-level K, or take it from the path with --class-pattern",
    "arrays": "save an array of classes as labels",
}


def is_missing(name: str) -> bool:
    """Tell whether a cell is spelled as programs and people spell "no label"."""
    return name in _MISSING_AS_WRITTEN or name.lower() in _MISSING or (_is_number(name) and _number(name) == -1)


def say_doubtful(counts: Counts) -> list[str]:
    """Say of classes that their names may mean that none is known, or may be misspelled."""
    doubtful = [name for name in counts if name.lower() in _DOUBTFUL or is_missing(name)]
    if not doubtful:
        return _say_misspelled(counts)
    flags = " ".join(f"--unknown-label {_word(name)}" for name in doubtful)
    return [
        f"{_listed(doubtful, counts)} is read as a class of its own: {flags} reads it as unknown"
        if len(doubtful) == 1
        else f"{_listed(doubtful, counts)} are read as classes of their own: {flags} reads them as unknown",
        *_say_misspelled(counts),
    ]


def _say_misspelled(counts: Counts) -> list[str]:
    """Say of rare classes that they are called nearly as a frequent one: a letter is missing, or two are exchanged."""
    said = []
    words = [name for name in counts if len(name) >= _LONG and not re.search(r"\d", name)]
    for rare in words:
        often = [name for name in words if _RARE * counts[rare] < counts[name]]
        close = difflib.get_close_matches(rare, often, n=1, cutoff=_CLOSE)
        if close:
            said.append(
                f"class '{rare}' ({counts[rare]}) is called nearly as '{close[0]}' ({counts[close[0]]}): if it is "
                f"misspelled, --rename-class {_word(f'{rare}={close[0]}')} makes one of them"
            )
    return said


def check_classes(counts: Counts, what: str, source: Source, where: Where | None = None) -> None:
    """Refuse classes that are most likely none, with what was seen and the option that settles it.

    Parameters
    ----------
    counts : how many rows each class has
    source : what names the classes
    where : returns the number of the first row that has one of some classes, for the message

    Raises
    ------
    DataError
    """
    if source != "folders":
        _check_missing(counts, what, where)
        check_separators(counts, what)
    check_alike(counts, what)
    _check_numbered(counts, what, source)
    _check_many(counts, what, source)


def _check_missing(counts: Counts, what: str, where: Where | None) -> None:
    missing = [name for name in counts if is_missing(name)] + _codes(counts)
    if not missing:
        return
    total = sum(counts[name] for name in missing)
    row = f", row {where(missing)} for one" if where else ""
    flags = " ".join(f"--unknown-label {_word(name)}" for name in missing)
    raise DataError(
        f"{what} has {_listed(missing, counts)} for a class in {total} {plural(total, 'row')}{row}; expected a class, "
        f"or an empty cell = unknown: {flags} reads {plural(len(missing), 'it', 'them')} as unknown, "
        f"{ACCEPT} as {plural(len(missing), 'a class', 'classes')}."
    )


def _codes(counts: Counts) -> list[str]:
    """Return the numbers that stand apart from grades counted from 0 or 1, and are ones that mean "none"."""
    numbers = {name: _number(name) for name in counts if _is_number(name)}
    apart = [name for name, number in numbers.items() if number in _CODES and number != -1]
    grades = sorted(number for name, number in numbers.items() if name not in apart and number != -1)
    others = len(numbers) < len(counts)
    counted = len(grades) > 1 and grades[0] in (0, 1) and grades == [grades[0] + step for step in range(len(grades))]
    apart = [name for name in apart if not counted or numbers[name] != grades[-1] + 1]
    return apart if counted and not others else []


def check_separators(counts: Counts, what: str) -> None:
    """Refuse names that look like several labels each.

    Raises
    ------
    DataError
    """
    lists = [name for name in counts if "[" in name or "]" in name or "{" in name]
    if lists:
        raise DataError(
            f"{what} has {_listed(lists, counts)} for a class, which looks like a list of labels; "
            f"--label-separator ',' reads lists as several labels an image, {ACCEPT} takes them as classes."
        )
    for separator in (*_SEPARATORS, *_LOOSE):
        joined = [name for name in counts if separator in name and not _is_number(name)]
        if separator in _LOOSE:
            parts = {name: name.split(separator) for name in joined}
            joined = [name for name, several in parts.items() if all(part in counts for part in several)]
        if joined and (separator in ("|", ";", *_LOOSE) or _is_list(joined, counts, separator)):
            raise DataError(
                f"{what} has {_listed(joined, counts)} for a class, which looks like several labels; "
                f"--label-separator {_word(separator)} reads several labels an image, {ACCEPT} takes them as classes."
            )


def _is_list(joined: Sequence[str], counts: Counts, separator: str) -> bool:
    """Tell whether parts of some names are classes themselves, or are parts of several."""
    parts = [part.strip() for name in joined for part in {*name.split(separator)}]
    return any(part in counts for part in parts) or len(set(parts)) < len(parts)


def check_alike(counts: Counts, what: str) -> None:
    """Refuse names that are most likely two spellings of one.

    Raises
    ------
    DataError
    """
    alike: dict[str, list[str]] = {}
    for name in counts:
        plain = plain_name(name)
        alike.setdefault(repr(float(_ANSWERS[plain])) if plain in _ANSWERS else plain, []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    if not groups:
        return
    flags = []
    for names in groups:
        kept = min(names, key=lambda name: (_is_number(name) and len(name), -counts[name], name))
        flags += [f"--rename-class {_word(f'{name}={kept}')}" for name in names if name != kept]
    seen = "; ".join(_listed(names, counts) for names in groups[:_LISTED])
    raise DataError(
        f"{what} has classes that differ only in case, spaces or the spelling of a number or of yes and no: {seen}; "
        f"{' '.join(flags)} makes one of them, {ACCEPT} takes them as they stand."
    )


def plain_name(name: str) -> str:
    """Return what is left of a name when case, spaces and the spelling of a number do not count."""
    if _is_number(name):
        return repr(_number(name))
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_-]+", " ", folded).strip(" .,;:")


def _is_number(name: str) -> bool:
    return re.fullmatch(r"[+-]?\d+([.,]\d*)?([eE][+-]?\d+)?", name) is not None


def _number(name: str) -> float:
    return float(name.replace(",", "."))


def _check_numbered(counts: Counts, what: str, source: Source) -> None:
    """Refuse classes called patient1, patient2 … or fold1, fold2 …: who or where, not what."""
    parts = [re.fullmatch(r"(.*?)[ _-]*(\d+)", name) for name in counts]
    words = {"" if part is None else part[1].strip(" _-").lower() for part in parts}
    word = words.pop() if words else ""
    if words or not re.search(r"[^\W\d_]", word) or len(counts) < _LEAST_WHO or _WHAT.fullmatch(word):
        return
    coded = len(counts) >= _LEAST_CODES and all(part is not None and len(part[2]) >= _DIGITS for part in parts)
    if not coded and not _WHO.fullmatch(word):
        return
    names = class_order(list(counts))
    raise DataError(
        f"{what} has {len(names)} classes that are one word and a number, as patients and parts of a set are called: "
        f"{quoted(names, _LISTED)}; {_ELSEWHERE[source]}, or take them as they stand with {ACCEPT}."
    )


def _check_many(counts: Counts, what: str, source: Source) -> None:
    names = class_order(list(counts))
    numbers = sorted(map(_number, counts)) if all(map(_is_number, counts)) else []
    grades = numbers and numbers == [numbers[0] + step for step in range(len(numbers))] and numbers[0] < _MOST_GRADES
    fractions = any(number != int(number) for number in numbers)
    large = len(numbers) >= _LEAST_MEASURED and numbers[-1] >= _MOST_GRADES
    fine = fractions and len(numbers) > _MOST_HALVES
    measured = numbers and not grades and (len(numbers) > _MOST_GRADES or fine or large)
    # Ages and sizes with their unit, dates: figures first, and no more than one word beside them.
    units = {found[1].strip().lower() if (found := _WITH_UNIT.fullmatch(name)) else None for name in counts}
    many = _MOST_GRADES < len(names) <= MOST_CLASSES
    measured = measured or (many and not numbers and len(units) == 1 and None not in units)
    if not measured and len(names) <= MOST_CLASSES:
        return
    looks = "which look like a measurement" if measured else f"more than {MOST_CLASSES}"
    raise DataError(
        f"{what} has {len(names)} classes, {looks}: {quoted(names, _LISTED)}; {_ELSEWHERE[source]}, leave rare "
        f"ones out with --min-class-images N, or take them as they stand with {ACCEPT}."
    )


def _listed(names: Sequence[str], counts: Counts) -> str:
    shown = ", ".join(f"'{name}' ({counts[name]})" for name in names[:_LISTED])
    return shown + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _word(text: str) -> str:
    return shlex.quote(text)
