"""The student's pixels: a dataset's images at the student's input size, in memory where they fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..cache.errors import DataError
from ..pipeline.datasets.dataset import Images
from ..pipeline.preprocessing import Resize
from ..pipeline.views import resize_images
from .model import ModelSpec

__all__ = ["MEMORY_BYTES", "PixelSource", "StudentImages", "choose_image_size", "load_images", "typical_side"]

# Above this, images are decoded again in every epoch, by worker processes.
MEMORY_BYTES = 4 << 30
_SMALL, _ENLARGEMENT = 64, 4
_SIZES_READ = 32
_WORKERS = 4

Rows = npt.NDArray[np.int64]


class PixelSource(Protocol):
    """Where batches of pixels come from."""

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield (B, 3, S, S) float32 in 0…255 for each array of positions."""
        ...


class StudentImages(Dataset[Any]):
    """Some rows of a dataset as square tensors, (C, S, S): uint8 where the image is, else float32; C = 1 if grey."""

    def __init__(self, images: Images, rows: Rows, size: int, resize: Resize) -> None:
        self.images, self.rows, self.size, self.resize = images, rows, size, resize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Tensor | DataError:
        """Return an image, or the error that says why not: many are then reported at once."""
        try:
            image = self.images.read(int(self.rows[position]))
            pixels = resize_images([image], self.size, self.resize)[0]  # (3, S, S)
        except DataError as error:
            return error
        if image.shape[2] == 1:
            pixels = pixels[:1]
        return pixels.to(torch.uint8) if image.dtype == np.uint8 else pixels.clone()


class MemoryImages:
    """Images that were decoded once."""

    def __init__(self, pixels: list[Tensor]) -> None:
        self._pixels = pixels

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        for positions in batches:
            yield _stack([self._pixels[position] for position in positions])


class StreamedImages:
    """Images that are decoded whenever they are needed, by worker processes."""

    def __init__(self, images: StudentImages, workers: int) -> None:
        self._images, self._workers = images, workers

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        wanted = [positions.tolist() for positions in batches]
        yield from map(
            _stack, DataLoader(self._images, batch_sampler=wanted, num_workers=self._workers, collate_fn=list)
        )


def load_images(images: StudentImages, memory_bytes: int = MEMORY_BYTES) -> PixelSource:
    """Return a source of these images: decoded now if they fit into `memory_bytes`, else when needed.

    Raises
    ------
    DataError
        Images cannot be decoded; all of them are named.
    """
    if len(images) * 3 * images.size**2 > memory_bytes:
        return StreamedImages(images, min(_WORKERS, os.cpu_count() or 1))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return MemoryImages(_sound(list(pool.map(images.__getitem__, range(len(images))))))


def typical_side(images: Images, rows: Rows) -> int:
    """Return the median longer side, in pixels, of the first few rows."""
    sides = [max(images.read(int(row)).shape[:2]) for row in rows[:_SIZES_READ]]
    return int(np.median(sides))


def choose_image_size(typical: int, spec: ModelSpec, asked: int | None) -> int:
    """Return the side of the student's input: what is asked for, four times small images, else the model's own size."""
    if asked is not None:
        return asked
    if typical <= _SMALL and not spec.fixed_size:
        return _ENLARGEMENT * typical
    return spec.image_size


def _sound(found: Sequence[Tensor | DataError]) -> list[Tensor]:
    errors = [str(item) for item in found if isinstance(item, DataError)]
    if errors:
        raise DataError("\n".join(errors))
    return [item for item in found if isinstance(item, Tensor)]


def _stack(found: Sequence[Tensor | DataError]) -> Tensor:
    """Return (B, 3, S, S) float32."""
    return torch.stack([pixels.float().expand(3, -1, -1) for pixels in _sound(found)])
