"""Results of a run, computed from its recorded predictions: metrics.json, the verdict, the gate and the plots."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...cache.progress import Alert, Tell
from ...pipeline.metrics import Difference, bootstrap, measure_grades, score
from ..figures.patients import say_patients
from ..figures.plots import plot_run
from ..figures.score import Compared, Scored, compare_arms, figures
from ..figures.tables import write_value
from ..figures.temperature import calibrate
from ..figures.verdict import caution, judge_teacher, write_verdict
from ..members.choice import Choice
from ..members.ensemble import Teaching
from ..members.plan import Asked
from ..members.train import Member, read_record
from ..run import folder
from ..run.predictions import Predictions, read_predictions, write_predictions
from ..settings import Alpha
from ..targets.load import Targets

__all__ = ["NOTHING_AHEAD", "Outcome", "conclude", "show_teacher", "write_outcome"]


# Why --alpha auto chooses the labels alone.
NOTHING_AHEAD = "nothing was better than the labels alone by more than one standard error (alpha 0)"


class Outcome(NamedTuple):
    """The metrics of a run, and each arm's scores on the split that is shown: test if there is one, else val."""

    metrics: dict[str, Any]
    scored: Mapping[str, Scored]


def show_teacher(targets: Targets, report: Tell, *, ordinal: bool = False) -> None:
    """Report the scores of the cache's probe on these rows, before anything is trained on its answers.

    Parameters
    ----------
    ordinal : classes are grades: their kappa too
    """
    said = []
    for split in ("val", "test"):
        if split in targets.splits:
            part = targets.splits[split]
            found = score(part.teacher, part.label, targets.task, targets.classes)
            kappa = measure_grades(part.teacher, part.label)["kappa"] if ordinal else None
            grades = "" if kappa is None else f", kappa {write_value(kappa)}"
            said.append(f"{split} AUROC {write_value(found.auroc)}, accuracy {write_value(found.accuracy)}{grades}")
    report(f"the teacher's probe: {'; '.join(said)}")
    part = targets.splits["val"]
    if not part.can_choose(targets.task):
        return
    low, _ = bootstrap(part.teacher, part.label, targets.task, groups=part.units).intervals()["auroc"]
    if low <= 0.5:
        report(
            Alert(
                "on val the teacher's probe is not clearly better than chance; --baseline shows whether it helps, "
                "and --alpha auto uses it only if it does"
            )
        )


def write_outcome(
    asked: Asked,
    work: Path,
    students: Sequence[Member],
    baselines: Sequence[Member] = (),
    *,
    choice: Choice | None,
    teaching: Teaching | None = None,
    report: Tell,
    seed: int = 0,
) -> Outcome:
    """Score the members and the teacher on the same rows, and write metrics.json and the plots.

    Parameters
    ----------
    students, baselines : with the folders that they have in the finished run, each with its predictions
    seed : of the resamples
    """
    targets = asked.targets
    arms = {"student": students, "baseline": baselines}
    recorded = {member.place: read_predictions(member.place) for member in (*students, *baselines)}
    scored = _score(asked, arms, recorded, seed)
    shown = "test" if "test" in scored else "val"
    compared = {split: compare_arms(each, targets.task) for split, each in scored.items()}
    judged = {name: one.differences for name, one in compared[shown].items()}
    gate = judge_teacher(
        judged.get("teacher_minus_baseline"), shown, alone=teaching is None or teaching.chosen == "probe"
    )
    each = {arm: _each(work, members, recorded, targets) for arm, members in arms.items()}
    verdict = conclude(
        shown,
        scored[shown],
        judged,
        each,
        students[0].alpha,
        unhelpful=unhelpful(choice, teaching),
        more=_by_patient(scored[shown], compared[shown].get("student_minus_baseline")),
    )
    if gate["fires"]:
        report(Alert(gate["message"]))
    top = next(member for member in students if member.place == work)
    metrics = {
        **_splits(scored, "student"),
        "teacher": _splits(scored, "teacher"),
        "baseline": _splits(scored, "baseline") | {"seeds": each["baseline"]} if baselines else None,
        "seeds": each["student"],
        "comparison": {
            split: {name: one.to_dict() for name, one in found.items()} for split, found in compared.items()
        },
        "gate": gate,
        "verdict": verdict,
        "alpha": students[0].alpha,
        "temperature": students[0].temperature,
        "choice": choice.to_dict() if choice else None,
        "taught_by": teaching.to_dict() if teaching else None,
        "best_epoch": (read_record(work) or {})["best_epoch"],
        "epochs": asked.epochs,
    }
    folder.write_json(work / folder.METRICS, metrics)
    if said := calibrate(recorded[top.place], targets.task).warning:
        report(Alert(said))
    _record_teacher(work, targets)
    plot_run(
        work,
        history=_read_history(work),
        logits={"student": recorded[top.place][shown].logits, "teacher": targets.splits[shown].teacher},
        labels=recorded[top.place][shown].label,
        task=targets.task,
        classes=targets.classes,
    )
    return Outcome(metrics, scored[shown])


