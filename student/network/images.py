"""The student's pixels: a dataset's images at the student's input size, in memory where they fit, else streamed."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from math import prod
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...cache.errors import DataError, StudentError
from ...cache.machine.processes import find_unguarded_script
from ...cache.machine.processors import usable_processors
from ...pipeline.datasets.columns.dataset import Images
from ...pipeline.views.preprocessing import Resize
from ...pipeline.views.transforms import resize_images
from .resident import HeldImages, Resident, free_bytes, refuse_resident, settle_images

if TYPE_CHECKING:  # timm would double the time that a worker process takes to begin
    from .model import ModelSpec

__all__ = ["MEMORY_BYTES", "ImageStream", "PixelSource", "StudentImages", "choose_image_size", "load_images"]

# Above this, all splits together, images are decoded again in every epoch.
MEMORY_BYTES = 4 << 30
# What batches that are decoded ahead of time may take; one batch there must be.
_AHEAD_BYTES = 1 << 29
_SMALL, _ENLARGEMENT = 64, 4
_WEIGHED = 16
_WORKERS = 4

Rows = npt.NDArray[np.int64]
Pixels = npt.NDArray[Any]
Start = Literal["spawn", "fork"]


class PixelSource(Protocol):
    """Where batches of pixels come from."""

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield (B, 3, S, S) float32 in 0…255 for each array of positions."""
        ...


class StudentImages(Dataset[Pixels | str]):
    """A dataset's images as square arrays, (C, S, S): uint8 where the image is, else float32; C = 1 if grey.

    No tensors: DataLoader would send them through shared memory, of which containers have 64 MB unless told otherwise.
    """

    def __init__(self, images: Images, size: int, resize: Resize) -> None:
        self.images, self.size, self.resize = images, size, resize

    def __getitem__(self, row: int) -> Pixels | str:
        """Return an image, or the sentence that says why not: many are then reported at once."""
        try:
            image = self.images.read(row)
            pixels: Pixels = resize_images([image], self.size, self.resize).numpy()[0]  # (3, S, S)
        except DataError as error:
            return str(error)
        return pixels[: image.shape[2]].astype(np.uint8 if image.dtype == np.uint8 else np.float32)


