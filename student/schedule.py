"""Order, batches and learning rate of a training: pure functions of seed, key, epoch and step."""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

__all__ = ["epoch_order", "learning_rate", "split_batches"]

Rows = npt.NDArray[np.int64]


def epoch_order(key: npt.NDArray[np.uint8], seed: int, epoch: int) -> Rows:
    """Return the shuffled positions of an epoch, (N,) int64: rows sorted by a hash of (seed, epoch, key).

    Parameters
    ----------
    key : (N, 16) uint8 in the cache's order
    """
    salt = f"{seed} {epoch}".encode()
    hashes = b"".join(blake2b(row.tobytes(), digest_size=8, key=salt).digest() for row in key)
    return np.argsort(np.frombuffer(hashes, "<u8"), kind="stable").astype(np.int64)


def split_batches(order: Rows, batch_size: int) -> list[Rows]:
    """Cut an order into batches that differ by one row at most.

    No row is dropped, and no batch has a single row, over which batch normalisation would have no variance.
    """
    count = max(1, min(math.ceil(len(order) / batch_size), len(order) // 2))
    return np.array_split(order, count)


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Return the rate of one step: linear from 0 to `peak` over `warmup` steps, then a cosine down to 0.

    Parameters
    ----------
    step : 0 … steps - 1
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
