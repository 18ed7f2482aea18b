"""The report's section on one run: sentences, tables and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...cache.reader import Cache
from ...pipeline.datasets.columns.units import find_units
from ...pipeline.metrics import ClassCurves, Difference, class_curves, macro_curves, reliability
from ...pipeline.metrics.embedding import Map
from ..figures.tables import Table, write_difference, write_figure, write_number
from ..figures.verdict import name_figure
from .cases import Case, find_disagreements, find_errors
from .charts import draw_curve, draw_differences, draw_history, draw_intervals, draw_reliability
from .collecting import ARMS, Recorded
from .embedding import map_run
from .tables import (
    CLASS_FIGURES,
    FIGURES,
    PAIRS,
    Confusion,
    tabulate_classes,
    tabulate_confusion,
    tabulate_differences,
    tabulate_domains,
    tabulate_figures,
    tabulate_seeds,
    tabulate_settings,
    with_interval,
)

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["Chart", "Section", "describe_run", "draw_forest"]

MOST_CLASSES = 20  # whose curves are drawn; with more, curves look alike and the page is too large for mail
MOST_IMAGES = 12
ERRORS_OF_EACH = 3
_FEWEST_BINS, _IMAGES_OF_A_BIN = 4, 15


@dataclass(frozen=True)
class Chart:
    """A drawing and its caption."""

    drawing: Markup
    caption: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """The report's content on one run; parts without data are empty."""

    run: Recorded
    anchor: str
    about: str
    verdict: str
    gate: str
    figures: Table
    seeds: Table | None
    differences: Table | None
    forest: Sequence[Chart]
    curves: Sequence[Chart]
    calibration: Chart | None
    confusion: Sequence[Confusion]
    classes: Table
    class_charts: Sequence[Chart]
    domains: Table | None
    domain_charts: Sequence[Chart]
    history: Sequence[Chart]
    disagreements: Sequence[Case]
    errors: Sequence[Case]
    settings: Table
    notes: Sequence[str]
    map: Map | None


def describe_run(run: Recorded, anchor: str, cache: Cache | None = None) -> Section:
    """Compute and draw the section on one run.

    Parameters
    ----------
    anchor : one word, unique on the page
    cache : that it was trained with, for a map of its images; None = no map
    """
    units = find_units(run.rows.key, run.rows.group)
    curves = {
        arm: class_curves(logits, run.rows.label, run.task, run.classes, groups=units)
        for arm, logits in run.logits.items()
    }
    differences = run.differences()
    return Section(
        run=run,
        anchor=anchor,
        about=_about(run),
        verdict=str(run.metrics["verdict"]),
        gate=str(run.metrics["gate"]["message"]) if run.metrics["gate"]["fires"] is not None else "",
        figures=tabulate_figures(run),
        seeds=tabulate_seeds(run),
        differences=tabulate_differences(differences, run.split),
        forest=_forest(differences, run.split, anchor),
        curves=_curves(run, curves, anchor),
        calibration=_calibration(run, anchor),
        confusion=tabulate_confusion(run),
        classes=tabulate_classes(run, curves),
        class_charts=_class_charts(run, curves, anchor),
        domains=tabulate_domains(run),
        domain_charts=_domain_charts(run, anchor),
        history=_history(run, anchor),
        disagreements=find_disagreements(run, MOST_IMAGES),
        errors=find_errors(run, ERRORS_OF_EACH),
        settings=tabulate_settings(run),
        notes=_notes(run),
        map=None if cache is None else map_run(run, cache),
    )


# ── Words ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _about(run: Recorded) -> str:
    request, cache = run.description["request"], run.description["cache"]
    rows = ", ".join(f"{count} {split}" for split, count in run.description["rows"].items())
    seeds = len(run.learners["student"])
    of_seeds = f"{seeds} seeds" if seeds > 1 else "one seed"
    what = "classes" if run.task == "multiclass" else "labels"
    return (
        f"{request['student']} at {request['image_size']} px, {of_seeds}, taught by {cache['teacher']} on "
        f"{cache['dataset']} ({len(run.classes)} {what}; images: {rows})."
    )


def _notes(run: Recorded) -> list[str]:
    found = []
    if run.split == "val":
        found.append(
            "There is no test split. The figures are on val, which also chose the epoch, so they are optimistic."
        )
    if run.rows.group is None:
        found.append("This run does not know patients: intervals treat images as independent.")
    if run.teacher is None:
        found.append(
            "The run has no teacher.csv because an older medal trained it. The teacher's curves and the images on "
            "which it disagrees are left out."
        )
    absent = run.metrics[run.split].get("absent") or []
    if absent:
        found.append(f"Left out of the mean AUROC, because it is undefined on {run.split}: {', '.join(absent)}.")
    return found


# ── Charts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _forest(found: Mapping[str, Mapping[str, Any]], split: str, anchor: str) -> list[Chart]:
    charts = []
    for what in FIGURES[:2]:
        rows = {PAIRS[name]: each[what] for name, each in found.items() if name in PAIRS and what in each}
        if rows:
            words = "; ".join(f"{name} {write_difference(one)}" for name, one in rows.items())
            caption = f"Difference in {split} {name_figure(what)} with 95 % intervals: {words}."
            title = f"Differences in {name_figure(what)}"
            charts.append(draw_forest(rows, what, name=f"{anchor}-forest-{what}", title=title, caption=caption))
    return charts


def draw_forest(rows: Mapping[str, Difference], what: str, *, name: str, title: str, caption: str) -> Chart:
    """Draw paired differences in a statistic, with their 95 % intervals.

    Parameters
    ----------
    rows : name of a line → its difference
    """
    return Chart(draw_differences(rows, what=name_figure(what), name=name, title=title, description=caption), caption)


