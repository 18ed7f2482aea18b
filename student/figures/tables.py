"""Results as small tables, for people."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...cache.terminal.console import stack

if TYPE_CHECKING:
    from ...pipeline.metrics import Difference
    from .comparing import Comparison

__all__ = [
    "NO_WIDTH",
    "Table",
    "mark_interval",
    "name_arm",
    "show_comparison",
    "show_result",
    "write_difference",
    "write_figure",
    "write_number",
    "write_value",
]


@dataclass(frozen=True)
class Table:
    """A table of text, for people; as HTML it is shown by the template of the report.

    Attributes
    ----------
    rows : cells of each row, the first being its name
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def note(self) -> str:
        """The note below the table: an interval without width looks like certainty."""
        return NO_WIDTH if any(_MARK in cell for row in self.rows for cell in row) else ""

    def markdown(self) -> str:
        """Return the table in Markdown; its cells are taken as they are."""
        lines = (self.header, ["---"] * len(self.header), *self.rows)
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"{text}\n\n{self.note}" if self.note else text

    def text(self, width: int | None = None, names: int = 1) -> str:
        """Return the table as lines of text, as a block a row where it is wider than `width`.

        Parameters
        ----------
        names : so many columns at the left say what a row is of
        """
        from rich import box
        from rich.console import Console
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for title in self.header:
            grid.add_column(Text(title), overflow="fold")
        for row in self.rows:
            grid.add_row(*map(Text, row))
        out = io.StringIO()
        # As wide as its content on any terminal: a table that is cut or wrapped can be neither read nor parsed.
        widest = sum(max(map(len, column)) + 3 for column in zip(self.header, *self.rows, strict=True))
        Console(file=out, width=widest).print(grid)
        lines = [line.rstrip() for line in out.getvalue().rstrip().split("\n")]
        if width is not None and max(map(len, lines)) > width:
            lines = stack(self.header, self.rows, names)
        return "\n".join([*lines, self.note] if self.note else lines)


# Beside an interval whose ends are one number, as of an AUROC of 1: every resample gives it too, however few images.
_MARK = "†"
NO_WIDTH = (
    f"{_MARK} An interval without width is not certainty: every resample gives the same figure, even if images are few."
)
_COLUMNS = {"auroc": "AUROC", "accuracy": "accuracy", "balanced_accuracy": "balanced acc.", "brier": "Brier"}
_GRADES = {"kappa": "weighted kappa", "mae": "mean grade error"}


def show_result(result: Mapping[str, Any], width: int | None = None) -> str:
    """Return student, baseline and teacher on val and test, with 95 % intervals, as lines of text.

    Parameters
    ----------
    result : of `train_student`
    """
    if "domains" in result:
        return _show_domains(result, width)
    students, baseline = result["seeds"], result["baseline"]
    columns = _COLUMNS | _grades(result["val"])
    rows = []
    for split in ("val", "test"):
        arms = {"student": result, "baseline": baseline, "teacher": result["teacher"]}
        for arm, figures in arms.items():
            if figures is None or figures[split] is None:
                continue
            seeds = {"student": len(students), "baseline": len((baseline or {}).get("seeds", ()))}.get(arm, 1)
            rows.append([split, name_arm(arm, seeds), *(write_figure(figures[split], column) for column in columns)])
            if by := figures[split].get("patients"):
                rows.append([split, f"{arm}, by patient", *(write_figure(by, column) for column in columns)])
    return Table("", ["", "", *(f"{name} (95 %)" for name in columns.values())], rows).text(width, 2)


def _grades(figures: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns of grades where classes are."""
    return _GRADES if "kappa" in figures else {}


def _show_domains(result: Mapping[str, Any], width: int | None) -> str:
    """Return the arms in each domain that was held out, and their means, with the differences below them."""
    seeds = len(result["seeds"])
    columns = _COLUMNS | _grades(result["test"])
    rows = []
    for domain, found in {**result["domains"], "mean": result}.items():
        arms = {"student": found, "baseline": found["baseline"], "teacher": found["teacher"]}
        for arm, figures in arms.items():
            if figures is not None:
                name = name_arm(arm, seeds if arm != "teacher" else 1)
                rows.append([domain, name, *(write_figure(figures["test"], column) for column in columns)])
        for name, difference in found["comparison"]["test"].items():
            one, _, other = name.partition("_minus_")
            cells = [_recorded(difference.get(column)) for column in columns]
            rows.append([domain, f"{one} − {other}", *cells])
    return Table("", ["held out", "", *(f"{name} (95 %)" for name in columns.values())], rows).text(width, 2)


def show_comparison(compared: Comparison, width: int | None = None) -> str:
    """Return each run's figures and its differences to the first one, as lines of text."""
    rows = []
    columns = {name: _COLUMNS[name] for name in ("auroc", "accuracy")} | _grades(compared.figures[0])
    for index, name in enumerate(compared.names):
        figures = compared.figures[index]
        rows.append([name, *(write_figure(figures, column) for column in columns)])
        if index:
            found = compared.differences[index - 1]
            rows.append(["  minus the first", *(write_difference(found.get(column)) for column in columns)])
    return Table("", ["", *(f"{name} (95 %)" for name in columns.values())], rows).text(width)


def name_arm(arm: str, seeds: int) -> str:
    """Return what a row of an arm's figures is called: ``student, mean of 3 seeds``."""
    return f"{arm}, mean of {seeds} seeds" if seeds > 1 else arm


def write_figure(figures: Mapping[str, Any], name: str) -> str:
    """Return a statistic with its 95 % interval: ``.912 (.871–.950)``."""
    if figures[name] is None:
        return "undefined"
    low, high = figures["ci95"][name]
    return mark_interval(f"{write_number(figures[name])} ({write_number(low)}–{write_number(high)})", low, high)


def mark_interval(text: str, low: float | None, high: float | None) -> str:
    """Mark a written interval whose ends are the same number; a table says below what the mark means."""
    return f"{text}{_MARK}" if low is not None and low == high else text


def write_value(value: float | None) -> str:
    """Return a statistic alone: ``0.9123``, or ``undefined`` where it is None or not a number."""
    return "undefined" if value is None or math.isnan(value) else f"{value:.4f}"


def write_number(value: float | None, signs: int = 3) -> str:
    """Return a figure without the zero before its decimals, ``.912``, and a count as it is.

    Raises
    ------
    TypeError
        It is not a number: medal did not write the file it comes from.
    """
    if value is None:
        return "undefined"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, float):
        raise TypeError(f"expected a number, got {value!r}")
    text = f"{value:.{signs}f}"
    return text.removeprefix("0") if text.startswith("0.") else text


def write_difference(found: Difference | None) -> str:
    """Return a difference with its 95 % interval and p-value: ``+0.031 (+0.004 to +0.058), p 0.02``."""
    return _recorded(None if found is None else found.to_dict())


def _recorded(found: Mapping[str, Any] | None) -> str:
    """Show a difference as metrics.json has it."""
    if found is None:
        return "undefined"
    (low, high), p = found["ci95"], found["p"]
    interval = mark_interval(f"{found['difference']:+.3f} ({low:+.3f} to {high:+.3f})", low, high)
    return f"{interval}, p {'< 0.01' if p < 0.01 else f'{p:.2f}'}"
