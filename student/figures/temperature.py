"""The temperature that calibrates a student's probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...pipeline.datasets.columns.dataset import Task
from ...pipeline.datasets.columns.units import find_units
from ...pipeline.metrics import Temperature, fit_temperature
from ..run.predictions import Predictions

__all__ = ["calibrate", "describe_temperature", "say_temperature"]


def calibrate(recorded: Mapping[str, Predictions], task: Task) -> Temperature:
    """Fit the temperature on a run's recorded val predictions; test has no part in it."""
    val = recorded.get("val")
    if val is None:
        return Temperature(1.0)
    return fit_temperature(val.logits, val.label, task, find_units(val.key, val.group))


def describe_temperature(temperature: Temperature) -> dict[str, Any]:
    """Return the temperature, where it comes from, and its warning, for JSON."""
    origin = "val predictions recorded in the run" if temperature.images else "nothing: the run has no val labels"
    return {**temperature.to_dict(), "fitted_on": origin, "warning": temperature.warning or None}


def say_temperature(temperature: Temperature) -> str:
    """Return the temperature with its interval and the images that it rests on."""
    if temperature.interval is None:
        return "Temperature 1, not fitted: the run has no val labels."
    low, high = temperature.interval
    said = (
        f"Temperature {temperature.value:g} (best fit {temperature.fitted:.3g}, 95 % {low:.3g} to {high:.3g}), from "
        f"{temperature.images} val predictions of the run"
    )
    return f"{said}; {temperature.warning}." if temperature.warning else f"{said}."
