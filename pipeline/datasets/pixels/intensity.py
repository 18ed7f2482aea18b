"""Grey levels: how values deeper than 8 bits become 0…255."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError

__all__ = ["float_range", "scale", "stretch"]

REMEDY = "use --intensity minmax to scale each image by its own minimum and maximum"


def scale(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.float32]:
    """Map low…high to 0…255 as float32; what lies outside is clipped."""
    factor = 255.0 / (high - low)
    scaled = (values.astype(np.float64) - low) * factor
    return np.clip(scaled, 0.0, 255.0).astype(np.float32)


def stretch(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.float32]:
    """Map an image's own minimum…maximum, over all its channels, to 0…255; an image of one value becomes 0.

    Raises
    ------
    DataError
        A value is not a number, or infinite.
    """
    low, high = float(values.min()), float(values.max())
    _require_finite(low, high, what)
    if high == low:
        return np.zeros(values.shape, np.float32)
    return scale(values, low, high)


def float_range(low: float, high: float, what: str) -> tuple[float, float]:
    """Return the range that floating-point pixels from `low` to `high` are meant in: 0…1 or 0…255.

    Raises
    ------
    DataError
        They fit neither.
    """
    _require_finite(low, high, what)
    if low < 0 or high > 255:
        raise DataError(
            f"{what} has floating-point pixels from {low:g} to {high:g}; expected 0…1 or 0…255: rescale them, or "
            f"{REMEDY}."
        )
    return (0.0, 1.0) if high <= 1 else (0.0, 255.0)


def _require_finite(low: float, high: float, what: str) -> None:
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{what} has pixels that are not finite numbers; replace them before use.")
