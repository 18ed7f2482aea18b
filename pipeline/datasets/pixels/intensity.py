"""Grey levels: how values deeper than 8 bits become 0…255."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError

__all__ = ["REMEDY", "float_range", "float_scale", "require_finite", "scale", "stretch", "type_range"]

REMEDY = (
    "name the values that are black and white with --intensity LOW,HIGH, or use --intensity minmax to scale each image "
    "by its own minimum and maximum"
)

# Lanczos, the kernel that overshoots most, brings an edge of 0 and 1 to −0.2 and 1.2. A set with many pixels beyond its
# scale is on another one; one that ends far below 255 was never meant for it.
_OVERSHOOT, _MOST_BEYOND, _LEAST_WHITE = 0.25, 0.02, 8.0


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
    require_finite(low, high, what)
    if high == low:
        return np.zeros(values.shape, np.float32)
    return scale(values, low, high)


def type_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the least and the greatest whole number that a type holds."""
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def float_range(low: float, high: float, what: str) -> tuple[float, float]:
    """Return the range that floating-point pixels from `low` to `high` are meant in: 0…1 or 0…255.

    Raises
    ------
    DataError
        They fit neither.
    """
    require_finite(low, high, what)
    if low < 0 or high > 255:
        raise DataError(
            f"{what} has floating-point pixels from {low:g} to {high:g}; expected 0…1 or 0…255: rescale them, {REMEDY}."
        )
    return (0.0, 1.0) if high <= 1 else (0.0, 255.0)


def float_scale(parts: Sequence[npt.NDArray[Any]], what: str) -> float:
    """Return the white, 1 or 255, that the floating-point images of one set are meant with; black is 0.

    A little beyond the scale is what resampling leaves there, and is clipped.

    Raises
    ------
    DataError
        They fit neither, or have values that are not finite.
    """
    low, high = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    require_finite(low, high, what)
    white = 1.0 if high <= 1 + _OVERSHOOT else 255.0
    if (white == 1 or high >= _LEAST_WHITE) and low >= -_OVERSHOOT * white and high <= (1 + _OVERSHOOT) * white:
        beyond = sum(int(np.count_nonzero((part < 0) | (part > white))) for part in parts)
        if beyond <= _MOST_BEYOND * sum(part.size for part in parts):
            return white
    raise DataError(
        f"{what} has floating-point pixels from {low:g} to {high:g}; expected 0…1 or 0…255: rescale them, {REMEDY}."
    )


def require_finite(low: float, high: float, what: str) -> None:
    """Refuse pixels of which the least or the greatest is not a number, or infinite."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{what} has pixels that are not finite numbers; replace them before use.")
