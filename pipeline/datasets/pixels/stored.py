"""Values of more than 8 bits as a picture file stores them, and how they become 0…255."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ...views.preprocessing import Intensity
from .intensity import REMEDY, float_range, scale, stretch, type_range

__all__ = ["Range", "Stored", "range_of_type"]

Pixels = npt.NDArray[Any]


class Range(NamedTuple):
    """What a deep file says of its values.

    Attributes
    ----------
    low, high : the range of their type
    declared : white by their bits or by a tag, where all values fit into it
    inverted : whether 0 is white
    """

    low: float
    high: float
    declared: float | None = None
    inverted: bool = False


def range_of_type(dtype: np.dtype[Any], *, inverted: bool) -> Range:
    """Return the range of a type; floating-point numbers have none of their own."""
    return Range(0.0, 1.0, None, inverted) if dtype.kind == "f" else Range(*type_range(dtype), None, inverted)


class Stored(NamedTuple):
    """Deep values as they are stored.

    Attributes
    ----------
    values : (H, W, 1 or 3)
    range : what the file says of them
    alpha : (H, W, 1) in 0…1, None where all is opaque
    """

    values: Pixels
    range: Range
    alpha: Pixels | None = None

    def declared(self, what: str) -> tuple[float, float] | None:
        """Return what is black and white by what the file says; None where floating-point values fit no range."""
        low, high = float(self.values.min()), float(self.values.max())
        if self.values.dtype.kind == "f":
            try:
                return float_range(low, high, what)
            except DataError:
                return None
        if self.range.declared is not None and low >= 0 and high <= self.range.declared:
            return 0.0, self.range.declared
        return self.range.low, self.range.high

    def show(self, what: str, intensity: Intensity, levels: tuple[float, float] | None) -> npt.NDArray[np.float32]:
        """Scale to 0…255, (H, W, 1 or 3), where `levels` are None by what the file says."""
        if intensity == "minmax":
            pixels = stretch(self.values, what)
        elif levels is not None:
            pixels = scale(self.values, *levels)
        elif self.values.dtype.kind == "f":
            low, high = float(self.values.min()), float(self.values.max())
            pixels = scale(self.values, *float_range(low, high, what))
        else:
            pixels = self._by_bits(what)
        pixels = np.float32(255) - pixels if self.range.inverted else pixels
        return pixels if self.alpha is None else (pixels * self.alpha).astype(np.float32)

    def _by_bits(self, what: str) -> npt.NDArray[np.float32]:
        black_white = self.declared(what)
        assert black_white is not None  # noqa: S101 - whole numbers always have a range
        pixels = scale(self.values, *black_white)
        low, high = int(self.values.min()), int(self.values.max())
        if self.range.high > 0xFFFF and high > low and np.ptp(pixels) < 1:
            raise DataError(
                f"{what} has {8 * self.values.dtype.itemsize}-bit pixels from {low} to {high} and does not declare "
                "their range, so that it would come out as one grey; expected 8 or 16 bits, or a MaxSampleValue: "
                f"convert it, {REMEDY}."
            )
        return pixels
