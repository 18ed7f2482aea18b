"""Several labels an image, as tables write them: 0/1 columns, cells with several names, and one-hot columns."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import plural, quoted
from .dataset import UNKNOWN_BIT, DatasetOptions, class_order
from .suspicion import check_alike, check_separators, is_missing

__all__ = ["BITS", "Bits", "one_of", "read_bits", "say_nearly_one_hot", "split_labels"]

BITS = {"0": 0, "1": 1, "": UNKNOWN_BIT, "-1": UNKNOWN_BIT, "255": UNKNOWN_BIT}
_LISTED = 8
_LEAST_COLUMNS, _ODD = 3, 20  # of rows that are nearly one-hot, one in twenty is not
_ANSWERS: dict[str, int | str] = {"true": 1, "yes": 1, "false": 0, "no": 0, "nan": "blank"}
# What --blank and --uncertain can say of a cell.
CHOICES = {"0": 0, "1": 1, "unknown": UNKNOWN_BIT}

Columns = Mapping[str, Sequence[str]]


class Bits(NamedTuple):
    """Labels of 0 and 1, and what is to be said of them.

    Attributes
    ----------
    bits : (N, L) uint8, 255 unknown
    """

    names: tuple[str, ...]
    bits: npt.NDArray[np.uint8]
    notes: tuple[str, ...] = ()


def read_bits(
    columns: Columns, names: Sequence[str], options: DatasetOptions, what: str, numbers: Sequence[str], *, fresh: bool
) -> Bits:
    """Read columns of 0 and 1, or of yes and no, or of true and false.

    A blank cell is unknown unless the options say otherwise. Where 1 is written 1.0 a program wrote the table, and what
    its blanks mean differs from set to set, as what -1 means does everywhere: that has to be said.

    Parameters
    ----------
    numbers : of each row in the table, for messages
    fresh : no cache beside the table was made of it

    Raises
    ------
    DataError
        A cell means nothing, or what blanks or -1 mean has to be said.
    """
    codes = {"blank": CHOICES[options.blank or "unknown"], "uncertain": CHOICES[options.uncertain or "unknown"]}
    columns_of_bits = []
    blanks, doubts, floats, any_blank = [], [], False, False
    for name in names:
        cells = columns[name]
        kinds: dict[str, int | str] = {}
        for cell in set(cells):
            kinds[cell] = _kind(cell)
            if kinds[cell] == "wrong":
                raise DataError(
                    f"{what} has '{cell}' in column '{name}', row {numbers[list(cells).index(cell)]}; expected 0, 1, "
                    "or empty = unknown."
                )
        floats = floats or any("." in cell for cell in kinds)
        found = set(kinds.values())
        if "blank" in found:
            any_blank = True
            blanks += [name] if 0 not in found or 1 not in found else []
        if "uncertain" in found:
            doubts.append(name)
        # Both ends are held as numbers; the two words stand for what the options say.
        coded = {cell: kind if isinstance(kind, int) else codes[kind] for cell, kind in kinds.items()}
        columns_of_bits.append(np.array([coded[cell] for cell in cells], np.uint8))
    asked = []
    if fresh and options.blank is None and any_blank and (blanks or floats or doubts):
        which = f" ({quoted(blanks, _LISTED)} with blanks and no 0, or no 1)" if blanks else ""
        asked.append(f"blank cells{which}: --blank 0 or --blank unknown")
    if fresh and options.uncertain is None and doubts:
        asked.append(f"-1 in {quoted(doubts, _LISTED)}: --uncertain 0, 1 or unknown")
    if asked:
        raise DataError(f"{what} does not say what some cells mean, which differs from set to set; {'; '.join(asked)}.")
    bits = np.stack(columns_of_bits, 1)
    return Bits(tuple(names), bits, _notes(bits, names, options))


def _kind(cell: str) -> int | str:
    if cell in BITS:
        return {"": "blank", "-1": "uncertain"}.get(cell, BITS[cell])
    if cell.lower() in _ANSWERS:
        return _ANSWERS[cell.lower()]
    try:
        value = float(cell)
    except ValueError:
        return "wrong"
    return "uncertain" if value == -1 else int(value) if value in (0, 1) else "wrong"


def _notes(bits: npt.NDArray[np.uint8], names: Sequence[str], options: DatasetOptions) -> tuple[str, ...]:
    found = []
    unknown = int((bits == UNKNOWN_BIT).sum())
    if unknown and options.blank is None and options.uncertain is None:
        found.append(f"{unknown} of {bits.size} label cells are unknown; --blank 0 reads blank ones as 0")
    if len(names) > 1 and not options.one_hot and not ((bits == 1).sum(1) == 1).all():
        found += say_nearly_one_hot(bits)
    elif len(names) > 1 and len(bits) > 1 and not options.one_hot:
        found.append(
            f"every row has exactly one 1 among the {len(names)} label columns: with --one-hot they are classes, one "
            "an image, and not several labels"
        )
    return tuple(found)


def say_nearly_one_hot(bits: npt.NDArray[np.uint8]) -> list[str]:
    """Say that nearly all rows have exactly one 1, so that a few may be mistakes in classes."""
    known = bits[~(bits == UNKNOWN_BIT).all(1)]
    wrong = int(((known == 1).sum(1) != 1).sum())
    if not wrong or bits.shape[1] < _LEAST_COLUMNS or wrong * _ODD > len(known):
        return []
    return [
        f"all but {wrong} of {len(known)} rows of the labels have exactly one 1: they are {bits.shape[1]} labels, "
        "of which an image may have several; mend these rows if they are to be classes"
    ]


def one_of(read: Bits, what: str, numbers: Sequence[str]) -> list[str]:
    """Return the class of each row of one-hot columns, empty where all cells of a row are unknown.

    Raises
    ------
    DataError
        A row has no 1, or several.
    """
    ones = (read.bits == 1).sum(1)
    unknown = (read.bits == UNKNOWN_BIT).all(1)
    wrong = np.flatnonzero((ones != 1) & ~unknown)
    if len(wrong):
        raise DataError(
            f"{what} has {len(wrong)} {plural(len(wrong), 'row')} without exactly one 1 in the one-hot columns, row "
            f"{numbers[wrong[0]]} for one, with {int(ones[wrong[0]])}; leave --one-hot out if an image may have "
            "several labels or none, or take these rows out."
        )
    place = (read.bits == 1).argmax(1)
    return ["" if blank else read.names[index] for index, blank in zip(place.tolist(), unknown.tolist(), strict=True)]


def split_labels(
    values: list[str], separator: str, options: DatasetOptions, classes: Sequence[str] | None, what: str
) -> Bits:
    """Read cells that hold several labels each, as ``A|B`` or as a list ``['A', 'B']``; an empty cell is unknown.

    Raises
    ------
    DataError
        A label is not among `classes`, or no cell has any.
    """
    unknown = {"", *options.unknown_labels} if options.blank != "0" else set(options.unknown_labels)
    renamed = dict(options.rename_classes)
    written = {value: _parts(value, separator) for value in set(values)}
    there = {*written, *(part for several in written.values() for part in several)}
    strange = [name for name in (*renamed, *options.unknown_labels) if name not in there] if classes is None else []
    if strange:
        raise DataError(
            f"{what} has no label {quoted(strange)} for --rename-class or --unknown-label; its labels are "
            f"{quoted(class_order([part for several in written.values() for part in several]))}."
        )
    parts = {value: [renamed.get(part, part) for part in several] for value, several in written.items()}
    found = class_order([part for value, several in parts.items() if value not in unknown for part in several])
    names = tuple(classes) if classes is not None else found
    outside = [name for name in found if name not in names and name not in options.exclude_classes]
    if outside:
        raise DataError(f"{what} has the labels {quoted(outside)}; expected only {quoted(names)}, those of the cache.")
    if classes is None and not options.accept_classes:
        counts = Counter(part for value in values if value not in unknown for part in parts[value])
        _check_labels({name: counts[name] for name in found}, what)
    names = (*names, *(name for name in options.exclude_classes if name in found and name not in names))
    if not names:
        raise DataError(f"{what} has no label in any cell; expected names, parted by '{separator}'.")
    place = {name: index for index, name in enumerate(names)}
    coded: dict[str, npt.NDArray[np.uint8]] = {}
    for value, several in parts.items():
        row = np.full(len(names), UNKNOWN_BIT if value in unknown else 0, np.uint8)
        if value not in unknown:
            row[[place[part] for part in several]] = 1
        coded[value] = row
    blank = values.count("") if "" in unknown and options.blank is None else 0
    told = (
        f"{blank} {plural(blank, 'cell')} of labels {plural(blank, 'is', 'are')} empty: unknown; --blank 0 = no label"
    )
    return Bits(names, np.stack([coded[value] for value in values]), (told,) if blank else ())


def _check_labels(counts: Mapping[str, int], what: str) -> None:
    """Refuse labels that look as if they were none, or one in two spellings, or several."""
    missing = [name for name in counts if is_missing(name)]
    if missing:
        raise DataError(
            f"{what} has {quoted(missing)} among its labels; expected names: --unknown-label {missing[0]} reads a cell "
            "of it as unknown, --accept-classes as a label."
        )
    check_separators(counts, what)
    check_alike(counts, what)


def _parts(value: str, separator: str) -> list[str]:
    parts: Sequence[object] = value.split(separator)
    if value.startswith("[") and value.endswith("]"):
        try:
            parts = list(ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            parts = value[1:-1].split(separator)
    return [part for part in (str(part).strip().strip("'\"").strip() for part in parts) if part]
