"""Features: every image once through the frozen teacher, chunk by durable chunk."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..cache.errors import DataError
from ..cache.work import Chunk, ChunkedRows, WorkDirectory
from .datasets.dataset import Dataset
from .preprocessing import Preprocessing
from .rows import SplitRows
from .teacher import Teacher, agreement
from .views import VIEW_PARAMETERS, quadrant_means, resize_images

__all__ = ["Batch", "Computed", "Loaded", "compute_features", "load_batch", "plan_batches", "trusted_precision"]

# Batches decoded ahead of the forward pass: enough to ride out one slow file, few enough to stay small in memory.
_AHEAD = 3
_BATCHES_PER_CHUNK = 8
# bf16 must say what fp32 says, on images of this very run, to be used for it.
_MIN_COSINE = 0.999
_SAMPLE = 8
_MOST_TOLD = 5


@dataclass(frozen=True)
class Batch:
    """A fixed slice of a split's sorted rows; the last of a split is short and padded to full size for the forward."""

    split: str
    start: int
    stop: int
    chunk: int


@dataclass
class Computed:
    """What a pass over the images did; `bad` says why some cannot be used, by split and row of the split."""

    chunks: dict[tuple[str, int], Chunk]
    bad: dict[tuple[str, int], DataError] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0


class Loaded(NamedTuple):
    """Of a batch: the images that can be used, (G, 3, S, S) float32 in 0…255, their places, and why others cannot."""

    pixels: torch.Tensor
    places: list[int]
    bad: dict[int, DataError]


