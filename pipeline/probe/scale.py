"""Standardisation of features: mean and deviation over the fitted rows or over all of train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...cache.errors import TeacherError
from ...cache.format.digest import Rows, rows_per_block

__all__ = ["Scale", "measure_scale", "standardise"]

# A standard deviation this far below the mean is rounding: one float16 step (2⁻¹¹) in one of 10⁷ rows is more.
_CONSTANT = 1e-7
_BLOCK = 4096


class Scale(NamedTuple):
    """Mean and inverse standard deviation of each feature, (F,) float64.

    A constant feature has no information: its inverse is 0, and so is its weight.
    """

    mean: npt.NDArray[np.float64]
    inverse: npt.NDArray[np.float64]

    def apply(self, matrix: npt.NDArray[np.float32]) -> None:
        """Standardise (n, F) in place."""
        for start in range(0, len(matrix), _BLOCK):
            block = matrix[start : start + _BLOCK]
            block[:] = (block - self.mean) * self.inverse


def standardise(matrix: npt.NDArray[np.float32]) -> Scale:
    """Standardise (n, F) by itself, in place."""

    def blocks() -> Iterator[npt.NDArray[Any]]:
        return (matrix[start : start + _BLOCK] for start in range(0, len(matrix), _BLOCK))

    scale = _measure(blocks, *matrix.shape)
    scale.apply(matrix)
    return scale


def measure_scale(features: Rows) -> Scale:
    """Return the scale of all rows of features (N, F), read twice by slice.

    Rounded to float32, so that the order of rows, which moves the last bits of a float64 sum, hardly ever shows.
    """
    step = rows_per_block(features)

    def blocks() -> Iterator[npt.NDArray[Any]]:
        return (features[start : start + step] for start in range(0, features.shape[0], step))

    scale = _measure(blocks, features.shape[0], features.shape[1])
    return Scale(*(part.astype(np.float32).astype(np.float64) for part in scale))


def _measure(blocks: Callable[[], Iterator[npt.NDArray[Any]]], count: int, width: int) -> Scale:
    n_rows, zero = max(1, count), np.zeros(width)
    mean = sum((block.sum(0, dtype=np.float64) for block in blocks()), zero) / n_rows
    if not np.isfinite(mean).all():
        raise TeacherError(
            f"{int((~np.isfinite(mean)).sum())} of {len(mean)} features have values that are not finite; compute them "
            "with --precision fp32, and check the teacher's weights."
        )
    # Two passes: the difference of squares would lose every digit of a feature that hardly varies.
    variance = sum((np.square(block - mean).sum(0) for block in blocks()), zero) / n_rows
    deviation = np.sqrt(variance)
    varies = deviation > _CONSTANT * np.abs(mean)
    return Scale(mean, np.divide(1.0, deviation, out=zero.copy(), where=varies))
