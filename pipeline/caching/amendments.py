"""Changes that a reprobe makes to cached rows: corrected labels, and images, classes or domains left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import DataError
from ...cache.join import find_keys, image_members
from ...cache.keys import KEY_BYTES
from ...cache.text import plural, quoted
from ..datasets.columns.bits import BITS
from ..datasets.columns.dataset import UNKNOWN_CLASS, Dataset
from ..datasets.columns.labels import label_bits, label_classes
from ..datasets.kinds.tables.text import read_table

__all__ = ["Amended", "amend", "read_keys"]

_KEY, _LABEL = "key", "label"
_NO_KEYS = np.empty((0, KEY_BYTES), np.uint8)


@dataclass(frozen=True, kw_only=True)
class Amended:
    """Rows after the changes.

    Attributes
    ----------
    dataset : what is left, labels corrected
    rows : (M,) int64 rows of the cached dataset that are left
    excluded : (K, 16) uint8 content keys of images that are to leave
    counts : ``relabelled`` rows, and rows left out by ``class``, ``domain`` and ``key``
    warnings : sentences on named items that do not exist, or that have no rows left
    """

    dataset: Dataset
    rows: npt.NDArray[np.int64]
    excluded: npt.NDArray[np.uint8]
    counts: Mapping[str, int]
    warnings: tuple[str, ...]


def amend(
    dataset: Dataset,
    key: npt.NDArray[np.uint8],
    *,
    skipped: npt.NDArray[np.uint8] = _NO_KEYS,
    exclude_classes: Sequence[str] = (),
    exclude_domains: Sequence[str] = (),
    exclude_keys: Path | None = None,
    labels: Path | None = None,
) -> Amended:
    """Correct labels, then leave out images, domains and classes.

    Parameters
    ----------
    key : (N, 16) uint8
    skipped : (S, 16) uint8, of images that the cache was made without and names all the same
    exclude_keys : a file of content keys in hexadecimal, one a line
    labels : a table with the column ``key`` and ``label``, or a column for each label that is to be corrected; an
        empty cell makes the label unknown

    Raises
    ------
    DataError
        A file cannot be read or names no image that is there, or a class or domain is not there.
    """
    what, warnings = f"cache '{dataset.name}'", []
    label = dataset.label
    if labels is not None:
        label, told = _correct(dataset, key, labels)
        warnings += told
    relabelled = int((label != dataset.label).reshape(len(label), -1).any(1).sum())
    left = np.ones(len(key), np.bool_)
    by_key = by_domain = np.zeros(len(key), np.bool_)
    excluded = _NO_KEYS if exclude_keys is None else read_keys(exclude_keys)
    if exclude_keys is not None:
        found, told = _find(np.concatenate([key, skipped]), excluded, f"'{exclude_keys}'")
        by_key = found[: len(key)]
        warnings += told
    if exclude_domains:
        by_domain = _in_domains(dataset, exclude_domains)
    left = ~by_key & ~by_domain
    rows = np.flatnonzero(left)
    labelled = label_classes if dataset.task == "multiclass" else label_bits
    code: Any = label[rows].astype(np.int64) if dataset.task == "multiclass" else label[rows]
    kept = labelled(dataset.classes, code, exclude=exclude_classes, classes=None, what=what)
    gone = [name for name in dataset.classes if name not in kept.classes and name not in exclude_classes]
    if gone:
        warnings.append(f"no image of the {plural(len(gone), 'class')} {quoted(gone)} is left: not a class any more")
    counts = {
        "relabelled": relabelled,
        "class": len(rows) - len(kept.rows),
        "domain": int((by_domain & ~by_key).sum()),
        "key": int(by_key.sum()),
    }
    rows = rows[kept.rows]
    domains, domain = _domains_left(dataset, rows)
    amended = replace(
        dataset.take(rows),
        classes=kept.classes,
        label=kept.label.astype(dataset.label.dtype),
        domain=domain,
        domains=domains,
        excluded=(*dataset.excluded, *exclude_classes),
        label_columns=_columns_left(dataset, kept.classes),
    )
    return Amended(dataset=amended, rows=rows, excluded=excluded, counts=counts, warnings=tuple(warnings))


def read_keys(path: Path) -> npt.NDArray[np.uint8]:
    """Read content keys, (M, 16) uint8, from a file with one in hexadecimal on each line.

    Raises
    ------
    DataError
        The file cannot be read, or a line is no key.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(
            f"The list of keys '{path}' cannot be read: {error.strerror}; give the path of a text file."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"The list of keys '{path}' is not a text file; expected a key in hexadecimal on each line."
        ) from error
    named = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    return _parse_keys([text for _, text in named], [number for number, _ in named], f"'{path}'", "line")


