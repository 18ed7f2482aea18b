"""Two models on the same rows: differences with their intervals and p-values, and McNemar's test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from ..datasets.columns.dataset import Task
from .bootstrap import Resamples, percentile_interval
from .scores import hits, probabilities

__all__ = ["Difference", "McNemar", "compare", "mcnemar"]


@dataclass(frozen=True)
class Difference:
    """One statistic of a first model minus that of a second one.

    Attributes
    ----------
    value : of the rows as they are
    interval : 95 %, of the same resamples of both
    p : two-sided, by the share of resamples on the other side of zero; at least 2 / (resamples + 1)
    """

    value: float
    interval: tuple[float, float]
    p: float

    @property
    def above(self) -> bool:
        """The first one's statistic is significantly higher."""
        return self.interval[0] > 0 and self.p < 0.05

    @property
    def below(self) -> bool:
        """The first one's statistic is significantly lower."""
        return self.interval[1] < 0 and self.p < 0.05

    def to_dict(self) -> dict[str, Any]:
        """Return the difference for JSON."""
        return {"difference": self.value, "ci95": list(self.interval), "p": self.p}


@dataclass(frozen=True)
class McNemar:
    """Numbers of images that only one of two models decided correctly, and the exact binomial p-value."""

    only_first: int
    only_second: int
    p: float

    def to_dict(self) -> dict[str, Any]:
        """Return the test for JSON."""
        return {"only_first": self.only_first, "only_second": self.only_second, "p": self.p}


def compare(
    first: Resamples, second: Resamples, values: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> dict[str, Difference]:
    """Compare two models by resamples of the same rows with the same seed; undefined statistics are left out.

    The p-value is the bootstrap's: twice the smaller share of resamples in which the difference is at most, or at
    least, zero, counted with the sample itself (Efron and Tibshirani 1993, 15.4; Davison and Hinkley 1997, 4.2.5).

    Parameters
    ----------
    values : the statistics of the rows as they are, of either model
    """
    found = {}
    for name, draws in first.values.items():
        paired = draws - second.values[name]
        paired = paired[~np.isnan(paired)]
        if not len(paired) or values[0].get(name) is None or values[1].get(name) is None:
            continue
        # Different orders of summation differ in the last bits; such a difference does not count.
        paired[np.abs(paired) < 1e-12] = 0.0
        fewer = min(int((paired <= 0).sum()), int((paired >= 0).sum()))
        low, high = percentile_interval(paired)
        p = min(1.0, 2 * (fewer + 1) / (len(paired) + 1))
        found[name] = Difference(float(values[0][name] - values[1][name]), (low, high), p)
    return found


def mcnemar(
    first: Sequence[npt.NDArray[Any]], second: Sequence[npt.NDArray[Any]], labels: npt.NDArray[Any], task: Task
) -> McNemar:
    """Test by exact binomial whether one of two seed ensembles is right more often where they disagree (McNemar 1947).

    An ensemble decides by the mean of its seeds' probabilities. With several labels an image is right if all of its
    known ones are. Images count as independent here: where a patient has several, the intervals of `compare` say more.

    Parameters
    ----------
    first, second : logits (N, C) of each seed
    labels : (N,) class index, -1 unknown; or (N, C) of 0/1, 255 unknown
    """
    one, other = (_right(logits, labels, task) for logits in (first, second))
    only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
    apart = only_first + only_second
    # Both sides of a binomial of one half are alike.
    p = min(1.0, 2 * float(bdtr(min(only_first, only_second), apart, 0.5))) if apart else 1.0
    return McNemar(only_first, only_second, p)


def _right(logits: Sequence[npt.NDArray[Any]], labels: npt.NDArray[Any], task: Task) -> npt.NDArray[np.bool_]:
    """Return which images of known label an ensemble decides rightly, (N,) bool."""
    hit, counts = hits(np.mean([probabilities(one, task) for one in logits], axis=0), labels, task)
    return np.asarray(counts.any(1) & (hit | ~counts).all(1))
