"""ROC and precision-recall curves of each class against the rest, with 95 % bands over the same draws as all intervals.

A band is pointwise: of each resample the curve is taken, at each false positive rate (of each recall) the 2.5th and
97.5th percentile over resamples (vertical averaging; Fawcett, Pattern Recognition Letters 27, 2006, section 9). Seeds
are averaged inside each resample, as elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..datasets.columns.dataset import Task
from .bootstrap import count_units, decided_rows, draw_weights, percentile_interval, prepare, ratio, weighted_ranks
from .scores import Ranking, known, one_against_rest, probabilities

__all__ = ["GRID", "Band", "ClassCurves", "class_curves", "macro_curves"]

# Where curves are read: a hundredth is finer than what a printed figure shows.
GRID = np.linspace(0, 1, 101)
_FIGURES = ("auroc", "auprc", "sensitivity", "specificity")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Band:
    """A curve over `GRID` and its 95 % band.

    Attributes
    ----------
    value : (G,) float64 of the rows as they are, mean over seeds
    low, high : (G,) float64
    """

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class ClassCurves:
    """One class against the rest.

    Attributes
    ----------
    sensitivity : by false positive rate, the ROC curve
    precision : by recall, the precision-recall curve
    ci95 : 95 % intervals of ``auroc``, ``auprc``, ``sensitivity`` and ``specificity``, of those that are defined
    draws : (2, B, G) float32 both curves of each resample, NaN where undefined
    """

    sensitivity: Band
    precision: Band
    ci95: Mapping[str, list[float]]
    draws: npt.NDArray[np.float32]


def class_curves(
    seeds: Sequence[npt.NDArray[Any]],
    labels: npt.NDArray[Any],
    task: Task,
    classes: Sequence[str],
    *,
    groups: npt.NDArray[Any] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, ClassCurves]:
    """Return the curves of each class that has rows on either side; means over seeds.

    Parameters
    ----------
    seeds : logits (N, C) of each seed
    labels : (N,) class index, -1 unknown; or (N, C) of 0/1, 255 unknown
    groups : (N,) patient of each row, -1 none: patients are drawn whole
    """
    given = known(labels, task)
    rows = np.flatnonzero(given if task == "multiclass" else given.any(1))
    labels, groups = labels[rows], None if groups is None else groups[rows]
    found: dict[str, list[_Drawn]] = {}
    for logits in seeds:
        one = _one_seed(probabilities(logits[rows], task), labels, task, classes, (groups, seed, resamples))
        for name, curves in one.items():
            found.setdefault(name, []).append(curves)
    return {name: _mean(parts) for name, parts in found.items()}


def macro_curves(found: Mapping[str, ClassCurves]) -> ClassCurves:
    """Return the mean of all classes' curves, resample by resample: each class counts the same, however rare."""
    draws = _defined_mean([one.draws for one in found.values()])
    sensitivity = np.mean([one.sensitivity.value for one in found.values()], axis=0)
    precision = np.mean([one.precision.value for one in found.values()], axis=0)
    return ClassCurves(_band(sensitivity, draws[0]), _band(precision, draws[1]), {}, draws)


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A seed's figures, (4, B), and its curves of the rows as they are, (2, G), with those of each resample.

    Attributes
    ----------
    units : of each figure, the independent units that it is a share of; None where it is no share
    """

    figures: Floats
    curves: Floats
    draws: npt.NDArray[np.float32]
    units: tuple[int | None, ...]


def _one_seed(
    probability: Floats,
    labels: npt.NDArray[Any],
    task: Task,
    classes: Sequence[str],
    drawing: tuple[npt.NDArray[Any] | None, int, int],
) -> dict[str, _Drawn]:
    usable = {}
    units: dict[str, tuple[int | None, ...]] = {}
    rankings = one_against_rest(probability, labels, task)
    for column, (name, ranking) in enumerate(zip(classes, rankings, strict=True)):
        if ranking.defined:
            usable[name] = (column, _Steps.of(ranking), prepare(ranking))
            sides = (count_units(side, drawing[0]) for side in (ranking.positive, ranking.negative))
            units[name] = (None, None, *sides)
    decided = decided_rows(probability, labels, task)  # (3 C, N)
    given = np.atleast_2d(known(labels, task).T)  # (1 or C, N)
    figures: dict[str, list[Floats]] = {name: [] for name in usable}
    drawn: dict[str, list[Floats]] = {name: [] for name in usable}
    groups, seed, resamples = drawing
    for weight in draw_weights(len(labels), groups, seed, resamples) if usable else ():
        rates = _rates(decided, given, weight)  # (2, C, b)
        for name, (column, steps, prepared) in usable.items():
            figures[name].append(np.stack([*weighted_ranks(prepared, weight), *rates[:, column]]))
            drawn[name].append(steps.curves(weight))
    whole = np.ones((len(labels), 1))
    return {
        name: _Drawn(
            np.concatenate(figures[name], axis=1),
            steps.curves(whole)[:, 0],
            np.concatenate(drawn[name], axis=1).astype(np.float32),
            units[name],
        )
        for name, (_, steps, _) in usable.items()
    }


@dataclass(frozen=True, eq=False)
class _Steps:
    """One ranking from the highest value down, for many resamples: `Ranking.roc` would sort each of them anew.

    Attributes
    ----------
    order : (n,) rows of known label
    positive : (n,) bool, in that order
    last : positions at which a threshold lies: between rows of equal value there is none
    """

    order: npt.NDArray[np.int64]
    positive: npt.NDArray[np.bool_]
    last: npt.NDArray[np.int64]

    @classmethod
    def of(cls, ranking: Ranking) -> _Steps:
        rows = np.flatnonzero(ranking.rows)
        order = rows[np.argsort(-ranking.value[rows], kind="stable")]
        falls = np.append(np.diff(ranking.value[order]) != 0, True)
        return cls(order, ranking.positive[order], np.flatnonzero(falls))

    def curves(self, weight: npt.NDArray[Any]) -> Floats:
        """Return sensitivity and precision under each column of weights (N, b): (2, b, G), NaN where undefined."""
        ordered = weight[self.order]
        true = np.cumsum(ordered * self.positive[:, None], axis=0, dtype=np.float64)[self.last]
        found = np.cumsum(ordered, axis=0, dtype=np.float64)[self.last]
        false = found - true
        curves = np.full((2, weight.shape[1], len(GRID)), np.nan)
        for draw in range(weight.shape[1]):
            positives, negatives = true[-1, draw], false[-1, draw]
            if positives and negatives:
                recall = true[:, draw] / positives
                # Of several sensitivities at one rate, the highest: the threshold that a user would take.
                curves[0, draw] = np.interp(GRID, np.append(0, false[:, draw] / negatives), np.append(0, recall))
                # No straight line between two points (Davis and Goadrich, ICML 2006): the next threshold that reaches
                # the recall, as average precision has it. A draw may leave nothing at all above a threshold.
                reached = np.searchsorted(recall, GRID - 1e-12).clip(max=len(recall) - 1)
                reached[0] = np.searchsorted(recall, 0, side="right")
                curves[1, draw] = true[reached, draw] / found[reached, draw]
        return curves


def _rates(decided: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_], weight: npt.NDArray[Any]) -> Floats:
    """Return sensitivity and specificity of each class under each column of weights: (2, C, b)."""
    truth, said, both = np.split(np.asarray(decided.astype(weight.dtype) @ weight, np.float64), 3)
    negative = np.asarray(given.astype(weight.dtype) @ weight, np.float64) - truth
    return np.stack([ratio(both, truth), ratio(negative - said + both, negative)])


def _mean(seeds: Sequence[_Drawn]) -> ClassCurves:
    values = np.mean([one.curves for one in seeds], axis=0)
    draws = np.mean([one.draws for one in seeds], axis=0)
    figures = np.mean([one.figures for one in seeds], axis=0)
    shares = zip(_FIGURES, figures, seeds[0].units, strict=True)
    intervals = {name: percentile_interval(drawn, units) for name, drawn, units in shares}
    defined = {name: pair for name, pair in intervals.items() if not np.isnan(pair).any()}
    return ClassCurves(_band(values[0], draws[0]), _band(values[1], draws[1]), defined, draws)


def _band(value: Floats, draws: npt.NDArray[Any]) -> Band:
    defined = draws[~np.isnan(draws).any(1)]
    if not len(defined):
        return Band(value, value, value)
    low, high = np.percentile(defined, (2.5, 97.5), axis=0)
    return Band(value, low, high)


def _defined_mean(draws: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Return the mean over classes of what each resample defines; NaN where it defines none."""
    summed, count = np.zeros_like(draws[0]), np.zeros_like(draws[0])
    for one in draws:
        defined = ~np.isnan(one)
        summed[defined] += one[defined]
        count += defined
    return np.divide(summed, count, out=np.full_like(summed, np.nan), where=count > 0)
