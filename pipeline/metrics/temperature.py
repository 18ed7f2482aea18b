"""The temperature that calibrates probabilities, and how well the images support it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_expit, log_softmax

from ..datasets.columns.dataset import Task
from .bootstrap import FEW_UNITS, count_units, draw_weights
from .scores import hits, known, probabilities

__all__ = ["Temperature", "fit_temperature"]

# Separable rows would drive the temperature to 0 (smoothed targets prevent that), random ones to infinity.
_LOWEST, _HIGHEST = 0.05, 20.0
# Log-losses are convex in 1 / T: a parabola through the least of these points and its neighbours finds the rest.
_GRID = np.linspace(math.log(_LOWEST), math.log(_HIGHEST), 49)
_RESAMPLES = 200


@dataclass(frozen=True)
class Temperature:
    """The divisor of logits before they become probabilities.

    Attributes
    ----------
    value : 1 where nothing is known, or where sharpening (T < 1) would rest on too little
    images : images with a known label that it was fitted on
    fitted : what fits them best, whether it is used or not
    interval : 95 %, over images or patients; None without images
    wrong : decisions among them, by arg-max or at 0.5, that are not those of the label
    """

    value: float
    images: int = 0
    fitted: float = 1.0
    interval: tuple[float, float] | None = None
    wrong: int = 0

    @property
    def warning(self) -> str:
        """Why the probabilities are unreliable; empty if they are not."""
        if not self.images:
            return "no image with a label was there to calibrate on: probabilities are as trained (temperature 1)"
        if not 1.01 * _LOWEST < self.value < 0.99 * _HIGHEST:  # the search ends a little before its bounds
            return (
                f"the temperature is at its bound, {self.value:.3g} on {self.images} images: the logits say almost "
                "nothing about the labels there, so do not rely on the probabilities"
            )
        if self.interval is not None and self.interval[1] < 1 == self.value:
            kept = f"the temperature stays 1, though {self.fitted:.2g} fits them best"
            if not self.wrong:
                return f"all {self.images} images are decided rightly, which does not say how sure is too sure: {kept}"
            return f"{self.images} images are too little evidence for sharper probabilities than trained: {kept}"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        interval = None if self.interval is None else list(self.interval)
        return {
            "value": self.value,
            "images": self.images,
            "wrong": self.wrong,
            "fitted": self.fitted,
            "ci95": interval,
        }


def fit_temperature(
    logits: npt.NDArray[Any], labels: npt.NDArray[Any], task: Task, groups: npt.NDArray[Any] | None = None
) -> Temperature:
    """Fit the temperature with the least log-loss (Guo et al., ICML 2017), against smoothed targets (Platt 1999).

    Of n images of a class the target is (n + 1) / (n + 2) and not 1: a few images that are all decided rightly do not
    make probabilities certain. Probabilities are sharpened, T < 1, only where the 95 % interval over resamples of 30 or
    more units lies below 1 and some decision is wrong: without one nothing says how sure is too sure.

    Parameters
    ----------
    logits : (N, C)
    labels : (N,) class index, -1 unknown; or (N, C) of 0/1, 255 unknown
    groups : (N,) unit of each row, -1 none: rows of a patient are drawn together
    """
    given = known(labels, task).reshape(len(labels), -1).any(1)
    if not given.any():
        return Temperature(1.0)
    from scipy.optimize import minimize_scalar

    logits, labels = np.asarray(logits, np.float64)[given], labels[given]
    groups = None if groups is None else groups[given]
    loss = partial(_row_losses, logits, labels, _soften(labels, logits.shape[1], task), task)
    best = minimize_scalar(
        lambda log_t: loss(log_t).mean(), bounds=(_GRID[0], _GRID[-1]), method="bounded", options={"xatol": 1e-6}
    )
    fitted = round(math.exp(float(best.x)), 4)
    grid = np.stack([loss(log_t) for log_t in _GRID])  # (G, N)
    drawn = [_lowest(grid @ weight) for weight in draw_weights(len(labels), groups, 0, _RESAMPLES)]
    low, high = np.exp(np.percentile(np.concatenate(drawn), (2.5, 97.5))).tolist()
    right, counts = hits(probabilities(logits, task), labels, task)
    wrong = int((counts & ~right).sum())
    borne = high < 1 and wrong and count_units(np.ones(len(labels), np.bool_), groups) >= FEW_UNITS
    value = fitted if fitted >= 1 or borne else 1.0
    return Temperature(value, len(labels), fitted, (round(low, 4), round(high, 4)), wrong)


def _soften(labels: npt.NDArray[Any], n_classes: int, task: Task) -> npt.NDArray[np.float64]:
    """Return how likely each class, or each label, is to be there by what was counted: (N, C), NaN unknown."""
    if task == "multilabel":
        ones, zeros = (labels == 1).sum(0), (labels == 0).sum(0)
        return np.where(known(labels, task), np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (zeros + 2)), np.nan)
    counts = np.bincount(labels, minlength=n_classes)[labels]
    target = np.repeat(1 / (counts + 2) / max(n_classes - 1, 1), n_classes).reshape(-1, n_classes)
    target[np.arange(len(labels)), labels] = (counts + 1) / (counts + 2)
    return target


def _row_losses(
    logits: npt.NDArray[np.float64], labels: npt.NDArray[Any], target: npt.NDArray[np.float64], task: Task, log_t: float
) -> npt.NDArray[np.float64]:
    """Return the cross-entropy of each row at a temperature, (N,)."""
    scaled = logits / math.exp(log_t)
    if task == "multilabel":
        losses = -(target * log_expit(scaled) + (1 - target) * log_expit(-scaled))
        return np.asarray(np.where(known(labels, task), losses, 0).sum(1))
    return np.asarray(-(target * log_softmax(scaled, axis=1)).sum(1))


def _lowest(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return where on the grid each column (G, b) of losses is least, between points: (b,) log T."""
    place = losses.argmin(0).clip(1, len(_GRID) - 2)
    before, here, after = (losses[place + step, np.arange(losses.shape[1])] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    offset = np.divide((before - after) / 2, bend, out=np.zeros_like(bend), where=bend > 0).clip(-1, 1)
    return np.asarray(_GRID[place] + offset * (_GRID[1] - _GRID[0]))
