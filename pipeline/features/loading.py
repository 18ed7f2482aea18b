"""Images into batches: decoded by threads, brought to the teacher's size, transformed into views, ahead of time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ...cache.errors import DataError
from ...cache.machine.processors import usable_processors
from ..datasets.columns.dataset import Dataset
from ..views.preprocessing import Preprocessing
from ..views.transforms import resize_images

__all__ = ["Loaded", "ahead_of_time", "load_batch", "read_image"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Batches prepared ahead of the forward pass: enough to ride out one slow file, few enough to stay small in memory.
_AHEAD = 3
_AHEAD_BYTES = 1 << 29


class Loaded(NamedTuple):
    """Of a batch: the images that can be used, (G, 3, S, S) float32 in 0…255, their places, and why others cannot."""

    pixels: torch.Tensor
    places: list[int]
    bad: dict[int, DataError]


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
    found = list(readers.map(partial(read_image, dataset), source.tolist()))
    bad = {place: image for place, image in enumerate(found) if isinstance(image, DataError)}
    good = {place: image for place, image in enumerate(found) if not isinstance(image, DataError)}
    if not good:
        return Loaded(torch.empty(0), [], bad)
    return Loaded(resize_images(list(good.values()), preprocessing.image_size, preprocessing.resize), list(good), bad)


def read_image(dataset: Dataset, row: int) -> npt.NDArray[Any] | DataError:
    """Decode an image, or return why it cannot be used."""
    try:
        return dataset.images.read(row)
    except DataError as error:
        # A file system that fails is no bad image: what is done is kept, and another try may succeed. Pillow's own
        # complaints are OSErrors as well, but without a number.
        if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
            raise error.__cause__ from error
        return error


def ahead_of_time(
    items: Sequence[Item], prepare: Callable[[Item, ThreadPoolExecutor], Result], item_bytes: int
) -> Iterator[tuple[Item, Result]]:
    """Prepare a few items ahead of whoever takes them, in their order.

    Parameters
    ----------
    prepare : called with an item and a pool of threads, one for each processor that this process may use
    item_bytes : what a prepared item takes; bounds how many wait
    """
    ahead = max(1, min(_AHEAD, _AHEAD_BYTES // max(1, item_bytes)))
    queue: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(usable_processors()) as readers, ThreadPoolExecutor(1) as assembler:
        try:
            for item in items:
                queue.append((item, assembler.submit(prepare, item, readers)))
                if len(queue) > ahead:
                    first, prepared = queue.popleft()
                    yield first, prepared.result()
            while queue:
                first, prepared = queue.popleft()
                yield first, prepared.result()
        finally:
            for _, prepared in queue:
                prepared.cancel()
