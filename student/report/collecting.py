"""Reads a finished run for its report: figures, histories and every member's answers."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import StudentError
from ...pipeline.datasets.columns.dataset import Task
from ...pipeline.metrics import Difference
from ..run import folder
from ..run.predictions import Predictions, read_predictions

__all__ = ["ARMS", "Learner", "Recorded", "Unseen", "collect", "read_differences", "read_figures"]

_PART = re.compile(r"domain-[A-Za-z0-9._-]+")

ARMS = ("student", "baseline", "teacher")


@dataclass(frozen=True, eq=False)
class Learner:
    """A member of a run.

    Attributes
    ----------
    history : column → value of each epoch, NaN where undefined
    best_epoch : the one whose weights were kept, from 1
    """

    seed: int
    best_epoch: int
    answers: Predictions
    history: Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Recorded:
    """A finished run.

    Attributes
    ----------
    name : its name on the page; not a path, which would be private
    split : the split that counts: test, or val if there is none
    learners : ``student`` and perhaps ``baseline`` → members, the one at the top first
    teacher : its answers to the same rows; None if an older medal did not record them
    """

    place: Path
    name: str
    description: Mapping[str, Any]
    metrics: Mapping[str, Any]
    split: str
    learners: Mapping[str, Sequence[Learner]]
    teacher: Predictions | None

    @property
    def task(self) -> Task:
        """Whether an image has one class or several labels."""
        found: Task = self.description["task"]
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return tuple(map(str, self.description["classes"]))

    @property
    def rows(self) -> Predictions:
        """Keys, labels and patients of the rows that it is judged by."""
        return self.learners["student"][0].answers

    @property
    def logits(self) -> dict[str, list[npt.NDArray[np.float32]]]:
        """Arm → logits (N, C) of each seed, of all arms whose answers are there."""
        found = {arm: [one.answers.logits for one in members] for arm, members in self.learners.items()}
        return found | ({"teacher": [self.teacher.logits]} if self.teacher is not None else {})

    def figures(self, arm: str, split: str) -> Mapping[str, Any] | None:
        """Return an arm's figures on a split, as metrics.json has them; None where there are none."""
        return read_figures(self.metrics, arm, split)

    def parts(self, arm: str, by: str) -> Mapping[str, Any]:
        """Return an arm's figures by ``classes`` or ``domains`` on the split that counts; empty without any."""
        return (self.figures(arm, self.split) or {}).get(by) or {}

    def differences(self) -> dict[str, Mapping[str, Difference]]:
        """Return the paired differences of the arms on the split that counts, such as ``student_minus_baseline``."""
        return read_differences(self.metrics, self.split)


@dataclass(frozen=True, eq=False, kw_only=True)
class Unseen:
    """A run that left each domain out in turn.

    Attributes
    ----------
    metrics : the means over domains
    parts : domain → the run that was trained without it and tested on it
    """

    name: str
    metrics: Mapping[str, Any]
    parts: Mapping[str, Recorded]


def read_figures(metrics: Mapping[str, Any], arm: str, split: str) -> Mapping[str, Any] | None:
    """Read an arm's figures on a split from metrics.json, on whose top level the student's lie."""
    found: Mapping[str, Any] | None = metrics if arm == "student" else metrics.get(arm)
    return None if found is None else found.get(split)


def read_differences(metrics: Mapping[str, Any], split: str) -> dict[str, Mapping[str, Difference]]:
    """Read the paired differences of metrics.json: ``student_minus_baseline`` → statistic → difference."""
    found = (metrics.get("comparison") or {}).get(split) or {}
    return {
        name: {what: _as_difference(one) for what, one in each.items() if what not in ("mcnemar", "patients")}
        for name, each in found.items()
    }


def _as_difference(found: Mapping[str, Any]) -> Difference:
    low, high = found["ci95"]
    return Difference(found["difference"], (low, high), found["p"])


def collect(places: Sequence[Path]) -> list[Recorded | Unseen]:
    """Read finished runs; nothing in them is executed.

    Raises
    ------
    StudentError
        One is no finished run, or its files do not fit together.
    """
    return [_collect_run(place, name) for place, name in zip(places, _names(places), strict=True)]


def _names(places: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many parent folders as needed to make them distinct."""
    whole = [place.resolve() for place in places]
    for depth in range(1, 4):
        names = ["/".join(one.parts[-depth:]) for one in whole]
        if len(set(names)) == len(names):
            return names
    return [f"{one.name} ({number})" for number, one in enumerate(whole, 1)]


def _collect_run(place: Path, name: str) -> Recorded | Unseen:
    if not (place / folder.RUN).is_file():
        inside = " It is inside a run: give that run." if (place.parent / folder.RUN).is_file() else ""
        raise StudentError(
            f"'{place}' is not a finished run; expected a folder that `medal train-student --out` made.{inside}"
        )
    try:
        description, metrics = (_read_object(place / file) for file in (folder.RUN, folder.METRICS))
        if "domains" in description:
            parts = {str(domain): one["folder"] for domain, one in description["domains"].items()}
            return Unseen(
                name=name,
                metrics=metrics,
                parts={domain: _read_part(place, part, f"{name} without {domain}") for domain, part in parts.items()},
            )
        return _read_run(place, name, description, metrics)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StudentError(
            f"'{place}' cannot be reported on: its files are not as medal writes them ({error!r:.200}). Ask for a "
            "complete copy of the run."
        ) from error


def _read_part(place: Path, part: str, name: str) -> Recorded:
    # The folder's name comes from a file that anybody may have written: it must not lead elsewhere.
    if not _PART.fullmatch(part):
        raise ValueError(f"{part!r} is no folder of a domain")
    description, metrics = (_read_object(place / part / file) for file in (folder.RUN, folder.METRICS))
    return _read_run(place / part, name, description, metrics)


def _read_run(place: Path, name: str, description: Mapping[str, Any], metrics: Mapping[str, Any]) -> Recorded:
    split = "test" if metrics.get("test") else "val"
    learners = {
        arm: members
        for arm, root in (("student", place), ("baseline", place / folder.BASELINE))
        if (members := _read_learners(root, split))
    }
    recorded = Recorded(
        place=place,
        name=name,
        description=description,
        metrics=metrics,
        split=split,
        learners=learners,
        teacher=read_predictions(place, folder.TEACHER).get(split) if (place / folder.TEACHER).is_file() else None,
    )
    _check(recorded)
    return recorded


def _read_object(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise TypeError(f"{path.name} is no JSON object")
    return found


def _read_learners(root: Path, split: str) -> list[Learner]:
    places = [root, *sorted(root.glob("seed-*"), key=lambda path: int(path.name.partition("-")[2]))]
    return [_read_learner(place, split) for place in places if (place / folder.PREDICTIONS).is_file()]


def _read_learner(place: Path, split: str) -> Learner:
    record = _read_object(place / folder.MEMBER)
    with (place / folder.HISTORY).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    history = {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
    return Learner(int(record["seed"]), int(record["best_epoch"]), read_predictions(place)[split], history)


def _check(run: Recorded) -> None:
    """Refuse tables that are not of the same rows, each with as many logits as there are classes."""
    tables = [one.answers for members in run.learners.values() for one in members]
    tables += [run.teacher] if run.teacher is not None else []
    for table in tables:
        if not np.array_equal(table.key, run.rows.key) or not np.array_equal(table.label, run.rows.label):
            raise ValueError("the tables of predictions are of different images")
        if table.logits.shape[1:] != (len(run.classes),):
            raise ValueError(f"a table has {table.logits.shape[1]} logits, for {len(run.classes)} classes")
