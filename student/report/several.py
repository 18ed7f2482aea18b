"""The report's section on several runs: side by side, compared with the first, and by share of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...cache.errors import StudentError
from ..figures.comparing import compare_runs
from ..figures.tables import Table, write_difference, write_figure
from ..figures.verdict import name_figure
from .charts import draw_fractions
from .collecting import ARMS, Recorded
from .sections import Chart, draw_forest
from .tables import FIGURE_NAMES, FIGURES

__all__ = ["Together", "describe_together"]


@dataclass(frozen=True, kw_only=True)
class Together:
    """Several runs.

    Attributes
    ----------
    sentences : each difference from the first run in words, or why there is none
    fractions : a figure over the share of labels, for each set and recipe of which there are several shares
    """

    runs: Table
    differences: Table | None
    sentences: Sequence[str]
    forest: Sequence[Chart]
    fractions: Sequence[Chart]


def describe_together(runs: Sequence[Recorded]) -> Together:
    """Compute and draw the section on two or more runs."""
    differences, sentences, forest = _compare(runs)
    return Together(
        runs=_tabulate(runs), differences=differences, sentences=sentences, forest=forest, fractions=_fractions(runs)
    )


def _tabulate(runs: Sequence[Recorded]) -> Table:
    rows = []
    for run in runs:
        request = run.description["request"]
        for arm in ARMS:
            found = run.figures(arm, run.split)
            if found:
                labels = f"{100 * request['label_fraction']:g} %"
                words = [run.name, arm, str(request["student"]), labels, run.split, str(found["n"])]
                rows.append([*words, *(write_figure(found, what) for what in FIGURES[:2])])
    header = ["run", "model", "network", "labels", "split", "images", *FIGURE_NAMES[:2]]
    return Table("All runs, with 95 % intervals.", header, rows)


def _compare(runs: Sequence[Recorded]) -> tuple[Table | None, list[str], list[Chart]]:
    if len({run.split for run in runs}) > 1:
        return None, ["The runs are not compared image by image, because some have no test split."], []
    told: list[str] = []
    try:
        found = compare_runs([run.place for run in runs], runs[0].split, told.append)
    except StudentError as error:
        # Runs of other images can be read one after the other, and be points of one curve.
        shown = str(error)
        for run in runs:
            shown = shown.replace(f"'{run.place}'", f"'{run.name}'")
        return None, [f"The runs are not compared image by image. {shown}"], []
    found = replace(found, names=tuple(run.name for run in runs))
    names, first = found.names[1:], found.names[0]
    rows = [
        [f"{name} − {first}", *(write_difference(one.get(what)) for what in FIGURES)]
        for name, one in zip(names, found.differences, strict=True)
    ]
    caption = f"Paired differences from '{first}' on {found.split}, over the {found.images} images that all runs share."
    table = Table(caption, ["difference", *FIGURE_NAMES], rows)
    charts = []
    for what in FIGURES[:2]:
        drawn = {name: one[what] for name, one in zip(names, found.differences, strict=True) if what in one}
        if drawn:
            words = f"Difference in {found.split} {name_figure(what)} from '{first}', with 95 % intervals."
            title = f"Differences to {first} in {name_figure(what)}"
            name = f"together-forest-{what}"
            charts.append(draw_forest(drawn, what, name=name, title=title, caption=words))
    return table, found.sentences(), charts


def _fractions(runs: Sequence[Recorded]) -> list[Chart]:
    """Draw a curve for runs that only differ in the share of labels."""
    recipes: dict[tuple[str, ...], list[Recorded]] = {}
    for run in runs:
        request, cache = run.description["request"], run.description["cache"]
        settings = (request[name] for name in ("student", "weights", "image_size", "loss", "alpha"))
        recipes.setdefault(tuple(map(str, (cache["dataset"], *settings, run.split))), []).append(run)
    charts = []
    for index, (recipe, members) in enumerate(recipes.items()):
        if len({run.description["request"]["label_fraction"] for run in members}) < 2:
            continue
        for what in FIGURES[:2]:
            points = {arm: each for arm in ARMS if (each := _points(members, arm, what))}
            if not points:
                continue
            said = "; ".join(
                f"{arm} {', '.join(f'{value:.3f} with {100 * share:g} %' for share, value, _ in each)}"
                for arm, each in points.items()
            )
            caption = f"{recipe[1]} on {recipe[0]}, {recipe[-1]} {name_figure(what)} by labels known: {said}."
            drawn = draw_fractions(
                points,
                what=f"{name_figure(what)} on {recipe[-1]}",
                name=f"fractions-{index}-{what}",
                title=f"{name_figure(what)} over the share of labels",
                description=caption,
            )
            charts.append(Chart(drawn, caption))
    return charts


def _points(runs: Sequence[Recorded], arm: str, what: str) -> list[tuple[float, float, Sequence[float] | None]]:
    found = []
    for run in runs:
        figures = run.figures(arm, run.split)
        if figures and figures[what] is not None:
            share = float(run.description["request"]["label_fraction"])
            found.append((share, float(figures[what]), figures["ci95"][what]))
    return sorted(found, key=lambda point: point[:2])
