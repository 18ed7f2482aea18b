"""The fixed partition of the rows: into chunks that become durable one by one, and these into forward batches.

Any process can compute a chunk on its own: the batches, and so the bytes, are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import DataError
from ..views.policies import VIEW_PARAMETERS
from .rows import SplitRows

__all__ = ["ChunkPlan", "ComputedChunk", "plan_chunks", "record_dtype"]

_BATCHES_PER_CHUNK = 8


@dataclass(frozen=True)
class ChunkPlan:
    """Rows `start` to `stop` of a split, taken by the forward pass `batch_size` at a time, the last filled up."""

    split: str
    start: int
    stop: int
    batch_size: int

    def __len__(self) -> int:
        return self.stop - self.start

    def batches(self) -> Iterator[slice]:
        """Yield the rows of each forward batch."""
        for start in range(self.start, self.stop, self.batch_size):
            yield slice(start, min(start + self.batch_size, self.stop))


@dataclass(frozen=True)
class ComputedChunk:
    """Result of a chunk.

    Attributes
    ----------
    records : (G,) of `record_dtype`, the rows whose images can be used
    bad : why the images of the other rows of the split cannot
    forwarded : most images that went through the teacher at once: fewer than a batch where memory ran out
    """

    plan: ChunkPlan
    records: npt.NDArray[Any]
    bad: Mapping[int, DataError] = field(default_factory=dict)
    forwarded: int | None = None


def plan_chunks(rows: Mapping[str, SplitRows], batch_size: int) -> list[ChunkPlan]:
    """Partition the sorted rows of each split."""
    step = batch_size * _BATCHES_PER_CHUNK
    return [
        ChunkPlan(split, start, min(start + step, len(part)), batch_size)
        for split, part in rows.items()
        for start in range(0, len(part), step)
    ]


def record_dtype(feature_dim: int, views: int, parameters: int = len(VIEW_PARAMETERS)) -> np.dtype[Any]:
    """Return the dtype of one durable row: its key, and for each view the feature, the parameters and the check."""
    return np.dtype(
        [
            ("key", "u1", (16,)),
            ("feature", "<f2", (views, feature_dim)),
            ("view", "<f4", (views, parameters)),
            ("view_check", "<f4", (views, 4)),
        ]
    )