class ImageStream:
    """Batches of images: from worker processes ahead of time, or from this one.

    Parameters
    ----------
    workers : number of processes besides this one; they live from the first pass to `close`
    image_bytes : what an image takes; bounds how many batches are decoded ahead, one by each process
    start : no option for users, as the images are the same. A fork has the locks of torch's, OpenMP's and CUDA's
        threads without the threads that would release them, so it may hang; to spawn costs a second or two, once a run.
    """

    def __init__(self, images: Dataset[Pixels | str], workers: int, image_bytes: float, start: Start = "spawn") -> None:
        self._images, self._workers, self._image_bytes, self._start = images, workers, image_bytes, start
        self._wanted: list[list[int]] = []
        self._loader: DataLoader[Any] | None = None
        self._passing = self._pass([])

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield (B, 3, S, S) float32 for each array of rows, or name all images of a batch that cannot be decoded.

        A pass that is left off ends when another begins.
        """
        self._passing.close()
        self._passing = self._pass([rows.tolist() for rows in batches])
        return self._passing

    def close(self) -> None:
        """End the processes; if an error came while they were waited for, once nobody holds its traceback."""
        self._passing.close()
        self._loader = None

    def _pass(self, wanted: list[list[int]]) -> Generator[Tensor, None, None]:
        for found in self._load(wanted):
            yield torch.stack([torch.from_numpy(pixels).float().expand(3, -1, -1) for pixels in _sound(found)])

    def _load(self, wanted: list[list[int]]) -> Iterator[list[Pixels | str]]:
        if not self._workers:
            return ([self._images[row] for row in rows] for rows in wanted)
        ahead = int(max(1, _AHEAD_BYTES // max(1, self._image_bytes * max(map(len, wanted), default=0))))
        if ahead < self._workers:
            self._loader, self._workers = None, ahead
        self._wanted[:] = wanted
        if self._loader is not None:
            return iter(self._loader)
        if self._start == "spawn" and (script := find_unguarded_script()):
            raise StudentError(
                f"'{script}' starts processes that read images, and each of them would run the script again from its "
                'first line. Put what the script does under `if __name__ == "__main__":`, or give workers=0.'
            )
        _try_semaphores(self._workers, self._start)
        with warnings.catch_warnings(), _interrupts_held():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than cores, as asked
            self._loader = DataLoader(
                self._images,
                batch_sampler=self._wanted,
                collate_fn=list,
                num_workers=self._workers,
                prefetch_factor=1,
                persistent_workers=True,
                multiprocessing_context=self._start,
                worker_init_fn=_end_with_parent,
                generator=torch.Generator(),  # torch's own is for dropout, which may not depend on who decodes
            )
            return iter(self._loader)


class SplitImages:
    """One split of a stream."""

    def __init__(self, stream: ImageStream, rows: Rows) -> None:
        self._stream, self._rows = stream, rows

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        return self._stream.batches([self._rows[positions] for positions in batches])


@contextmanager
def load_images(
    images: StudentImages,
    rows: Mapping[str, Rows],
    workers: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
    start: Start = "spawn",
    device: str = "cpu",
    resident: Resident = "auto",
) -> Iterator[dict[str, PixelSource]]:
    """Give a source of pixels for each split, as long as the context lasts.

    Parameters
    ----------
    rows : rows of the dataset, by split
    workers : processes that decode images when they are needed, 0 = this one; None = all images are decoded now if they
        fit into `memory_bytes` together, else by up to four processes
    device : where they are wanted
    resident : ``auto``: decoded images move there for good if they fit; ``on``: they must; ``off``: by the batch

    Raises
    ------
    DataError
        Images cannot be decoded; all of them are named.
    StudentError
        A worker process ended, or the images have to lie on the device and do not fit.
    """
    every = np.concatenate(list(rows.values()))
    shape, dtype = _weigh(images, every)
    held = _hold(images, every, shape, dtype, memory_bytes) if workers is None else None
    if held is not None:
        pixels = settle_images(torch.from_numpy(held), device, resident, free_bytes(device))
        parts = torch.split(pixels, [len(part) for part in rows.values()])
        del held  # else the host's copy would stay as long as the device's
        yield {split: HeldImages(part) for split, part in zip(rows, parts, strict=True)}
        return
    if resident == "on" and device != "cpu":
        refuse_resident(
            "they are decoded in every epoch, because --workers asks for it or they need over "
            f"{memory_bytes / 1e9:.1f} GB"
        )
    workers = min(_WORKERS, usable_processors()) if workers is None else workers
    try:
        with closing(ImageStream(images, workers, prod(shape) * dtype.itemsize, start)) as stream:
            yield {split: SplitImages(stream, part) for split, part in rows.items()}
    except RuntimeError as error:  # torch raises it wherever this process happens to be when a worker process ends
        if not str(error).startswith("DataLoader worker"):
            raise
        raise StudentError(
            "A process that reads images was killed or crashed, perhaps because memory ran out; finished epochs are "
            "kept. Run the same command with fewer --workers, or with --workers 0."
        ) from error


def _hold(
    images: StudentImages, rows: Rows, shape: tuple[int, ...], dtype: np.dtype[Any], memory_bytes: int
) -> Pixels | None:
    """Decode images into one array, (N, C, S, S), as wide as the widest one; None if that is more than may be taken.

    Parameters
    ----------
    shape, dtype : of an image, most likely; where one is wider, all become so
    """
    if len(rows) * prod(shape) * dtype.itemsize > memory_bytes:
        return None
    held: Pixels = np.empty((len(rows), *shape), dtype)
    bad: list[str] = []
    with ThreadPoolExecutor(usable_processors()) as pool:
        for place, pixels in enumerate(pool.map(images.__getitem__, rows.tolist())):
            if isinstance(pixels, str):
                bad.append(pixels)
                continue
            wide, kind = max(held.shape[1], len(pixels)), np.promote_types(held.dtype, pixels.dtype)
            if (wide, kind) != (held.shape[1], held.dtype):
                if len(rows) * wide * prod(shape[1:]) * kind.itemsize > memory_bytes:
                    pool.shutdown(cancel_futures=True)
                    return None
                held = np.broadcast_to(held, (len(rows), wide, *shape[1:])).astype(kind)
            held[place] = pixels  # a grey one in each channel
    _sound(bad)
    return held


def choose_image_size(typical: int, spec: ModelSpec, asked: int | None) -> int:
    """Return the side of the student's input: what is asked for, four times small images, else the model's own size."""
    if asked is not None:
        return asked
    if typical <= _SMALL and not spec.fixed_size:
        return _ENLARGEMENT * typical
    return spec.image_size


def _weigh(images: StudentImages, rows: Rows) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type that hold each of a few images, or a grey one if none of them can be decoded."""
    few = rows[np.linspace(0, len(rows) - 1, min(_WEIGHED, len(rows)), dtype=np.int64)]
    found = [pixels for pixels in map(images.__getitem__, few.tolist()) if not isinstance(pixels, str)]
    kind = np.result_type(np.uint8, *(pixels.dtype for pixels in found))
    return (max((len(pixels) for pixels in found), default=1), images.size, images.size), kind


def _sound(found: Sequence[Pixels | str]) -> list[Pixels]:
    if errors := [item for item in found if isinstance(item, str)]:
        raise DataError("\n".join(errors))
    return [item for item in found if not isinstance(item, str)]


def _end_with_parent(_worker: int) -> None:
    """End a worker process when its parent is killed: it would wait for ever for somebody to take its batch."""

    def end(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, args=[parent_process()], daemon=True).start()


def _try_semaphores(workers: int, start: Start) -> None:
    """Make the semaphores that workers will share with this process, and drop them: some containers have no room.

    What a DataLoader leaves that breaks off at its own prints a traceback.
    """
    try:
        made = [get_context(start).Semaphore() for _ in range(8 * (workers + 1))]
        del made
    except OSError as error:
        raise StudentError(
            f"Processes that read images cannot start: {error.strerror or error}. Probably '/dev/shm' is full, "
            "missing or read-only. Give --workers 0, or give a container more: docker run --shm-size 1g."
        ) from error


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back, which a terminal sends to every process: those begun within never hear of it, this one soon."""
    resource_tracker.ensure_running()  # its own start, within, would let it through again
    held: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    # Blocked for the children's sake, who inherit that; here, another thread may still be told, and tell the main one.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number)) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if held:
            signal.raise_signal(signal.SIGINT)
