"""Images in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import DataError
from ...cache.keys import array_key
from .dataset import Intensity
from .intensity import REMEDY, float_range, scale, stretch

__all__ = ["ArrayImages", "value_range"]

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class ArrayImages:
    """Stacks of images, one after the other.

    Attributes
    ----------
    stacks : name → (N, H, W) or (N, H, W, 1 or 3)
    levels : values that are black and white in all of them; None = uint8 already
    what : the dataset, for messages
    """

    stacks: dict[str, Pixels]
    what: str
    levels: tuple[float, float] | None = None
    intensity: Intensity = "declared"

    def __len__(self) -> int:
        return sum(map(len, self.stacks.values()))

    def key(self, row: int) -> bytes:
        name, index = self._place(row)
        return array_key(self.stacks[name][index])

    def read(self, row: int) -> Pixels:
        name, index = self._place(row)
        image: Pixels = self.stacks[name][index]
        image = image if image.ndim == 3 else image[:, :, None]
        if self.intensity == "minmax":
            return stretch(image, self.describe(row))
        if self.levels is None:
            return np.array(image, np.uint8)  # a copy: nobody can change the stack
        return scale(image, *self.levels)

    def describe(self, row: int) -> str:
        name, index = self._place(row)
        return f"image {index} of '{name}' in {self.what}"

    def _place(self, row: int) -> tuple[str, int]:
        index = row
        for name, stack in self.stacks.items():
            if 0 <= index < len(stack):
                return name, index
            index -= len(stack)
        raise IndexError(row)


def value_range(stacks: Sequence[Pixels], what: str) -> tuple[float, float] | None:
    """Return the values that are black and white in stacks of one dtype, None where they are 0…255 in integers.

    uint16 is scaled by its full range. Whole numbers of other types must be 8-bit values; floating-point ones are taken
    as 0…1 or as 0…255, the same for all images.

    Raises
    ------
    DataError
        The values have no range that could be known.
    """
    dtypes = {stack.dtype for stack in stacks}
    if len({dtype.newbyteorder("=") for dtype in dtypes}) != 1:
        raise DataError(f"{what} has images of several types ({', '.join(sorted(map(str, dtypes)))}); expected one.")
    dtype = next(iter(dtypes))
    if dtype == np.uint8:
        return None
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind == "u" and dtype.itemsize == 2:
        return 0.0, 65535.0
    if dtype.kind not in "iuf":
        raise DataError(f"{what} has images of type {dtype}; expected uint8, uint16 or floating point.")
    filled = [stack for stack in stacks if stack.size]
    low = min((float(stack.min()) for stack in filled), default=0.0)
    high = max((float(stack.max()) for stack in filled), default=0.0)
    if dtype.kind == "f":
        return float_range(low, high, what)
    if low < 0 or high > 255:
        raise DataError(
            f"{what} has {dtype} pixels from {low:g} to {high:g}, whose range cannot be known; expected 0…255 or "
            f"uint16: convert them, or {REMEDY}."
        )
    return None
