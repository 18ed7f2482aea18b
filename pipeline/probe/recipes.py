"""Recipes for fitting one probe on the labels that it may see, by name.

A recipe is made ready once, from the features of all rows of train and no label; what it gives fits a head on the
labels of some rows. So whatever it knows of the others is what their images look like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ...cache.format.digest import Rows
from ..datasets.columns.dataset import Task
from ..metrics.scores import known, probabilities
from .graph import neighbour_graph, spread_labels
from .logistic import Head, LogisticFit, Solved, fold_back, gather
from .scale import Scale, measure_scale
from .settings import ProbeSettings
from .soft import fit_soft

__all__ = ["RECIPES", "Labelled", "Learner", "Problem", "settle"]

# Fits a head on the known labels of some rows of train, (n,) int64 in order of key.
Learner = Callable[[npt.NDArray[np.int64]], Head]


class Labelled(NamedTuple):
    """Features (N, F) of a split and the labels of all its rows."""

    features: Rows
    labels: npt.NDArray[Any]


class Problem(NamedTuple):
    """What every fit of one probe shares.

    Attributes
    ----------
    order : (N,) rows of train in order of key, so that their order changes nothing
    """

    train: Labelled
    order: npt.NDArray[np.int64]
    task: Task
    n_classes: int
    settings: ProbeSettings

    def fit(self, rows: npt.NDArray[np.int64], scale: Scale | None = None) -> LogisticFit:
        """Return the rows of known label among these, ready to be fitted."""
        return LogisticFit(
            self.train.features,
            rows,
            self.train.labels,
            task=self.task,
            n_classes=self.n_classes,
            max_iter=self.settings.max_iter,
            tolerance=self.settings.tolerance,
            scale=scale,
        )


def settle(
    settings: ProbeSettings, labels: npt.NDArray[Any], task: Task
) -> tuple[Literal["mean", "graph", "plain", "grid"], str]:
    """Return the requested recipe, and why; ``auto`` depends on how many of train's rows have a label."""
    if settings.recipe != "auto":
        return settings.recipe, "asked for"
    given = known(labels, task)
    count = int((given if given.ndim == 1 else given.any(1)).sum())
    share = f"{count} of {len(labels)} images of train are labelled"
    if count > settings.few * len(labels):
        return "grid", f"{share}, more than a share of {settings.few:g}"
    if count > settings.graph_rows // 2:
        return "grid", f"{share}, more than half of the limit of a graph"
    return "mean", f"{share}, a share of {settings.few:g} or less"


def plain(problem: Problem) -> Learner:
    """Fit the labels alone, on features standardised over all rows of train, with a C that is not chosen."""
    scale = measure_scale(problem.train.features)
    return lambda rows: problem.fit(rows, scale).fit(problem.settings.C)


def graph(problem: Problem) -> Learner:
    """Fit labels spread over the graph of nearest neighbours."""
    return _Spread(problem, with_plain=False)


def mean(problem: Problem) -> Learner:
    """Fit the mean of what the graph and the plain probe say of the images whose label is not given.

    The mean of two probes' probabilities, taught to one that is linear in the feature again. The mean of their logits
    is linear by itself, but the plain probe, fitted to few labels exactly, is so sure of itself that it drowns
    the other.
    """
    return _Spread(problem, with_plain=True)


# All that learn from fixed settings; `grid`, which looks at val, is `fit`'s own.
RECIPES: Mapping[str, Callable[[Problem], Learner]] = {"mean": mean, "graph": graph, "plain": plain}


class _Spread:
    def __init__(self, problem: Problem, *, with_plain: bool) -> None:
        settings = problem.settings
        self._problem, self._with_plain = problem, with_plain
        self._scale = measure_scale(problem.train.features)
        self._rows = _graph_rows(problem)
        self._matrix = gather(problem.train.features, self._rows)
        self._scale.apply(self._matrix)
        self._graph = neighbour_graph(self._matrix, components=settings.components, neighbours=settings.neighbours)

    def __call__(self, rows: npt.NDArray[np.int64]) -> Head:
        task = self._problem.task
        solved = self._problem.fit(rows, self._scale).solve(self._problem.settings.C)
        labels = self._problem.train.labels[self._rows]
        seen = np.isin(self._rows, rows)
        given = known(labels, task) & (seen if labels.ndim == 1 else seen[:, None])  # (n,) or (n, L)
        said = probabilities((self._matrix @ solved.weight.T.astype(np.float32)) + solved.bias, task)  # (n, C)
        if task == "multiclass":
            hot = np.zeros((len(labels), self._problem.n_classes))
            hot[given, labels[given]] = 1
            return fold_back(_centred(self._fit(hot, given, said)), self._scale)
        parts = []
        for column in range(labels.shape[1]):
            mine, answer = labels[:, column] == 1, given[:, column]
            if len(np.unique(labels[answer, column])) < 2:
                parts.append(Solved(solved.weight[[column]], solved.bias[[column]]))
                continue
            hot = np.stack([~mine, mine], 1).astype(np.float64)
            parts.append(self._fit(hot, answer, np.stack([1 - said[:, column], said[:, column]], 1)))
        return fold_back(Solved.together(parts), self._scale)

    def _fit(self, hot: npt.NDArray[np.float64], given: npt.NDArray[np.bool_], said: npt.NDArray[np.float64]) -> Solved:
        """Fit labels (n, K) where they are given, and elsewhere what the graph says, or its mean with `said`."""
        settings = self._problem.settings
        target = spread_labels(self._graph, hot, given, share=settings.spread)
        if self._with_plain:
            target = np.where(given[:, None], hot, (target + said) / 2)
        if self._problem.task == "multilabel":
            target = target[:, 1:]
        return fit_soft(
            self._matrix, target, C=settings.C_soft, max_iter=settings.max_iter, tolerance=settings.tolerance
        )


def _graph_rows(problem: Problem) -> npt.NDArray[np.int64]:
    """Return the rows that the graph holds, in order of key: all that are labelled first, then the first by key."""
    given = known(problem.train.labels, problem.task)
    labelled = np.asarray(given.reshape(len(given), -1).any(1))[problem.order]
    taken = np.argsort(~labelled, kind="stable")[: problem.settings.graph_rows]
    return problem.order[np.sort(taken)]


def _centred(solved: Solved) -> Solved:
    return solved._replace(weight=solved.weight - solved.weight.mean(0), bias=solved.bias - solved.bias.mean())
