"""Choosing C: a short walk up the grid, evaluated on rows held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.progress import Tell
from ..datasets.columns.dataset import Task
from ..metrics.scores import known, log_loss, score
from .logistic import LogisticFit, linear_logits

__all__ = ["Trial", "can_judge", "choose"]

_PATIENCE = 2


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One value of C and its scores on the rows held out; NaN where undefined."""

    C: float
    log_loss: float
    auroc: float
    iterations: int
    converged: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the trial for JSON, undefined figures as None."""
        return {name: None if value != value else value for name, value in vars(self).items()}  # noqa: PLR0124 - NaN


def can_judge(labels: npt.NDArray[Any], task: Task) -> bool:
    """Return whether labels can tell a good probe from a bad one: two classes, or a label that is not constant."""
    columns = labels[:, None] if task == "multiclass" else labels
    given = known(columns, task)
    return any(len(np.unique(columns[given[:, c], c])) > 1 for c in range(columns.shape[1]))


def choose(
    fit: LogisticFit, grid: Sequence[float], features: npt.NDArray[Any], labels: npt.NDArray[Any], task: Task, say: Tell
) -> tuple[float, tuple[Trial, ...]]:
    """Walk the grid upwards, warm-started, until the log-loss has not improved twice running.

    Parameters
    ----------
    fit : the rows to learn from
    features, labels : (n, F) and labels of the rows held out, for which `can_judge` holds

    Returns
    -------
    The C with the least log-loss, and what was tried in order
    """
    tried: list[Trial] = []
    best = worse = 0
    for C in grid:  # noqa: N806 - everybody's name for the inverse penalty
        head = fit.fit(C)
        given = linear_logits(features, head.weight, head.bias)
        loss = log_loss(given, labels, task)
        auroc = score(given, labels, task, [str(index) for index in range(len(head.bias))]).auroc
        tried.append(Trial(C=C, log_loss=loss, auroc=auroc, iterations=head.iterations, converged=head.converged))
        if loss < tried[best].log_loss or len(tried) == 1:
            best, worse = len(tried) - 1, 0
        else:
            worse += 1
        if worse == _PATIENCE:
            break
    # One line: the manifest has all scores, under `probe.tried`.
    say(
        f"probe: C = {tried[best].C:g} of {len(tried)} tried, held-out log-loss {tried[best].log_loss:.4f}, AUROC "
        f"{tried[best].auroc:.4f}"
    )
    return tried[best].C, tuple(tried)
