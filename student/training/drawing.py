"""Which images an epoch takes its steps on, in what order and at what rate: pure functions of keys, seed and step."""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from ..settings import StudentSettings
from ..targets.load import SplitTargets, labelled_rows, lacks_labels
from .imbalance import balanced_order

__all__ = ["draw_epoch", "epoch_order", "learning_rate", "split_batches"]

Rows = npt.NDArray[np.int64]


def draw_epoch(part: SplitTargets, settings: StudentSettings, epoch: int) -> list[tuple[Rows, Rows]]:
    """Return an epoch's batches: rows (B,), and how often each stood in the epoch before (B,).

    An epoch has as many places as there are rows. Where fewer of these have a label than `settings.labelled_share`
    asks for, that share of every batch goes to those that have one, again and again, and the others take turns over the
    epochs: as Mean Teacher's batches (Tarvainen & Valpola 2017, arXiv:1703.01780), so that few labels are not drowned.
    A student of the labels alone learns nothing from an image without one, and draws the others only, in as many steps.
    """
    count = len(part)
    share = settings.labelled_share if np.any(settings.soft_weight) else 1.0
    if not lacks_labels(part.label, share):
        rows = _stream(part, np.arange(count), count, settings, epoch)
    else:
        known, wanted = labelled_rows(part.label), round(share * count)
        others = np.setdiff1d(np.arange(count), known)
        streams = [_stream(part, known, wanted, settings, epoch)]
        streams += [_stream(part, others, count - wanted, settings, epoch)] if wanted < count else []
        # Side by side, each spread evenly over the epoch.
        places = np.concatenate([(np.arange(len(one)) + 0.5) / len(one) for one in streams])
        rows = np.concatenate(streams)[np.argsort(places, kind="stable")]
    before = _occurrences(rows)
    return [(rows[places], before[places]) for places in split_batches(np.arange(count), settings.batch_size)]


def _stream(part: SplitTargets, rows: Rows, wanted: int, settings: StudentSettings, epoch: int) -> Rows:
    """Return an epoch's section, (wanted,), of an endless stream of passes over `rows`, each in an order of its own."""
    start, stop = epoch * wanted, (epoch + 1) * wanted
    first, last = start // len(rows), -(-stop // len(rows))
    key, label = part.key[rows], part.label[rows]
    if settings.sampler == "balanced":
        passes = [balanced_order(key, label, settings.seed, turn) for turn in range(first, last)]
    else:
        passes = [epoch_order(key, settings.seed, turn) for turn in range(first, last)]
    begin = start - first * len(rows)
    return rows[np.concatenate(passes)[begin : begin + wanted]]


def _occurrences(rows: Rows) -> Rows:
    """Return how often each row stood before its place, (N,)."""
    order = np.argsort(rows, kind="stable")
    _, first, count = np.unique(rows[order], return_index=True, return_counts=True)
    before = np.empty(len(rows), np.int64)
    before[order] = np.arange(len(rows)) - np.repeat(first, count)
    return before


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
