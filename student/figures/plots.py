"""The pictures of a run, as PNG: curves, confusion matrix, ROC, reliability."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...pipeline.datasets.columns.dataset import Task
from ...pipeline.metrics import confusion_matrix, one_against_rest, probabilities, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

from ...cache.errors import StudentError
from .comparing import Comparison
from .lettering import letter
from .verdict import name_figure

__all__ = ["draw_confusion", "drawing", "plot_forest", "plot_run"]

# Of a forest plot.
_FORMS = (".png", ".svg", ".pdf")
_SHOWN = ("auroc", "accuracy")

# Legends and matrices of more classes than this are unreadable; the figures are in metrics.json.
_MOST_CLASSES = 20
_STUDENT, _TEACHER = "tab:blue", "tab:orange"

Array = npt.NDArray[Any]


@contextmanager
def drawing(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draw names as they are: a class may be called ``$a$``, which is no formula, or have letters the font lacks.

    Parameters
    ----------
    settings : further ones of matplotlib, by their names
    """
    import matplotlib as mpl

    chosen: Any = {"text.parse_math": False, **(settings or {})}
    with mpl.rc_context(chosen), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def plot_run(
    folder: Path,
    *,
    history: Sequence[Mapping[str, float]],
    logits: Mapping[str, Array],
    labels: Array,
    task: Task,
    classes: Sequence[str],
) -> None:
    """Write curves.png, confusion.png, roc.png and reliability.png into a folder.

    Parameters
    ----------
    logits : ``student`` and ``teacher``, each (N, C), of the split that is shown
    labels : (N,) class index, -1 unknown; or (N, C) of 0/1, 255 unknown
    """
    lettering = letter(classes)
    classes = lettering.labels
    with drawing({"font.family": lettering.families}):
        _save(_curves(history), folder / "curves.png")
        for draw, name in ((draw_confusion, "confusion.png"), (_roc, "roc.png")):
            figure = draw(logits["student"], labels, task, classes)
            if lettering.legend:
                figure.supxlabel(lettering.legend, fontsize="x-small")
            _save(figure, folder / name)
        _save(_reliability(logits, labels, task), folder / "reliability.png")


def _figure(columns: int = 1, rows: int = 1, side: float = 4.5) -> tuple[Figure, Array]:
    # A bare figure draws with Agg and needs no display; pyplot would keep every figure alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(side * columns, side * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=120, metadata={"Software": "medal"})


def _curves(history: Sequence[Mapping[str, float]]) -> Figure:
    figure, (left, right) = _figure(columns=2)
    epochs = [row["epoch"] for row in history]
    for name, axes in (("train_loss", left), ("val_loss", left), ("val_auroc", right), ("val_accuracy", right)):
        axes.plot(epochs, [row[name] for row in history], marker=".", label=name.replace("_", " "))
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        axes.grid(alpha=0.3)
    return figure


def draw_confusion(logits: Array, labels: Array, task: Task, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix, truth by row; of several labels one matrix each."""
    counts = confusion_matrix(logits, labels, task)
    if task == "multiclass":
        shown = len(classes) <= _MOST_CLASSES
        figure, (axes,) = _figure(side=max(4.5, 0.6 * len(classes) + 2 if shown else 8))
        _matrix(axes, counts, classes if shown else (), "class")
        return figure
    counts = counts[:_MOST_CLASSES]
    columns = min(4, len(counts))
    figure, cells = _figure(columns=columns, rows=-(-len(counts) // columns), side=3)
    for axes in cells[len(counts) :]:
        axes.set_axis_off()
    for axes, matrix, name in zip(cells, counts, classes, strict=False):
        _matrix(axes, matrix, ("no", "yes"), name)
    return figure


def _matrix(axes: Axes, counts: Array, names: Sequence[str], what: str) -> None:
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.set_xlabel("decided")
    axes.set_ylabel("true")
    axes.set_title(what)
    if not names:
        return
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)


def _roc(logits: Array, labels: Array, task: Task, classes: Sequence[str]) -> Figure:
    figure, (axes,) = _figure()
    rankings = list(zip(classes, one_against_rest(probabilities(logits, task), labels, task), strict=True))
    shown = rankings[1:] if task == "multiclass" and len(classes) == 2 else rankings[:_MOST_CLASSES]
    for name, ranking in shown:
        if ranking.defined:
            axes.plot(*ranking.roc(), label=name)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("1 − specificity")
    axes.set_ylabel("sensitivity")
    if len(axes.get_lines()) > 1:
        axes.legend(fontsize="small")
    return figure


def _reliability(logits: Mapping[str, Array], labels: Array, task: Task) -> Figure:
    figure, (axes,) = _figure()
    for name, colour in (("student", _STUDENT), ("teacher", _TEACHER)):
        found = reliability(logits[name], labels, task)
        label = f"{name}, expected calibration error {found.error:.3f}"
        axes.plot(found.confidence, found.accuracy, marker=".", color=colour, label=label)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize="small")
    return figure


def plot_forest(path: Path, compared: Comparison) -> None:
    """Draw the differences in AUROC and accuracy with their 95 % intervals, a line a run.

    Raises
    ------
    StudentError
        The file's name ends in no known form, or its folder is not there.
    """
    if path.suffix.lower() not in _FORMS:
        raise StudentError(f"'{path}' must end in {', '.join(_FORMS)}; give another --out.")
    if not path.parent.is_dir():
        raise StudentError(f"'{path.parent}' is no folder to draw '{path.name}' into; make it, or give another --out.")
    from matplotlib.figure import Figure

    # Runs are known by their paths, which are not cut; of letters that no font has there is no list that numbers them.
    families = letter(compared.names).families
    with drawing({"font.family": families}):
        names = compared.names[1:]
        figure = Figure(figsize=(10, 1.4 + 0.5 * len(names)), layout="constrained")
        for axes, statistic in zip(figure.subplots(1, len(_SHOWN), sharey=True, squeeze=False)[0], _SHOWN, strict=True):
            axes.axvline(0, color="grey", linewidth=0.8)
            for height, found in enumerate(compared.differences):
                if statistic in found:
                    one = found[statistic]
                    errors = [[max(0.0, one.value - one.interval[0])], [max(0.0, one.interval[1] - one.value)]]
                    axes.errorbar(one.value, height, xerr=errors, fmt="s", color="tab:blue", capsize=3, markersize=5)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_xlabel(f"{compared.split} {name_figure(statistic)}, minus {compared.names[0]}")
            axes.locator_params(axis="x", nbins=6)
            axes.grid(axis="x", alpha=0.3)
        figure.savefig(path, dpi=120)
