"""Images in memory."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import cached_property
from mmap import ACCESS_READ, mmap
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import DupFd
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.keys import array_key
from ...views.preprocessing import Intensity, levels_of, window_levels
from ..columns.dataset import DatasetOptions, Deep, Place
from ..pixels.intensity import REMEDY, float_range, float_scale, scale, stretch, type_range

__all__ = ["ArrayImages", "Stack", "choose_levels"]

Pixels = npt.NDArray[Any]

_ALIGNMENT = 64
# An array that ends here is meant to end at 1, and one that ends there is not.
_LITTLE_BEYOND_1, _LEAST_OF_255 = 1.25, 32.0


class StoredStack(Protocol):
    """Images that are not in memory: rows are read when they are asked for, in any process."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Pixels: ...


Stack = Pixels | StoredStack


@dataclass(frozen=True)
class ArrayImages:
    """Stacks of images, one after the other.

    Attributes
    ----------
    stacks : name → (N, H, W) or (N, H, W, 1 or 3)
    levels : values that are black and white in all of them; None = uint8 already
    what : the dataset, for messages
    declared : what they would be by the type and the values alone, as far as nobody has chosen them
    """

    stacks: dict[str, Stack]
    what: str
    levels: tuple[float, float] | None = None
    intensity: Intensity = "declared"
    declared: tuple[float, float] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.stacks.values()))

    def key(self, row: int) -> bytes:
        name, index = self._place(row)
        return array_key(self.stacks[name][index])

    def remembering(self) -> AbstractContextManager[ArrayImages]:
        # They are in memory already, and hashed faster than looked up.
        return nullcontext(self)

    def read(self, row: int) -> Pixels:
        name, index = self._place(row)
        image: Pixels = self.stacks[name][index]
        image = image if image.ndim == 3 else image[:, :, None]
        if self.intensity == "minmax":
            return stretch(image, self.describe(row))
        if self.levels is None:
            return np.array(image, np.uint8)  # a copy: nobody can change the stack
        return scale(image, *self.levels)

    def deep(self, row: int) -> Deep | None:
        if self.levels is None:
            return None
        name, index = self._place(row)
        return Deep(self.stacks[name][index], self.declared)

    def with_intensity(self, intensity: Intensity) -> ArrayImages:
        told = None if self.levels is None else levels_of(intensity)
        return replace(self, intensity=intensity, levels=told or self.levels)

    def describe(self, row: int) -> str:
        name, index = self._place(row)
        return f"image {index} of '{name}' in {self.what}"

    def locate(self, row: int) -> Place:
        name, index = self._place(row)
        return Place(array=name, row=index)

    def _place(self, row: int) -> tuple[str, int]:
        index = row
        for name, stack in self.stacks.items():
            if 0 <= index < len(stack):
                return name, index
            index -= len(stack)
        raise IndexError(row)

    def __getstate__(self) -> dict[str, Any]:
        state = {part.name: getattr(self, part.name) for part in fields(self)}
        # Gigabytes would else be sent to every worker process, and lie in the memory of each.
        held = [stack for stack in self.stacks.values() if isinstance(stack, np.ndarray)]
        return state if get_spawning_popen() is None or not held else state | {"stacks": self._mapped}

    @cached_property
    def _mapped(self) -> _MappedStacks:
        return _MappedStacks({name: np.asarray(stack) for name, stack in self.stacks.items()}, self.what)


class _MappedStacks:
    """Stacks in a file without a name, which goes with its last user; a process that is sent them maps that file.

    A file of the temporary folder, and not shared memory, because containers have 64 MB of that unless told otherwise.
    """

    def __init__(self, stacks: Mapping[str, Pixels], what: str) -> None:
        self._places: dict[str, tuple[int, str, tuple[int, ...]]] = {}
        try:
            with tempfile.TemporaryFile() as file:
                file.write(bytes(_ALIGNMENT))  # an empty file could not be mapped
                for name, stack in stacks.items():
                    self._places[name] = (file.tell(), stack.dtype.str, stack.shape)
                    file.write(np.ascontiguousarray(stack).reshape(-1).view(np.uint8).data)
                    file.write(bytes(-file.tell() % _ALIGNMENT))
                file.flush()
                self._number = os.dup(file.fileno())
        except OSError as exc:
            size = sum(stack.nbytes for stack in stacks.values())
            raise DataError(
                f"The images of {what} cannot be laid out for worker processes in a temporary file: {exc.strerror}. "
                f"Set TMPDIR to a folder with room for {size} bytes, or give --workers 0."
            ) from exc
        weakref.finalize(self, os.close, self._number)

    def __reduce__(self) -> tuple[Callable[..., dict[str, Pixels]], tuple[Any, ...]]:
        return _map_stacks, (DupFd(self._number), self._places)


