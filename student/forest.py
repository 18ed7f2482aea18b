"""The forest plot of a comparison: each run's difference to the first one, with its interval."""

from __future__ import annotations

from pathlib import Path

from ..cache.errors import StudentError
from .comparing import Comparison
from .plots import drawing
from .verdict import name_figure

__all__ = ["plot_forest"]

_FORMS = (".png", ".svg", ".pdf")
_SHOWN = ("auroc", "accuracy")


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
    # A bare figure draws with Agg and needs no display; pyplot would keep every figure alive.
    from matplotlib.figure import Figure

    with drawing():
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
