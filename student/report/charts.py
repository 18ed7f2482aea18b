"""The report's charts. A table or caption beside each has its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...pipeline.metrics import Band, Difference, Reliability
from ...pipeline.metrics.curves import GRID
from ..figures.lettering import shorten
from .theme import COLOURS, LINES, MARKERS, chart

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from .collecting import Learner

__all__ = ["draw_curve", "draw_differences", "draw_fractions", "draw_history", "draw_intervals", "draw_reliability"]

Points = Mapping[str, tuple[float, Sequence[float] | None]]


def draw_curve(kind: str, arms: Mapping[str, Band], *, name: str, title: str, description: str) -> Markup:
    """Draw the ROC or precision-recall curve of each arm, and the student's band.

    Parameters
    ----------
    kind : ``roc`` or ``pr``
    """

    def draw(axes: Axes) -> None:
        if kind == "roc":
            axes.plot([0, 1], [0, 1], color=COLOURS["soft"], linewidth=0.8)
        if "student" in arms:
            band = arms["student"]
            axes.fill_between(GRID, band.low, band.high, color=COLOURS["student"], alpha=0.18, linewidth=0)
        for arm, one in sorted(arms.items(), key=lambda item: item[0] == "student"):
            start = [0.0] if kind == "roc" else []
            axes.plot([*start, *GRID], [*start, *one.value], color=COLOURS[arm], linestyle=LINES[arm], linewidth=1.8)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03), xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
        words = ("1 − specificity", "sensitivity") if kind == "roc" else ("recall (sensitivity)", "precision")
        axes.set(xlabel=words[0], ylabel=words[1])

    return chart(draw, name=name, title=title, description=description)


def draw_reliability(found: Sequence[tuple[str, Reliability]], *, name: str, title: str, description: str) -> Markup:
    """Draw accuracy over confidence, before and after the temperature."""

    def draw(axes: Axes) -> None:
        styles: Sequence[dict[str, object]] = (
            {"color": COLOURS["student"], "marker": "o", "linestyle": ":", "markerfacecolor": COLOURS["paper"]},
            {"color": COLOURS["student"], "marker": "o", "linestyle": "-"},
        )
        axes.plot([0, 1], [0, 1], color=COLOURS["soft"], linewidth=0.8)
        for (label, one), style in zip(found, styles, strict=False):
            axes.plot(one.confidence, one.accuracy, label=label, markersize=5, linewidth=1.6, **style)  # type: ignore[arg-type]
        low = min((float(min(one.confidence.min(), one.accuracy.min())) for _, one in found), default=0)
        axes.set(xlim=(max(0, low - 0.05), 1.02), ylim=(max(0, low - 0.05), 1.02))
        axes.set(xlabel="confidence", ylabel="accuracy")
        axes.legend(facecolor=COLOURS["paper"], edgecolor=COLOURS["line"], framealpha=1, fontsize=11)

    return chart(draw, name=name, title=title, description=description)


def draw_intervals(
    rows: Mapping[str, Points], *, what: str, name: str, title: str, description: str, chance: float | None = None
) -> Markup:
    """Draw a figure of each class or domain, one line each, with its 95 % interval if there is one.

    Parameters
    ----------
    rows : name → arm → value and interval
    chance : value of guessing, drawn as a line
    """

    def draw(axes: Axes) -> None:
        if chance is not None:
            axes.axvline(chance, color=COLOURS["soft"], linewidth=0.8)
        for place, points in enumerate(rows.values()):
            for offset, (arm, (value, interval)) in zip(_spaced(len(points)), points.items(), strict=True):
                _whiskers(axes, value, place + offset, interval, arm)
        _name_rows(axes, list(rows))
        axes.set_xlabel(what)

    return chart(draw, name=name, title=title, description=description, height=_tall(rows))


def draw_differences(rows: Mapping[str, Difference], *, what: str, name: str, title: str, description: str) -> Markup:
    """Draw paired differences with their 95 % intervals about zero: a forest plot."""

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=COLOURS["ink"], linewidth=1)
        for place, one in enumerate(rows.values()):
            _whiskers(axes, one.value, place, one.interval, "student")
        _name_rows(axes, list(rows))
        axes.set_xlabel(f"difference in {what}")

    return chart(draw, name=name, title=title, description=description, height=_tall(rows))


def draw_history(learners: Mapping[str, Sequence[Learner]], *, column: str, what: str, name: str, title: str) -> Markup:
    """Draw a column of the histories over epochs, a line a member, with a dot at the epoch that was kept."""

    def draw(axes: Axes) -> None:
        for arm, members in sorted(learners.items(), key=lambda item: item[0] == "student"):
            for one in members:
                epoch, value = one.history["epoch"], one.history[column]
                axes.plot(epoch, value, color=COLOURS[arm], linestyle=LINES[arm], linewidth=1.5)
                kept = epoch == one.best_epoch
                axes.plot(epoch[kept], value[kept], color=COLOURS[arm], marker=MARKERS[arm], markersize=6)
        axes.locator_params(axis="x", nbins=6, integer=True)
        axes.set(xlabel="epoch", ylabel=what)

    description = f"{what} of each member over the epochs of its training, with a dot at the epoch that was kept."
    return chart(draw, name=name, title=title, description=description, height=240)


def draw_fractions(
    points: Mapping[str, Sequence[tuple[float, float, Sequence[float] | None]]],
    *,
    what: str,
    name: str,
    title: str,
    description: str,
) -> Markup:
    """Draw a figure over the share of train's labels that was known.

    Parameters
    ----------
    points : arm → share in 0…1, value, interval, by ascending share
    """

    def draw(axes: Axes) -> None:
        for arm, each in points.items():
            shares = np.array([share for share, _, _ in each])
            # Side by side, so that intervals of one share do not overlap.
            places: npt.NDArray[np.float64] = shares * {"student": 1.0, "baseline": 1.06, "teacher": 0.94}[arm]
            axes.plot(places, [value for _, value, _ in each], color=COLOURS[arm], linestyle=LINES[arm], linewidth=1.5)
            for place, (_, value, interval) in zip(places, each, strict=True):
                _whiskers(axes, value, float(place), interval, arm, upright=True)
        shown = sorted({share for each in points.values() for share, _, _ in each})
        axes.set_xscale("log")
        axes.set_xticks(shown, [f"{100 * share:g} %" for share in shown])
        axes.minorticks_off()
        axes.set(xlabel="labels of train that were known", ylabel=what)

    return chart(draw, name=name, title=title, description=description)


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _whiskers(
    axes: Axes, value: float, place: float, interval: Sequence[float] | None, arm: str, *, upright: bool = False
) -> None:
    # A percentile interval need not hold its estimate.
    edges = None if interval is None else [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]
    at = {"x": place, "y": value, "yerr": edges} if upright else {"x": value, "y": place, "xerr": edges}
    axes.errorbar(fmt=MARKERS[arm], color=COLOURS[arm], markersize=5.5, elinewidth=1.6, capsize=2.5, **at)  # type: ignore[arg-type]


def _spaced(count: int) -> npt.NDArray[np.float64]:
    return (np.arange(count, dtype=np.float64) - (count - 1) / 2) * 0.24


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), shorten(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=5)


def _tall(rows: Mapping[str, object]) -> int:
    return 64 + 46 * max(1, len(rows))
