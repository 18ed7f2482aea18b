"""The report's section on a run that held each domain out in turn: the means, and all domains side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..figures.tables import Table, write_difference, write_figure
from ..figures.verdict import name_figure
from .charts import draw_intervals
from .collecting import ARMS, Unseen, read_differences, read_figures
from .sections import Chart, draw_forest
from .tables import FIGURE_NAMES, FIGURES, PAIRS

__all__ = ["UnseenSection", "describe_unseen"]

_MEAN = "mean of domains"


@dataclass(frozen=True, kw_only=True)
class UnseenSection:
    """The report's content on all domains together; each domain also has its own section."""

    name: str
    anchor: str
    verdict: str
    gate: str
    charts: Sequence[Chart]
    figures: Table
    differences: Table


def describe_unseen(run: Unseen, anchor: str) -> UnseenSection:
    """Compute and draw the section on the domains of a run.

    Parameters
    ----------
    anchor : one word, unique on the page
    """
    each: dict[str, Mapping[str, Any]] = {domain: part.metrics for domain, part in run.parts.items()}
    each[_MEAN] = run.metrics
    gate = run.metrics["gate"]
    return UnseenSection(
        name=run.name,
        anchor=anchor,
        verdict=str(run.metrics["verdict"]),
        gate=str(gate["message"]) if gate["fires"] is not None else "",
        charts=[*_intervals(each, anchor), *_forest(each, anchor)],
        figures=_tabulate_figures(each),
        differences=_tabulate_differences(each),
    )


def _tabulate_figures(each: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [
        [domain, arm, str(found["n"]), *(write_figure(found, what) for what in FIGURES)]
        for domain, metrics in each.items()
        for arm in ARMS
        if (found := read_figures(metrics, arm, "test"))
    ]
    header = ["held out", "model", "images", *FIGURE_NAMES]
    caption = "Figures on each domain, of models trained without it, with 95 % intervals."
    return Table(caption, header, rows)


def _tabulate_differences(each: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [
        [domain, PAIRS[name], *(write_difference(one.get(what)) for what in FIGURES)]
        for domain, metrics in each.items()
        for name, one in read_differences(metrics, "test").items()
        if name in PAIRS
    ]
    header = ["held out", "difference", *FIGURE_NAMES]
    return Table("Paired differences in each domain, with 95 % intervals and p-values.", header, rows)


def _intervals(each: Mapping[str, Mapping[str, Any]], anchor: str) -> list[Chart]:
    charts = []
    for what in FIGURES[:2]:
        rows: dict[str, dict[str, tuple[float, Sequence[float] | None]]] = {}
        for domain, metrics in each.items():
            for arm in ARMS:
                found = read_figures(metrics, arm, "test")
                if found and found[what] is not None:
                    rows.setdefault(domain, {})[arm] = (found[what], found["ci95"][what])
        if rows:
            caption = f"{name_figure(what)} in each domain that was held out; the numbers are in the table."
            caption = caption[0].upper() + caption[1:]
            title = f"{name_figure(what)} by domain held out"
            name = f"{anchor}-unseen-{what}"
            drawn = draw_intervals(rows, what=name_figure(what), name=name, title=title, description=caption)
            charts.append(Chart(drawn, caption))
    return charts


def _forest(each: Mapping[str, Mapping[str, Any]], anchor: str) -> list[Chart]:
    charts = []
    for what in FIGURES[:2]:
        rows = {}
        for domain, metrics in each.items():
            found = read_differences(metrics, "test").get("student_minus_baseline", {})
            if what in found:
                rows[domain] = found[what]
        if rows:
            caption = f"Student minus baseline in {name_figure(what)}, by the domain that was held out."
            title = f"Student minus baseline in {name_figure(what)}"
            name = f"{anchor}-unseen-forest-{what}"
            charts.append(draw_forest(rows, what, name=name, title=title, caption=caption))
    return charts
