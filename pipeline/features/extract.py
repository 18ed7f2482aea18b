"""Features: every image once through the frozen teacher, chunk by durable chunk."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...cache.errors import DataError
from ...cache.making.work import Chunk, ChunkedRows, WorkDirectory
from ...cache.progress import Advance, Alert, Tell
from ..datasets.columns.dataset import Dataset
from ..planning.chunks import ChunkPlan, ComputedChunk, plan_chunks, record_dtype
from ..planning.rows import SplitRows
from ..teacher.teacher import Teacher
from ..views.policies import Views
from ..views.preprocessing import Preprocessing
from ..views.transforms import apply_views, quadrant_means
from .loading import Loaded, ahead_of_time, load_batch, read_image
from .precision import Halving

__all__ = ["Computed", "FeatureTask", "compute_chunks", "compute_features", "sort_out"]

_MOST_TOLD = 5
# Chunks that wait to be written: a disk that stumbles does not hold up the device, one that fails is soon noticed.
_WRITES = 2


@dataclass(frozen=True, kw_only=True)
class FeatureTask:
    """Everything beside the teacher that features depend on; any process that has it computes the same.

    Attributes
    ----------
    rows : of each split, what is to be computed, in the order of the cache
    """

    dataset: Dataset
    rows: Mapping[str, SplitRows]
    preprocessing: Preprocessing
    views: Views
    batch_size: int

    def plan(self) -> list[ChunkPlan]:
        """Return the chunks of all splits."""
        return plan_chunks(self.rows, self.batch_size)


@dataclass
class Computed:
    """What a pass over the images did.

    Attributes
    ----------
    bad : why some images cannot be used, by split and row of the split
    halved : fewest images that went through the teacher at once where a batch did not fit into memory; None = all did
    """

    chunks: dict[tuple[str, int], Chunk]
    bad: dict[tuple[str, int], DataError] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    halved: int | None = None


def compute_features(
    run: Callable[[Sequence[ChunkPlan]], Iterable[ComputedChunk]],
    todo: Sequence[ChunkPlan],
    work: WorkDirectory,
    tell: Tell = lambda _: None,
    halved: Callable[[int], None] = lambda _: None,
    look: Callable[[npt.NDArray[Any]], None] = lambda _: None,
) -> Computed:
    """Have chunks computed and make each durable, while the next is being computed.

    Parameters
    ----------
    run : computes chunks, here or elsewhere, in whatever order
    tell : called with a sentence on each of the first few images that cannot be used
    halved : called, before the chunk is durable, with how many images at once a chunk was forwarded in that ran out of
        memory with more, where that is fewer than ever
    look : called with the records of every chunk before it is durable; it may raise what ends the run
    """
    result = Computed(chunks={})
    begun = time.monotonic()
    writing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as writer:
        for done in run(todo):
            plan = done.plan
            for row, error in done.bad.items():
                if len(result.bad) < _MOST_TOLD:
                    tell(Alert(error))
                result.bad[plan.split, row] = error
            result.images += len(done.records)
            look(done.records)
            if done.forwarded is not None and done.forwarded < min(result.halved or plan.batch_size, plan.batch_size):
                result.halved = done.forwarded
                halved(done.forwarded)
            writing.append(writer.submit(_write, work, result.chunks, done))
            if len(writing) > _WRITES:
                writing.popleft().result()
        for write in writing:
            write.result()
    result.seconds = time.monotonic() - begun
    return result


def _write(work: WorkDirectory, chunks: dict[tuple[str, int], Chunk], done: ComputedChunk) -> None:
    chunks[done.plan.split, done.plan.start] = work.write_chunk(done.plan.split, done.plan.start, done.records)


def compute_chunks(
    task: FeatureTask, teacher: Teacher, plans: Sequence[ChunkPlan], advance: Advance = lambda _: None
) -> Iterator[ComputedChunk]:
    """Send chunks through the teacher; images that cannot be used are left out of their chunk.

    Parameters
    ----------
    advance : called with how many more rows are dealt with

    Raises
    ------
    TeacherError
        The teacher's output is not finite.
    OSError
        The file system gave out.
    """
    batches = [(plan, rows) for plan in plans for rows in plan.batches()]

    def prepare(item: tuple[ChunkPlan, slice], readers: ThreadPoolExecutor) -> tuple[Loaded, list[torch.Tensor]]:
        plan, rows = item
        part = task.rows[plan.split]
        loaded = load_batch(task.dataset, part.source[rows], task.preprocessing, readers)
        views = _views(task, plan, part.key[rows], loaded)
        # Page-locked, a GPU fetches it by itself and several times faster.
        return loaded, [view.pin_memory() for view in views] if teacher.device.type == "cuda" else views

    side = task.preprocessing.image_size
    batch_bytes = 4 * 3 * side * side * task.batch_size * task.views.count
    parts: list[npt.NDArray[Any]] = []
    bad: dict[int, DataError] = {}
    forward = Halving(teacher, task.preprocessing, task.batch_size)
    for (plan, rows), (loaded, views) in ahead_of_time(batches, prepare, batch_bytes):
        bad |= {rows.start + place: error for place, error in loaded.bad.items()}
        if loaded.places:
            parts.append(_forward(task, forward, plan, task.rows[plan.split].key[rows][loaded.places], views))
        advance(rows.stop - rows.start)
        if rows.stop == plan.stop:
            empty = np.empty(0, record_dtype(teacher.dim, task.views.of(plan.split)))
            yield ComputedChunk(plan, np.concatenate([empty, *parts]), bad, forward.size)
            parts, bad = [], {}
            forward = Halving(teacher, task.preprocessing, task.batch_size)


def _views(task: FeatureTask, plan: ChunkPlan, keys: npt.NDArray[np.uint8], loaded: Loaded) -> list[torch.Tensor]:
    """Return each view of a batch's images, (batch_size, 3, S, S): filled up, as a bf16 batch of another size can
    change a feature's last bits."""
    if not loaded.places:
        return []
    count, full = len(loaded.places), plan.batch_size
    params = torch.from_numpy(task.views.draw(plan.split, keys[loaded.places]))  # (G, V, P)
    views = [loaded.pixels, *(apply_views(loaded.pixels, params[:, view]) for view in range(1, params.shape[1]))]
    return views if count == full else [torch.cat([x, x[-1:].expand(full - count, -1, -1, -1)]) for x in views]


