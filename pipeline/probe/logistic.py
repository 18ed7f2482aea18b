"""L2 logistic regression on float16 features: standardised, fitted by scikit-learn, folded back onto the features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...cache.format.digest import Rows, rows_per_block
from ..datasets.columns.dataset import Task
from ..metrics.scores import known
from .scale import Scale, standardise

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

__all__ = ["Head", "LogisticFit", "Solved", "fold_back", "fold_logits", "gather", "linear_logits"]


@dataclass(frozen=True, eq=False)
class Head:
    """One linear classifier on features: ``logits = feature · weightᵀ + bias``.

    Attributes
    ----------
    weight : (C, F) float32
    bias : (C,) float32
    iterations : of the slowest of the solver's runs
    converged : whether all of them ended within the tolerance
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    iterations: int
    converged: bool


class Solved(NamedTuple):
    """What one run of the solver gives, on standardised features: (c, F) and (c,) float64."""

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    iterations: int = 0
    converged: bool = True

    @classmethod
    def together(cls, parts: Sequence[Solved]) -> Solved:
        """Return several runs, each of some of the classes, as one of all of them."""
        return cls(
            np.concatenate([part.weight for part in parts]),
            np.concatenate([part.bias for part in parts]),
            max(part.iterations for part in parts),
            all(part.converged for part in parts),
        )


class LogisticFit:
    """Rows ready to be fitted with one C after another, each warm-started from the one before.

    Holds the one float32 copy of the rows that a fit needs, (n, F).

    Multi-class: multinomial over the classes that the rows hold. scikit-learn's single column for two classes
    becomes ±half of it, so that logits have zero mean over classes. A class without rows gets zero weight and the
    log of half a sample's share: unlikely, never impossible.

    Multi-label: one sigmoid a label, on the rows where it is known. A label that is constant there gets zero weight
    and its log prior odds, half a sample added to either side; 0 where it is never known.
    """

    def __init__(
        self,
        features: Rows,
        rows: npt.NDArray[np.int64],
        labels: npt.NDArray[Any],
        *,
        task: Task,
        n_classes: int,
        max_iter: int,
        tolerance: float,
        scale: Scale | None = None,
    ) -> None:
        """Read those of the rows (n,) of `features` (N, F) that have a known label; `labels` are those of all N.

        They are standardised by `scale`, or by themselves where there is none.
        """
        from sklearn.linear_model import LogisticRegression

        given = known(labels[rows], task)
        rows = rows[given if task == "multiclass" else given.any(1)]
        self._labels = labels[rows]
        self._task = task
        self._n_classes = n_classes
        self._matrix = gather(features, rows)
        if scale is None:
            self._scale = standardise(self._matrix)
        else:
            self._scale = scale
            scale.apply(self._matrix)
        self._models = [
            LogisticRegression(solver="lbfgs", warm_start=True, max_iter=max_iter, tol=tolerance)
            for _ in range(1 if task == "multiclass" else n_classes)
        ]

    def fit(self, C: float) -> Head:  # noqa: N803 - everybody's name for the inverse penalty
        """Fit all classes with the inverse penalty C, in scikit-learn's scale."""
        return fold_back(self.solve(C), self._scale)

    def solve(self, C: float) -> Solved:  # noqa: N803
        """Fit as `fit` does, and return what acts on standardised features."""
        if self._task == "multiclass":
            return self._fit_classes(C)
        return Solved.together([self._fit_label(column, C) for column in range(self._n_classes)])

    def _fit_classes(self, C: float) -> Solved:  # noqa: N803
        weight = np.zeros((self._n_classes, self._matrix.shape[1]))
        bias = np.zeros(self._n_classes)
        present = np.unique(self._labels)
        solved = Solved(weight, bias)
        if len(present) > 1:
            solved = _solve(self._models[0], self._matrix, self._labels, None, C)
            if len(present) == 2:
                solved = solved._replace(
                    weight=np.concatenate([-solved.weight, solved.weight]) / 2,
                    bias=np.concatenate([-solved.bias, solved.bias]) / 2,
                )
            weight[present] = solved.weight - solved.weight.mean(0)
            bias[present] = solved.bias - solved.bias.mean()
        absent = np.setdiff1d(np.arange(self._n_classes), present)
        bias[absent] = np.log(0.5 / max(1, len(self._labels)))
        return solved._replace(weight=weight - weight.mean(0), bias=bias - bias.mean())

    def _fit_label(self, column: int, C: float) -> Solved:  # noqa: N803
        given = self._labels[:, column] <= 1
        positive = self._labels[:, column] == 1
        n_positive, n_given = int(positive.sum()), int(given.sum())
        if n_positive in (0, n_given):
            odds = np.log((n_positive + 0.5) / (n_given - n_positive + 0.5))
            return Solved(np.zeros((1, self._matrix.shape[1])), np.array([odds]))
        # Unknown rows have weight 0: the same as leaving them out, without another copy of the matrix.
        weights = None if given.all() else given.astype(np.float32)
        return _solve(self._models[column], self._matrix, positive.astype(np.int8), weights, C)