def _map_stacks(duplicate: Any, places: Mapping[str, tuple[int, str, tuple[int, ...]]]) -> dict[str, Pixels]:
    with os.fdopen(duplicate.detach(), "rb") as file:
        content = mmap(file.fileno(), 0, access=ACCESS_READ)
    return {name: np.ndarray(shape, dtype, content, offset) for name, (offset, dtype, shape) in places.items()}


def choose_levels(
    stacks: Mapping[str, Stack], options: DatasetOptions, what: str
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Return the values that are black and white in stacks of one type, and those that type and values declare.

    Both are None where the stacks are 0…255 in whole numbers. A window or two values named go before what is declared.

    Raises
    ------
    DataError
        The stacks are of several types or of none that holds images, or their values have no range that could be known;
        or there is a window, and they have no more than 8 bits.
    """
    dtypes = {stack.dtype for stack in stacks.values()}
    if len({dtype.newbyteorder("=") for dtype in dtypes}) != 1:
        raise DataError(f"{what} has images of several types ({', '.join(sorted(map(str, dtypes)))}); expected one.")
    dtype = next(iter(dtypes))
    if dtype.kind not in "biuf":
        raise DataError(f"{what} has images of type {dtype}; expected uint8, uint16 or floating point.")
    if options.window is not None and dtype.itemsize == 1:
        raise DataError(f"{what} has no image of more than 8 bits for --window ({dtype}); leave that option out.")
    told = levels_of(options.intensity) if options.window is None else window_levels(options.window)
    if told is not None and dtype.itemsize > 1:
        return told, None
    # What has 8 bits need not be looked at, and may not be in memory.
    held = {name: np.asarray(stack) for name, stack in stacks.items() if len(stack)} if dtype != np.uint8 else {}
    filled = list(held.values())
    if dtype.kind == "f" and len(filled) > 1:
        _check_one_scale(held, what)
    if dtype.kind == "f" and options.intensity == "auto" and filled:
        within = all(stack.min() >= 0 and stack.max() <= 1 for stack in filled)
        return (0.0, float_scale(filled, what)), (0.0, 1.0 if within else 255.0)
    levels = value_range(filled, dtype, what)
    return levels, levels


def _check_one_scale(stacks: Mapping[str, Pixels], what: str) -> None:
    """Refuse floating-point splits of which some are on the scale 0…1 and others on 0…255."""
    highest = {name: float(stack.max()) for name, stack in stacks.items()}
    small = [name for name, high in highest.items() if 0 < high <= _LITTLE_BEYOND_1]
    large = [name for name, high in highest.items() if high >= _LEAST_OF_255]
    if small and large:
        raise DataError(
            f"{what} has floating-point pixels of up to {highest[small[0]]:g} in '{small[0]}' and of up to "
            f"{highest[large[0]]:g} in '{large[0]}'; expected one scale in all splits: rescale them."
        )


def value_range(stacks: Sequence[Pixels], dtype: np.dtype[Any], what: str) -> tuple[float, float] | None:
    """Return the values that are black and white in stacks of a type, None where they are 0…255 in whole numbers.

    Whole numbers of 16 bits and more, and signed ones of 8, span their type, unless none is beyond 255; floating-point
    ones are taken as 0…1 or as 0…255, the same for all images.

    Raises
    ------
    DataError
        The values have no range that could be known.
    """
    if dtype == np.uint8:
        return None
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind == "u" and dtype.itemsize == 2:
        return 0.0, 65535.0
    low = min((float(stack.min()) for stack in stacks), default=0.0)
    high = max((float(stack.max()) for stack in stacks), default=0.0)
    if dtype.kind == "f":
        return float_range(low, high, what)
    if low >= 0 and high <= 255:
        return None
    if low < 0 and dtype.itemsize > 1:
        raise DataError(
            f"{what} has {dtype} pixels from {low:g} to {high:g}, whose range cannot be known; expected 0…255 or "
            f"uint16: convert them, {REMEDY}."
        )
    return type_range(dtype)
