"""A cache's arrays as one run of bytes, cut into parts; and parts as arrays again.

The bytes are those that the digests are of: all arrays in the order of their paths, each C-order and little-endian.
So what arrives meets no parser: lengths follow from the manifest, and SHA-256 says the rest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...format.digest import Rows, little_endian, rows_per_block
from ...format.layout import ArraySpec
from ...format.plain_files import read_plain
from .layout import PART_BYTES

__all__ = ["PartFiles", "array_bytes", "cut_parts"]


def array_bytes(spec: ArraySpec) -> int:
    """Return the length of an array."""
    return prod(spec.shape) * np.dtype(spec.dtype).itemsize


def cut_parts(arrays: Mapping[str, Rows], size: int = PART_BYTES) -> Iterator[bytes]:
    """Yield the bytes of all arrays, in parts of `size` bytes and a rest."""
    waiting = bytearray()
    for path in sorted(arrays):
        rows = arrays[path]
        step = rows_per_block(rows, size)
        for start in range(0, rows.shape[0], step):
            waiting += little_endian(rows[start : start + step]).tobytes()
            while len(waiting) >= size:
                yield bytes(waiting[:size])
                del waiting[:size]
    if waiting:
        yield bytes(waiting)


class PartFiles:
    """Parts in files of their own, read as the arrays that they hold.

    Parameters
    ----------
    files, sizes : the parts in order
    specs : of all arrays
    """

    def __init__(self, files: list[Path], sizes: list[int], specs: Mapping[str, ArraySpec]) -> None:
        self._files, self._sizes = files, sizes
        self._starts = [0, *accumulate(sizes)]
        ends = accumulate(array_bytes(specs[path]) for path in sorted(specs))
        self._offsets = dict(zip(sorted(specs), [0, *ends], strict=False))
        self._specs = specs
        self._last: tuple[int, bytes] = (-1, b"")

    def arrays(self) -> dict[str, Rows]:
        """Return the arrays, each read by slice."""
        return {path: _PartRows(self, self._offsets[path], spec) for path, spec in self._specs.items()}

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes of the whole run."""
        found = []
        index = bisect_right(self._starts, start) - 1
        while start < stop:
            part, offset = self._part(index), start - self._starts[index]
            piece = part[offset : offset + stop - start]
            found.append(piece)
            start += len(piece)
            index += 1
        return b"".join(found)

    def _part(self, index: int) -> bytes:
        if self._last[0] != index:
            self._last = (index, read_plain(self._files[index], self._sizes[index], "part"))
        return self._last[1]


class _PartRows:
    """An array within a run of bytes, as `Rows`."""

    def __init__(self, parts: PartFiles, offset: int, spec: ArraySpec) -> None:
        self._parts, self._offset = parts, offset
        self.shape: tuple[int, ...] = spec.shape
        self.dtype: np.dtype[Any] = np.dtype(spec.dtype).newbyteorder("<")
        self._row = self.dtype.itemsize * prod(spec.shape[1:])

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        data = self._parts.read(self._offset + start * self._row, self._offset + max(start, stop) * self._row)
        # A copy, which may be written to, and in the machine's own order.
        array: npt.NDArray[Any] = np.frombuffer(data, self.dtype).reshape(-1, *self.shape[1:])
        return array.astype(self.dtype.newbyteorder("="))