def _parse_keys(texts: Sequence[str], numbers: Sequence[int | str], what: str, place: str) -> npt.NDArray[np.uint8]:
    keys = []
    for text, number in zip(texts, numbers, strict=True):
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise DataError(
                f"{what} has '{text[:40]}' in {place} {number}; expected a content key, {2 * KEY_BYTES} hexadecimal "
                "digits, as predictions.csv has them."
            )
        keys.append(key)
    if not keys:
        raise DataError(f"{what} has no key; expected one or more, or leave the option out.")
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


def _find(
    key: npt.NDArray[np.uint8], named: npt.NDArray[np.uint8], what: str
) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Return which rows have a named key, (N,) bool, and a warning of keys that no row has."""
    lacking = int((~image_members(named, key)).sum())
    if lacking == len(named):
        raise DataError(
            f"None of the {len(named)} keys that {what} names is in the cache; nothing was made. Was it made from "
            "other images?"
        )
    told = [f"{lacking} of the {len(named)} keys that {what} names are not in the cache"] if lacking else []
    return image_members(key, named), told


def _correct(dataset: Dataset, key: npt.NDArray[np.uint8], path: Path) -> tuple[npt.NDArray[Any], list[str]]:
    """Return the labels as a table corrects them, all copies of an image alike, and warnings."""
    what = f"table '{path}'"
    usual = f"'{_KEY}' and '{_LABEL}'" if dataset.task == "multiclass" else f"'{_KEY}' and those of labels"
    columns, numbers = read_table(path, what, usual)
    wanted = [_LABEL] if dataset.task == "multiclass" else [name for name in dataset.classes if name in columns]
    if _KEY not in columns or not wanted or wanted[0] not in columns:
        raise DataError(f"{what} has the columns {quoted(list(columns))}; expected {usual}.")
    named = _parse_keys(columns[_KEY], numbers, what, "row")
    if dataset.task == "multiclass":
        known = {name: index for index, name in enumerate(dataset.classes)} | {"": UNKNOWN_CLASS}
        given = _look_up(
            columns[_LABEL], numbers, known, what, f"a class of the cache, {quoted(dataset.classes)}, or empty"
        )
    else:
        given = np.stack(
            [_look_up(columns[name], numbers, BITS, what, "0, 1 or empty = unknown") for name in wanted], 1
        )
    first = find_keys(named, named)
    contrary = np.flatnonzero((given[first] != given).reshape(len(given), -1).any(1))
    if len(contrary):
        one = int(contrary[0])
        raise DataError(
            f"{what} gives the image of row {numbers[first[one]]} another label in row {numbers[one]}; expected one."
        )
    found, told = _find(key, named, what)
    place = find_keys(key, named)[found]
    label = dataset.label.copy()
    if dataset.task == "multiclass":
        label[found] = given[place]
    else:
        column = np.array([dataset.classes.index(name) for name in wanted])
        label[np.flatnonzero(found)[:, None], column] = given[place]
    return label, told


def _look_up(
    cells: Sequence[str], numbers: Sequence[str], known: Mapping[str, int], what: str, expected: str
) -> npt.NDArray[np.int64]:
    for number, cell in zip(numbers, cells, strict=True):
        if cell not in known:
            raise DataError(f"{what} has the label '{cell}' in row {number}; expected {expected}.")
    return np.array([known[cell] for cell in cells], np.int64)


def _in_domains(dataset: Dataset, names: Sequence[str]) -> npt.NDArray[np.bool_]:
    strange = [name for name in names if name not in dataset.domains]
    if strange:
        there = f"its domains are {quoted(dataset.domains)}" if dataset.domains else "it has no domains"
        raise DataError(f"Cache '{dataset.name}' has no domain {quoted(strange)} to leave out; {there}.")
    return np.isin(dataset.domain, [dataset.domains.index(name) for name in names])


def _domains_left(dataset: Dataset, rows: npt.NDArray[np.int64]) -> tuple[tuple[str, ...], npt.NDArray[np.int16]]:
    """Return the domains without those that have lost all their rows, as a dataset without these rows has them."""
    before, after = np.unique(dataset.domain), np.unique(dataset.domain[rows])
    gone = np.setdiff1d(before, after)
    kept = [index for index in range(len(dataset.domains)) if index not in gone]
    number = np.full(len(dataset.domains) + 1, -1, np.int16)  # one place more, for -1
    number[kept] = np.arange(len(kept))
    return tuple(dataset.domains[index] for index in kept), number[dataset.domain[rows]]


def _columns_left(dataset: Dataset, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the table's label columns: of several labels, those that are left."""
    if dataset.task == "multiclass":
        return dataset.label_columns
    return tuple(name for name in dataset.label_columns if name in classes)