def fold_back(solved: Solved, scale: Scale) -> Head:
    """Return the head on features as they are stored, the standardisation a part of it."""
    # In float64, so that float32 rounds once.
    weight = solved.weight * scale.inverse  # (C, F)
    bias = solved.bias - weight @ scale.mean  # (C,)
    return Head(weight.astype(np.float32), bias.astype(np.float32), solved.iterations, solved.converged)


def linear_logits(
    features: npt.NDArray[Any], weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return ``features · weightᵀ + bias``, (…, F) → (…, C) float32, before temperature.

    Summed in float64: the float32 result of a row then hardly ever depends on which rows are computed with it.
    """
    given = features.astype(np.float64) @ weight.astype(np.float64).T + bias
    return np.asarray(given.astype(np.float32))


def _solve(
    model: LogisticRegression,
    matrix: npt.NDArray[np.float32],
    labels: npt.NDArray[Any],
    sample_weight: npt.NDArray[np.float32] | None,
    C: float,  # noqa: N803
) -> Solved:
    """Continue scikit-learn's solver from the model's current weights."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.set_params(C=C).fit(matrix, labels, sample_weight)
    converged = True
    for warning in caught:
        # Not reaching the tolerance is recorded beside the figures; any other warning is the caller's to see.
        if issubclass(warning.category, ConvergenceWarning):
            converged = False
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    weight, bias = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    return Solved(weight, bias, int(model.n_iter_.max()), converged)


def gather(features: Rows, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Read rows of features (N, F) in the order given, by slices only: (n, F) float32."""
    place = np.full(features.shape[0], -1, np.int64)
    place[rows] = np.arange(len(rows))
    matrix = np.empty((len(rows), features.shape[1]), np.float32)
    step = rows_per_block(features)
    for start in range(0, len(place), step):
        here = place[start : start + step]
        wanted = here >= 0
        if wanted.any():
            matrix[here[wanted]] = features[start : start + step][wanted]
    return matrix


def fold_logits(
    features: Rows, fold: npt.NDArray[np.int8], weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the logits of each row from the probe of its fold, (N, C) float32, before temperature.

    Parameters
    ----------
    features : (N, F)
    fold : (N,) index into the probes
    weight, bias : (K+1, C, F) and (K+1, C) of all probes
    """
    result = np.empty((features.shape[0], weight.shape[1]), np.float32)
    step = rows_per_block(features)
    for start in range(0, features.shape[0], step):
        block = features[start : start + step]
        folds = fold[start : start + step]
        for index in np.unique(folds):
            mine = folds == index
            result[start : start + step][mine] = linear_logits(block[mine], weight[index], bias[index])
    return result