def plan_batches(rows: Mapping[str, SplitRows], batch_size: int) -> list[Batch]:
    """Partition the sorted rows into forward batches and these into chunks: the same whoever computes them."""
    chunk_rows = batch_size * _BATCHES_PER_CHUNK
    return [
        Batch(split, start, min(start + batch_size, len(part)), start // chunk_rows * chunk_rows)
        for split, part in rows.items()
        for start in range(0, len(part), batch_size)
    ]


def record_dtype(feature_dim: int) -> np.dtype[Any]:
    """Return the dtype of one durable row: key, and feature, view parameters and view check of the canonical view."""
    return np.dtype(
        [
            ("key", "u1", (16,)),
            ("feature", "<f2", (1, feature_dim)),
            ("view", "<f4", (1, len(VIEW_PARAMETERS))),
            ("view_check", "<f4", (1, 4)),
        ]
    )


def compute_features(
    dataset: Dataset,
    rows: Mapping[str, SplitRows],
    teacher: Teacher,
    preprocessing: Preprocessing,
    work: WorkDirectory,
    done: Mapping[tuple[str, int], Chunk],
    batch_size: int,
    *,
    advance: Callable[[int], None],
    tell: Callable[[str], None],
) -> Computed:
    """Send what is not durable yet through the teacher; images that cannot be used are left out of their chunk.

    Parameters
    ----------
    done : the chunks of `work` that are durable already, as its listing said
    advance : called with how many more rows are dealt with
    tell : called with a sentence on each of the first few images that cannot be used, as soon as they are met

    Raises
    ------
    TeacherError
        The teacher's output is not finite.
    """
    batches = plan_batches(rows, batch_size)
    chunks, bad = _still_good(dataset, rows, batches, done)
    todo = [batch for batch in batches if (batch.split, batch.chunk) not in chunks]
    result = Computed(chunks=chunks, bad=bad)
    waiting = [np.empty(0, record_dtype(teacher.dim))]
    begun = time.monotonic()
    for index, (batch, loaded) in enumerate(_load_ahead(dataset, rows, todo, preprocessing)):
        for place, error in loaded.bad.items():
            if len(result.bad) < _MOST_TOLD:
                tell(f"warning: {error}")
            result.bad[batch.split, batch.start + place] = error
        if loaded.places:
            waiting.append(_forward(rows[batch.split].key[batch.start :], loaded, teacher, preprocessing, batch_size))
        result.images += len(loaded.places)
        following = todo[index + 1] if index + 1 < len(todo) else None
        if following is None or (following.split, following.chunk) != (batch.split, batch.chunk):
            chunk = work.write_chunk(batch.split, batch.chunk, np.concatenate(waiting))
            result.chunks[batch.split, batch.chunk] = chunk
            del waiting[1:]
        advance(batch.stop - batch.start)
    result.seconds = time.monotonic() - begun
    return result


def _still_good(
    dataset: Dataset, rows: Mapping[str, SplitRows], batches: Sequence[Batch], done: Mapping[tuple[str, int], Chunk]
) -> tuple[dict[tuple[str, int], Chunk], dict[tuple[str, int], DataError]]:
    """Return the finished chunks that lack nothing but images that still cannot be used, and why these cannot."""
    planned: Counter[tuple[str, int]] = Counter()
    for batch in batches:
        planned[batch.split, batch.chunk] += batch.stop - batch.start
    good: dict[tuple[str, int], Chunk] = {}
    bad: dict[tuple[str, int], DataError] = {}
    for (split, start), chunk in done.items():
        found: dict[tuple[str, int], DataError] = {}
        lacking = planned[split, start] - chunk.rows
        if lacking:
            there = {key.tobytes() for key in ChunkedRows([chunk], "key")[0 : chunk.rows]} if chunk.rows else set()
            for row in range(start, start + planned[split, start]):
                if rows[split].key[row].tobytes() not in there:
                    image = _read(dataset, int(rows[split].source[row]))
                    if isinstance(image, DataError):
                        found[split, row] = image
        if len(found) == lacking:
            good[split, start] = chunk
            bad |= found
        else:
            # What can be read by now is worth another pass over its chunk.
            chunk.file.unlink()
    return good, bad


def _forward(
    keys: npt.NDArray[np.uint8], loaded: Loaded, teacher: Teacher, preprocessing: Preprocessing, batch_size: int
) -> npt.NDArray[Any]:
    count = len(loaded.places)
    pixels = loaded.pixels
    if count < batch_size:
        # A bf16 batch of another size can change a feature's last bits, so a short one is filled up.
        pixels = torch.cat([pixels, pixels[-1:].expand(batch_size - count, -1, -1, -1)])
    features = teacher.features(pixels, preprocessing)  # (batch_size, F)
    record = np.zeros(count, record_dtype(features.shape[1]))
    record["key"] = keys[loaded.places]
    record["feature"][:, 0] = features[:count]
    record["view_check"][:, 0] = quadrant_means(pixels[:count]).numpy()
    return record


def _load_ahead(
    dataset: Dataset, rows: Mapping[str, SplitRows], batches: Sequence[Batch], preprocessing: Preprocessing
) -> Iterator[tuple[Batch, Loaded]]:
    """Decode and resize a few batches ahead of whoever takes them."""
    queue: deque[tuple[Batch, Future[Loaded]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as readers, ThreadPoolExecutor(1) as assembler:
        try:
            for batch in batches:
                source = rows[batch.split].source[batch.start : batch.stop]
                queue.append((batch, assembler.submit(load_batch, dataset, source, preprocessing, readers)))
                if len(queue) > _AHEAD:
                    first, loaded = queue.popleft()
                    yield first, loaded.result()
            while queue:
                first, loaded = queue.popleft()
                yield first, loaded.result()
        finally:
            for _, loaded in queue:
                loaded.cancel()


def load_batch(
    dataset: Dataset, source: npt.NDArray[np.int64], preprocessing: Preprocessing, readers: ThreadPoolExecutor
) -> Loaded:
    """Decode rows of a dataset with a pool of threads and bring them to the teacher's size.

    Parameters
    ----------
    source : (B,) int64 rows of the dataset

    Raises
    ------
    OSError
        The file system gave out, which says nothing of an image.
    """
    found = list(readers.map(partial(_read, dataset), source.tolist()))
    bad = {place: image for place, image in enumerate(found) if isinstance(image, DataError)}
    good = {place: image for place, image in enumerate(found) if not isinstance(image, DataError)}
    if not good:
        return Loaded(torch.empty(0), [], bad)
    return Loaded(resize_images(list(good.values()), preprocessing.image_size, preprocessing.resize), list(good), bad)


def _read(dataset: Dataset, row: int) -> npt.NDArray[Any] | DataError:
    """Decode an image, or return why it cannot be used."""
    try:
        return dataset.images.read(row)
    except DataError as error:
        # A file system that fails is no bad image: what is done is kept, and another try may succeed. Pillow's own
        # complaints are OSErrors as well, but without a number.
        if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
            raise error.__cause__ from error
        return error


def trusted_precision(
    dataset: Dataset,
    rows: Mapping[str, SplitRows],
    preprocessing: Preprocessing,
    wanted: str,
    load: Callable[[str], Teacher],
) -> tuple[Teacher, str, float | None]:
    """Load the teacher in the wanted precision if it says what fp32 says on a sample of this very run.

    Returns
    -------
    The teacher, the precision it has, and the smallest cosine to fp32 over the sample (None where fp32 was wanted).
    """
    teacher = load(wanted)
    if wanted == "fp32":
        return teacher, wanted, None
    reference = load("fp32")
    first = next(iter(rows.values()))
    sample = first.source[np.linspace(0, len(first) - 1, min(_SAMPLE, len(first)), dtype=np.int64)]
    with ThreadPoolExecutor(1) as reader:
        loaded = load_batch(dataset, sample, preprocessing, reader)
    if not loaded.places:
        # None of the sample can be read, so nothing speaks for the faster arithmetic.
        return reference, "fp32", None
    fast, exact = (model.features(loaded.pixels, preprocessing) for model in (teacher, reference))
    cosine = agreement(fast, exact)
    return (teacher, wanted, cosine) if cosine >= _MIN_COSINE else (reference, "fp32", cosine)
