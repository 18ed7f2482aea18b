"""Features: every image once through the frozen teacher, chunk by durable chunk."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..cache.errors import DataError
from ..cache.work import WorkDirectory
from .datasets.dataset import Dataset
from .preprocessing import Preprocessing
from .rows import SplitRows
from .teacher import Teacher, agreement
from .views import VIEW_PARAMETERS, quadrant_means, resize_images

__all__ = ["Batch", "Computed", "compute_features", "count_rows", "plan_batches", "trusted_precision"]

# Batches decoded ahead of the forward pass: enough to ride out one slow file, few enough to stay small in memory.
_AHEAD = 3
_BATCHES_PER_CHUNK = 8
# bf16 must say what fp32 says, on images of this very run, to be used for it.
_MIN_COSINE = 0.999
_SAMPLE = 8


@dataclass(frozen=True)
class Batch:
    """A fixed slice of a split's sorted rows; the last of a split is short and padded to full size for the forward."""

    split: str
    start: int
    stop: int
    chunk: int


@dataclass
class Computed:
    """What a pass over the images did."""

    files: dict[tuple[str, int], Path]
    images: int = 0
    kept: int = 0
    seconds: float = 0.0
    bad: list[str] = field(default_factory=list)


def plan_batches(rows: Mapping[str, SplitRows], batch_size: int) -> list[Batch]:
    """Partition the sorted rows into forward batches and these into chunks: the same whoever computes them."""
    chunk_rows = batch_size * _BATCHES_PER_CHUNK
    return [
        Batch(split, start, min(start + batch_size, len(part)), start // chunk_rows * chunk_rows)
        for split, part in rows.items()
        for start in range(0, len(part), batch_size)
    ]


def count_rows(rows: Mapping[str, SplitRows], batch_size: int, chunks: Mapping[tuple[str, int], Path]) -> int:
    """Return how many images the finished chunks hold."""
    return sum(
        batch.stop - batch.start for batch in plan_batches(rows, batch_size) if (batch.split, batch.chunk) in chunks
    )


def record_dtype(feature_dim: int) -> np.dtype[Any]:
    """Return the dtype of one durable row: its feature, view parameters and view check, of the canonical view."""
    return np.dtype(
        [
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
    done: Mapping[tuple[str, int], Path],
    batch_size: int,
    advance: Callable[[int], None],
) -> Computed:
    """Send what is not durable yet through the teacher.

    After a first unreadable image nothing more is computed, but all the others are still read, so that the list of
    bad images is whole.

    Parameters
    ----------
    done : the chunks of `work` that are durable already, as its listing said

    Raises
    ------
    TeacherError
        The teacher's output is not finite.
    """
    result = Computed(files=dict(done), kept=count_rows(rows, batch_size, done))
    todo = [batch for batch in plan_batches(rows, batch_size) if (batch.split, batch.chunk) not in done]
    waiting: list[npt.NDArray[Any]] = []
    begun = time.monotonic()
    for index, (batch, (pixels, problems)) in enumerate(_load_ahead(dataset, rows, todo, preprocessing)):
        result.bad += problems
        if result.bad:
            continue
        waiting.append(_forward(batch, pixels, teacher, preprocessing, batch_size))
        result.images += batch.stop - batch.start
        following = todo[index + 1] if index + 1 < len(todo) else None
        if following is None or (following.split, following.chunk) != (batch.split, batch.chunk):
            file = work.write_chunk(batch.split, batch.chunk, np.concatenate(waiting))
            result.files[batch.split, batch.chunk] = file
            waiting = []
        advance(batch.stop - batch.start)
    result.seconds = time.monotonic() - begun
    return result


def _forward(
    batch: Batch, pixels: torch.Tensor, teacher: Teacher, preprocessing: Preprocessing, batch_size: int
) -> npt.NDArray[Any]:
    count = batch.stop - batch.start
    if count < batch_size:
        # A bf16 batch of another size can change a feature's last bits, so the last one is filled up.
        pixels = torch.cat([pixels, pixels[-1:].expand(batch_size - count, -1, -1, -1)])
    features = teacher.features(pixels, preprocessing)  # (batch_size, F)
    record = np.zeros(count, record_dtype(features.shape[1]))
    record["feature"][:, 0] = features[:count]
    record["view_check"][:, 0] = quadrant_means(pixels[:count]).numpy()
    return record


def _load_ahead(
    dataset: Dataset, rows: Mapping[str, SplitRows], batches: Sequence[Batch], preprocessing: Preprocessing
) -> Iterator[tuple[Batch, tuple[torch.Tensor, list[str]]]]:
    """Decode and resize a few batches ahead of whoever takes them."""
    queue: deque[tuple[Batch, Future[tuple[torch.Tensor, list[str]]]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as readers, ThreadPoolExecutor(1) as assembler:
        try:
            for batch in batches:
                source = rows[batch.split].source[batch.start : batch.stop]
                queue.append((batch, assembler.submit(_load, dataset, source, preprocessing, readers)))
                if len(queue) > _AHEAD:
                    first, loaded = queue.popleft()
                    yield first, loaded.result()
            while queue:
                first, loaded = queue.popleft()
                yield first, loaded.result()
        finally:
            for _, loaded in queue:
                loaded.cancel()


def _load(
    dataset: Dataset, source: npt.NDArray[np.int64], preprocessing: Preprocessing, readers: ThreadPoolExecutor
) -> tuple[torch.Tensor, list[str]]:
    def read(row: int) -> npt.NDArray[Any] | str:
        try:
            return dataset.images.read(row)
        except DataError as error:
            # A file system that fails is no bad image: what is done is kept, and another try may succeed. Pillow's own
            # complaints are OSErrors as well, but without a number.
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                raise error.__cause__ from error
            return str(error)

    images = list(readers.map(read, source.tolist()))
    problems = [image for image in images if isinstance(image, str)]
    good = [image for image in images if not isinstance(image, str)]
    if problems:
        return torch.empty(0), problems
    return resize_images(good, preprocessing.image_size, preprocessing.resize), []


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
        pixels, problems = _load(dataset, sample, preprocessing, reader)
    if problems:
        # The pass over all images lists every bad one; until then the faster arithmetic is as good a guess as any.
        return teacher, wanted, None
    cosine = agreement(teacher.features(pixels, preprocessing), reference.features(pixels, preprocessing))
    return (teacher, wanted, cosine) if cosine >= _MIN_COSINE else (reference, "fp32", cosine)