def _forward(
    task: FeatureTask, forward: Halving, plan: ChunkPlan, keys: npt.NDArray[np.uint8], views: Sequence[torch.Tensor]
) -> npt.NDArray[Any]:
    record = np.zeros(len(keys), record_dtype(forward.teacher.dim, task.views.of(plan.split)))
    record["key"] = keys
    record["view"] = task.views.draw(plan.split, keys)
    for view, pixels in enumerate(views):
        record["feature"][:, view] = forward(pixels)[: len(keys)]
        record["view_check"][:, view] = quadrant_means(pixels[: len(keys)]).numpy()
    return record


def sort_out(
    task: FeatureTask, done: Mapping[tuple[str, int], Chunk]
) -> tuple[dict[tuple[str, int], Chunk], dict[tuple[str, int], DataError]]:
    """Return the durable chunks that lack nothing but images that still cannot be used, and why these cannot.

    The others are removed: what can be read by now is worth another pass over its chunk.
    """
    good: dict[tuple[str, int], Chunk] = {}
    bad: dict[tuple[str, int], DataError] = {}
    planned = {(plan.split, plan.start): plan for plan in task.plan()}
    for (split, start), chunk in done.items():
        if (split, start) not in planned:
            chunk.file.unlink()
            continue
        plan, part = planned[split, start], task.rows[split]
        found: dict[tuple[str, int], DataError] = {}
        lacking = len(plan) - chunk.rows
        if lacking:
            there = {key.tobytes() for key in ChunkedRows([chunk], "key")[0 : chunk.rows]} if chunk.rows else set()
            for row in range(plan.start, plan.stop):
                if part.key[row].tobytes() not in there:
                    image = read_image(task.dataset, int(part.source[row]))
                    if isinstance(image, DataError):
                        found[split, row] = image
        if len(found) == lacking:
            good[split, start] = chunk
            bad |= found
        else:
            chunk.file.unlink()
    return good, bad
