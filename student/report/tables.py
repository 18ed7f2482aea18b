"""A report's tables, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...pipeline.metrics import ClassCurves
from ..figures import score as figures
from ..figures.methods import describe_methods
from ..figures.tables import Table, name_arm, write_difference, write_figure, write_number
from ..figures.verdict import name_figure
from .collecting import ARMS, Recorded

__all__ = [
    "CLASS_FIGURES",
    "FIGURES",
    "FIGURE_NAMES",
    "PAIRS",
    "Confusion",
    "tabulate_classes",
    "tabulate_confusion",
    "tabulate_differences",
    "tabulate_domains",
    "tabulate_figures",
    "tabulate_seeds",
    "tabulate_settings",
    "with_interval",
]

FIGURES = ("auroc", "accuracy", "auprc", "balanced_accuracy", "macro_f1", "brier")
FIGURE_NAMES = tuple(map(name_figure, FIGURES))
GRADES = ("kappa", "mae")  # with --ordinal
CLASS_FIGURES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1",
}
PAIRS = {f"{one}_minus_{other}": f"{one} − {other}" for one, other in figures.PAIRS}


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: counts, truth by row and decision by column, means over seeds, and each row's shares."""

    caption: str
    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]


def tabulate_figures(run: Recorded) -> Table:
    """Return every arm on every split."""
    rows = []
    columns = _columns(run.metrics[run.split])
    for split in ("test", "val"):
        for arm in ARMS:
            found = run.figures(arm, split)
            if found:
                name = name_arm(arm, len(run.learners.get(arm, ())))
                rows.append([split, name, *(write_figure(found, what) for what in columns)])
                rows[-1].append(write_number(found.get("calibration_error")))
                if by := found.get("patients"):
                    cells = [write_figure(by, what) for what in columns]
                    rows.append([split, f"{name}, by patient", *cells, write_number(by.get("calibration_error"))])
    header = ["split", "model", *map(name_figure, columns), "calibration error"]
    return Table("Figures with 95 % intervals. Lower is better for Brier score and calibration error.", header, rows)


def _columns(found: Mapping[str, Any]) -> tuple[str, ...]:
    return (*FIGURES, *(name for name in GRADES if name in found))


def tabulate_seeds(run: Recorded) -> Table | None:
    """Return each member; None if there is one seed."""
    each = run.metrics.get("seeds") or []
    if len(each) < 2:
        return None
    of_arm = {"student": each, "baseline": (run.metrics.get("baseline") or {}).get("seeds") or []}
    rows = []
    for arm, members in of_arm.items():
        for one in members:
            cells = [write_number(one[run.split][what]) for what in FIGURES[:2]]
            rows.append([f"{arm}, seed {one['seed']}", str(one["best_epoch"]), *cells])
    return Table(f"Each seed on {run.split}.", ["member", "best epoch", "AUROC", "accuracy"], rows)


def tabulate_differences(found: Mapping[str, Mapping[str, Any]], split: str) -> Table | None:
    """Return the differences between arms; None if there is nothing to compare."""
    columns = _columns(next(iter(found.values()), {}))
    rows = [
        [PAIRS[name], *(write_difference(each.get(what)) for what in columns)]
        for name, each in found.items()
        if name in PAIRS
    ]
    caption = f"Paired differences on {split}, with 95 % intervals and p-values over the same resamples of the images."
    return Table(caption, ["difference", *map(name_figure, columns)], rows) if rows else None


def tabulate_classes(run: Recorded, curves: Mapping[str, Mapping[str, ClassCurves]]) -> Table:
    """Return each class of each arm."""
    rows = []
    for name in run.classes:
        for arm in ARMS:
            found = run.parts(arm, "classes").get(name)
            if found:
                intervals = curves[arm][name].ci95 if name in curves.get(arm, {}) else {}
                cells = [with_interval(found.get(what), intervals.get(what)) for what in CLASS_FIGURES]
                cells.append(write_number(found["specificity_at_sensitivity"]))
                rows.append([name, arm, write_number(found["n"]), *cells])
    at = write_number(float(run.metrics[run.split].get("at_sensitivity", 0.95)), 2)
    header = ["class", "model", "images", *CLASS_FIGURES.values(), f"specificity at sensitivity {at}"]
    return Table(f"Each class against the rest on {run.split}, with 95 % intervals.", header, rows)


def tabulate_domains(run: Recorded) -> Table | None:
    """Return each domain of each arm; None where no domain is known."""
    rows = []
    columns = _columns(run.metrics[run.split])
    for name in run.metrics[run.split].get("domains") or {}:
        for arm in ARMS:
            found = run.parts(arm, "domains").get(name)
            if found:
                intervals = found.get("ci95", {})
                cells = [with_interval(found.get(what), intervals.get(what)) for what in columns]
                rows.append([name, arm, str(found["n"]), *cells])
    header = ["domain", "model", "images", *map(name_figure, columns)]
    return Table(f"Each domain's images of {run.split}, with 95 % intervals.", header, rows) if rows else None


def with_interval(value: float | None, interval: Sequence[float | None] | None) -> str:
    """Return a figure with its interval, or alone where that is not known."""
    if value is None or interval is None or None in interval:
        return write_number(value)
    return write_figure({"it": value, "ci95": {"it": interval}}, "it")


def tabulate_confusion(run: Recorded) -> list[Confusion]:
    """Return the student's confusion matrix, or one of each label."""
    counts, seeds = run.metrics[run.split]["confusion"], len(run.learners["student"])
    of_seeds = f", mean of {seeds} seeds" if seeds > 1 else ""
    if run.task == "multiclass":
        return [_matrix(f"Decisions of the student on {run.split}{of_seeds}.", run.classes, counts)]
    # Of every label, however many: two rows of two are small.
    return [
        _matrix(f"{name}: decisions of the student{of_seeds}.", ("no", "yes"), one)
        for name, one in zip(run.classes, counts, strict=True)
    ]


def _matrix(caption: str, names: Sequence[str], counts: Sequence[Sequence[float]]) -> Confusion:
    rows = []
    for name, row in zip(names, counts, strict=True):
        whole = max(sum(row), 1e-9)
        rows.append((name, [(f"{count:.1f}".removesuffix(".0"), count / whole) for count in row]))
    return Confusion(caption, names, rows)


def tabulate_settings(run: Recorded) -> Table:
    """Return the main settings of the run."""
    description = run.description
    request, cache = description["request"], description["cache"]
    shown = {
        "medal": request["medal"],
        "student": f"{request['student']}, weights {request['weights']}",
        "input": f"{request['image_size']} px, {description['resize']}, intensity {request['intensity']}",
        "augment": request["augment"],
        **describe_methods(description),
        "labels of train that are known": f"{100 * request['label_fraction']:g} %",
        "calibration temperature": f"{description['calibration']['value']:g}",
        "teacher": cache["teacher"],
        "cache_id": cache["cache_id"],
        "content_digest": cache["content_digest"],
        **description["versions"],
    }
    rows = [[name, str(value)] for name, value in shown.items()]
    return Table("Main settings; run.json has all of them.", ["setting", "value"], rows)