def _curves(run: Recorded, curves: Mapping[str, Mapping[str, ClassCurves]], anchor: str) -> list[Chart]:
    """Return ROC and precision-recall curves: of the mean over classes, then of each; of two classes, the second's."""
    names = [name for name in run.classes if name in curves["student"]]
    binary = run.task == "multiclass" and len(run.classes) == 2
    shown = [(name, {arm: each[name] for arm, each in curves.items() if name in each}) for name in names]
    shown = shown[1:] if binary else shown[:MOST_CLASSES]
    if len(names) > 1 and not binary:
        shown.insert(0, ("Mean of all classes", {arm: macro_curves(each) for arm, each in curves.items() if each}))
    charts = []
    for index, (name, arms) in enumerate(shown):
        for kind, words, figure in (("roc", "ROC curve", "auroc"), ("pr", "Precision-recall curve", "auprc")):
            bands = {arm: one.sensitivity if kind == "roc" else one.precision for arm, one in arms.items()}
            said = ", ".join(f"{arm} {_curve_figure(run, arm, name, figure, arms[arm])}" for arm in arms)
            caption = f"{name}: {words}, {name_figure(figure)} {said}."
            drawn = draw_curve(
                kind, bands, name=f"{anchor}-{kind}-{index}", title=f"{words}, {name}", description=caption
            )
            charts.append(Chart(drawn, caption))
    return charts


def _curve_figure(run: Recorded, arm: str, name: str, what: str, curves: ClassCurves) -> str:
    figures = run.figures(arm, run.split) or {}
    if not curves.ci95:
        return write_figure(figures, what)
    return with_interval(figures["classes"][name][what], curves.ci95.get(what))


def _calibration(run: Recorded, anchor: str) -> Chart | None:
    """Return the reliability diagram of the student on top, whose temperature the run records."""
    calibration = run.description["calibration"]
    temperature, images = float(calibration["value"]), int(calibration["images"])
    top = run.rows
    before, after = (reliability(top.logits, top.label, run.task, temperature=value) for value in (1.0, temperature))
    if not len(before.count):
        return None
    # The figure uses fifteen bins, as everywhere; points of four images each would only show noise.
    bins = max(_FEWEST_BINS, min(15, int(before.count.sum()) // _IMAGES_OF_A_BIN))
    caption = (
        f"Reliability on {run.split}: the expected calibration error is {write_number(before.error)} as trained and "
        f"{write_number(after.error)} after division by the temperature {temperature:g}, fitted on {images} images of "
        f"val{_after(calibration)}. Points below the diagonal: overconfident. Drawn in {bins} bins of equal mass."
    )
    found = [
        (name, reliability(top.logits, top.label, run.task, temperature=value, bins=bins))
        for name, value in (("as trained", 1.0), (f"temperature {temperature:g}", temperature))
    ]
    drawn = draw_reliability(found, name=f"{anchor}-reliability", title="Reliability diagram", description=caption)
    return Chart(drawn, caption)


def _after(calibration: Mapping[str, Any]) -> str:
    return f" ({calibration['warning']})" if calibration.get("warning") else ""


def _class_charts(run: Recorded, curves: Mapping[str, Mapping[str, ClassCurves]], anchor: str) -> list[Chart]:
    charts = []
    for what in ("auroc", "sensitivity"):
        rows: dict[str, dict[str, tuple[float, Sequence[float] | None]]] = {}
        for name in run.classes[:MOST_CLASSES]:
            for arm in curves:
                found = run.parts(arm, "classes").get(name, {}).get(what)
                if found is not None:
                    of_class = curves[arm].get(name)
                    interval = of_class.ci95.get(what) if of_class is not None else None
                    rows.setdefault(name, {})[arm] = (found, interval)
        if rows:
            charts.append(_intervals(run, rows, what, f"{anchor}-class-{what}", "class"))
    return charts


def _domain_charts(run: Recorded, anchor: str) -> list[Chart]:
    charts = []
    for what in ("auroc", "accuracy"):
        rows: dict[str, dict[str, tuple[float, Sequence[float] | None]]] = {}
        for arm in ARMS:
            for name, found in run.parts(arm, "domains").items():
                if found[what] is not None:
                    interval = (found.get("ci95") or {}).get(what)
                    usable = None if interval is None or None in interval else interval
                    rows.setdefault(name, {})[arm] = (found[what], usable)
        if rows:
            charts.append(_intervals(run, rows, what, f"{anchor}-domain-{what}", "domain"))
    return charts


def _intervals(run: Recorded, rows: Mapping[str, Any], what: str, name: str, of: str) -> Chart:
    said = CLASS_FIGURES.get(what, name_figure(what))
    caption = f"{said[0].upper()}{said[1:]} on {run.split} by {of}, with 95 % intervals; the numbers are in the table."
    chance = 0.5 if what == "auroc" else None
    title = f"{said} by {of}"
    return Chart(draw_intervals(rows, what=said, name=name, title=title, description=caption, chance=chance), caption)


def _history(run: Recorded, anchor: str) -> list[Chart]:
    charts = []
    for column, what in (("train_loss", "loss on train"), ("val_loss", "loss on val"), ("val_auroc", "AUROC on val")):
        if all(column in one.history for members in run.learners.values() for one in members):
            title = f"Training: {what}"
            drawn = draw_history(run.learners, column=column, what=what, name=f"{anchor}-{column}", title=title)
            kept = ", ".join(
                f"{arm} {', '.join(str(one.best_epoch) for one in members)}" for arm, members in run.learners.items()
            )
            charts.append(Chart(drawn, f"{what[0].upper()}{what[1:]} by epoch. Kept: {kept}."))
    return charts
