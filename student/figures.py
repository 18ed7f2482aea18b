"""What a set of logits is worth on a split, as it stands in metrics.json."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..pipeline.metrics import bootstrap, reliability, score
from .targets import Targets

__all__ = ["figures"]


def figures(logits: npt.NDArray[np.float32], split: str, targets: Targets) -> dict[str, Any]:
    """Return scores, 95 % intervals (over patients where they are known) and calibration error, undefined ones None."""
    part = targets.splits[split]
    groups = part.group if (part.group >= 0).any() else None
    intervals = bootstrap(logits, part.label, targets.task, groups=groups).intervals()
    found = score(logits, part.label, targets.task, targets.classes).to_dict()
    found["ci95"] = {name: [_number(value) for value in pair] for name, pair in intervals.items()}
    found["calibration_error"] = _number(reliability(logits, part.label, targets.task).error)
    return found


def _number(value: float) -> float | None:
    return value if value == value else None  # noqa: PLR0124 - NaN is no JSON
