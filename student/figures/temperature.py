"""The temperature that calibrates a student's probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...pipeline.datasets.columns.dataset import Task
from ...pipeline.metrics import fit_temperature, known
from ..run.predictions import Predictions

__all__ = ["Temperature", "calibrate"]


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by before they become probabilities.

    Attributes
    ----------
    value : 1 where no val prediction of the run has a known label
    images : val predictions of the run that it was fitted on
    """

    value: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Return the temperature and where it comes from, for JSON."""
        origin = "val predictions recorded in the run" if self.images else "nothing: the run has no val labels"
        return {"value": self.value, "images": self.images, "fitted_on": origin}


def calibrate(recorded: Mapping[str, Predictions], task: Task) -> Temperature:
    """Fit the temperature on a run's recorded val predictions; test has no part in it."""
    val = recorded.get("val")
    if val is None or not known(val.label, task).any():
        return Temperature(1.0, 0)
    labelled = known(val.label, task).reshape(len(val.label), -1).any(1)
    return Temperature(round(fit_temperature(val.logits, val.label, task), 4), int(labelled.sum()))