def _by_patient(scored: Mapping[str, Scored], less: Compared | None) -> str:
    """Return the verdict's sentence on patients, after a space, if patients are known."""
    said = say_patients(scored["student"].figures, less.patients if less else None)
    return f" {said}" if said else ""


def _score(
    asked: Asked, arms: Mapping[str, Sequence[Member]], recorded: Mapping[Path, Mapping[str, Predictions]], seed: int
) -> dict[str, dict[str, Scored]]:
    """Return the figures of each arm, by split and arm."""
    targets, at, rule = asked.targets, asked.settings.at_sensitivity, asked.settings.patient_rule
    scored: dict[str, dict[str, Scored]] = {}
    for split in ("val", "test"):
        if split in targets.splits:
            logits = {
                arm: [recorded[member.place][split].logits for member in members]
                for arm, members in arms.items()
                if members
            } | {"teacher": [targets.splits[split].teacher]}
            scored[split] = {
                arm: figures(one, split, targets, at_sensitivity=at, rule=rule, seed=seed)
                for arm, one in logits.items()
            }
    return scored


def conclude(
    shown: str,
    scored: Mapping[str, Scored],
    judged: Mapping[str, Mapping[str, Difference]],
    each: Mapping[str, Sequence[Mapping[str, Any]]],
    alpha: Alpha | None,
    *,
    unhelpful: str = "",
    more: str = "",
) -> str:
    """Return the verdict on the split that is shown, then `more`, then a caution if the intervals are unreliable."""
    pairs = zip(each["student"], each["baseline"], strict=False)
    verdict = write_verdict(
        shown,
        arms={arm: one.figures for arm, one in scored.items()},
        baseline=judged.get("student_minus_baseline"),
        teacher=judged["student_minus_teacher"],
        by_seed=[(one[shown]["auroc"], other[shown]["auroc"]) for one, other in pairs],
        seeds=len(each["student"]),
        alpha=alpha,
        unhelpful=unhelpful,
    )
    return f"{verdict}{more} {caution(scored['student'].figures['rests_on'])}".rstrip()


def unhelpful(choice: Choice | None, teaching: Teaching | None) -> str:
    """Say why val chose the labels alone, if it did."""
    if choice is not None and choice.alpha == 0:
        return NOTHING_AHEAD
    if teaching is not None and teaching.chosen == "none":
        return "the labels alone were better than the mean with the probe by more than one standard error"
    return ""


def _record_teacher(work: Path, targets: Targets) -> None:
    """Write the teacher's answers beside the student's: a later reader may have the run without the cache."""
    parts = {split: targets.splits[split] for split in ("val", "test") if split in targets.splits}
    answers = {split: Predictions(part.key, part.label, part.teacher, part.patients) for split, part in parts.items()}
    write_predictions(work / folder.TEACHER, answers, targets.classes)


def _splits(scored: Mapping[str, Mapping[str, Scored]], arm: str) -> dict[str, Any]:
    return {split: dict(scored[split][arm].figures) if split in scored else None for split in ("val", "test")}


def _each(
    work: Path, members: Sequence[Member], recorded: Mapping[Path, Mapping[str, Predictions]], targets: Targets
) -> list[dict[str, Any]]:
    """Return each member's seed, place in the run and figures."""
    found = []
    for member in members:
        record = read_record(member.place) or {}
        row: dict[str, Any] = {
            "seed": member.seed,
            "folder": member.place.relative_to(work).as_posix(),
            "best_epoch": record["best_epoch"],
        }
        for split, part in recorded[member.place].items():
            whole = score(part.logits, part.label, targets.task, targets.classes).to_dict()
            row[split] = {name: whole[name] for name in ("auroc", "accuracy")}
        found.append(row)
    return found


def _read_history(place: Path) -> list[dict[str, float]]:
    with (place / folder.HISTORY).open(newline="", encoding="utf-8") as file:
        return [
            {name: float(value) if value else np.nan for name, value in row.items()} for row in csv.DictReader(file)
        ]
