"""Checks that only need keys, labels and groups: repeats, contrary labels, patients in several splits, absent
classes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from ..datasets.columns.dataset import SPLITS
from .findings import Advice, Finding, Severity, count_of
from .subject import Subject

__all__ = ["find_absent", "find_contrary", "find_repeats_across", "find_repeats_within", "find_torn_groups"]

Rows = npt.NDArray[np.int64]


def members(number: npt.NDArray[Any], of: Rows) -> Iterator[Rows]:
    """Yield the rows of each number that two or more of the rows `of` have."""
    order = of[np.argsort(number[of], kind="stable")]
    if not len(order):
        return
    for part in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        if len(part) > 1:
            yield part


def label_numbers(subject: Subject) -> npt.NDArray[np.int64]:
    """Number the different labels, (N,) int64, for any task."""
    return np.asarray(np.unique(subject.label, axis=0, return_inverse=True)[1].reshape(-1), np.int64)


def between(subject: Subject, sets: list[Rows]) -> dict[str, int]:
    """Count, for each two splits, the sets of rows that are in both: ``{"train-val": 8}``."""
    counts: dict[str, int] = {}
    for rows in sets:
        for one, other in combinations(np.unique(subject.split[rows]).tolist(), 2):
            pair = f"{SPLITS[one]}-{SPLITS[other]}"
            counts[pair] = counts.get(pair, 0) + 1
    return dict(sorted(counts.items()))


def say_between(counts: dict[str, int]) -> str:
    """Say the counts of `between` for people."""
    return ", ".join(f"{count:,} in {' and '.join(pair.split('-'))}" for pair, count in counts.items())


def held_out(subject: Subject, rows: Rows) -> Rows:
    """Return which rows of a set to take out so that no split knows another: all but those of its rarest use.

    Train keeps its rows, as it is the split that can lose least by a leak; between val and test, test keeps its.
    """
    here = subject.split[rows]
    keep = 0 if (here == 0).any() else 2 if (here == 2).any() else 1
    return np.asarray(rows[here != keep])


def find_repeats_across(subject: Subject) -> Finding:
    """Find images (equal keys) in more than one split."""
    sets = [rows for rows in members(subject.image, np.arange(len(subject))) if len(np.unique(subject.split[rows])) > 1]
    counts = between(subject, sets)
    advice = [
        Advice(row=row, say=_take_out(subject, row, rows), score=1.0, related=_others(rows, row))
        for rows in sets
        for row in held_out(subject, rows).tolist()
    ]
    severity: Severity = "serious" if sets else "fine"
    found = f"{count_of(len(sets), 'image')} in more than one split: {say_between(counts)}"
    return Finding(
        check="repeats across splits",
        severity=severity,
        sentence=found if sets else "no image is in more than one split",
        figures={"images": len(sets), "rows": int(sum(map(len, sets))), "between": counts},
        advice=tuple(advice),
    )


def find_repeats_within(subject: Subject) -> Finding:
    """Find images (equal keys) that occur more than once in a split."""
    repeats: dict[str, int] = {}
    images: dict[str, int] = {}
    advice = []
    for name in subject.splits:
        sets = list(members(subject.image, np.flatnonzero(subject.split == SPLITS.index(name))))
        images[name], repeats[name] = len(sets), int(sum(len(rows) - 1 for rows in sets))
        for rows in sets:
            advice += [
                Advice(row=row, say="keep one of the copies", score=1.0, related=_others(rows, row))
                for row in rows[1:].tolist()
            ]
    said = ", ".join(f"{count:,} in {name}" for name, count in repeats.items() if count)
    return Finding(
        check="repeats within a split",
        severity="look" if advice else "fine",
        sentence=f"{count_of(len(advice), 'repeat')} of an image inside its split: {said}" if advice else "none",
        figures={"repeats": repeats, "images": images},
        advice=tuple(advice),
    )


def find_contrary(subject: Subject) -> Finding:
    """Find images (equal keys) whose copies have different labels."""
    code = label_numbers(subject)
    sets = [rows for rows in members(subject.image, np.arange(len(subject))) if len(np.unique(code[rows])) > 1]
    advice = []
    for rows in sets:
        said = " / ".join(sorted({subject.label_name(row) for row in rows.tolist()}))
        advice += [
            Advice(
                row=row,
                say=(f"the same image is labelled {said}; choose one label"),
                score=1.0,
                related=_others(rows, row),
            )
            for row in rows.tolist()
        ]
    return Finding(
        check="contrary labels",
        severity="serious" if sets else "fine",
        sentence=f"{count_of(len(sets), 'image')} with different labels on its copies"
        if sets
        else "all copies of an image have its label",
        figures={"images": len(sets), "rows": int(sum(map(len, sets)))},
        advice=tuple(advice),
    )


def find_torn_groups(subject: Subject) -> Finding:
    """Find groups (patients) with rows in more than one split."""
    grouped = np.flatnonzero(subject.group >= 0)
    if not len(grouped):
        return Finding(
            check="groups across splits",
            severity="left out",
            sentence="the cache has no groups (patients); a table gives them in a column `group`",
        )
    sets = [rows for rows in members(subject.group, grouped) if len(np.unique(subject.split[rows])) > 1]
    counts = between(subject, sets)
    advice = [
        Advice(
            row=row,
            say="its patient is in another split as well: put all of a patient into one",
            score=1.0,
            related=_others(rows, row)[:8],
        )
        for rows in sets
        for row in held_out(subject, rows).tolist()
    ]
    groups = len(np.unique(subject.group[grouped]))
    found = f"{len(sets):,} of {count_of(groups, 'group')} in more than one split: {say_between(counts)}"
    return Finding(
        check="groups across splits",
        severity="serious" if sets else "fine",
        sentence=found if sets else f"each of {count_of(groups, 'group')} is in one split",
        figures={"groups": groups, "torn": len(sets), "between": counts},
        advice=tuple(advice),
    )


def find_absent(subject: Subject) -> Finding:
    """Find classes that a split has no row of; several labels: no positive, or no negative."""
    absent: dict[str, list[str]] = {}
    for name in subject.splits:
        label = subject.label[subject.split == SPLITS.index(name)]
        if label.ndim == 1:
            there = np.isin(np.arange(len(subject.classes)), label)
        else:
            there = (label == 1).any(0) & (label == 0).any(0)
        absent[name] = [one for one, has in zip(subject.classes, there.tolist(), strict=True) if not has]
    missing = {name: classes for name, classes in absent.items() if classes}
    said = "; ".join(f"{name} has no {', '.join(classes)}" for name, classes in missing.items())
    only = "" if subject.task == "multiclass" else " (both answers are needed)"
    return Finding(
        check="absent classes",
        severity="look" if missing else "fine",
        sentence=f"{said}{only}: its figures leave that out" if missing else "every split has every class",
        figures={"absent": absent},
    )


def _take_out(subject: Subject, row: int, rows: Rows) -> str:
    others = sorted({subject.split_name(other) for other in rows.tolist()} - {subject.split_name(row)})
    return f"take it out of {subject.split_name(row)}: the same image is in {' and '.join(others)}"


def _others(rows: Rows, row: int) -> tuple[int, ...]:
    return tuple(other for other in rows.tolist() if other != row)
