"""The student's pixels: a dataset's images at the student's input size, in memory where they fit, else streamed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..cache.errors import DataError, StudentError
from ..pipeline.datasets.dataset import Images
from ..pipeline.preprocessing import Resize
from ..pipeline.views import resize_images

if TYPE_CHECKING:  # timm would double the time that a worker process takes to begin
    from .model import ModelSpec

__all__ = [
    "MEMORY_BYTES",
    "HeldImages",
    "PixelSource",
    "SplitImages",
    "StreamedImages",
    "StudentImages",
    "choose_image_size",
    "load_images",
    "typical_side",
]

# Above this, all splits together, images are decoded again in every epoch.
MEMORY_BYTES = 4 << 30
# What batches that are decoded ahead of time may take; one batch there must be.
_AHEAD_BYTES = 1 << 29
_SMALL, _ENLARGEMENT = 64, 4
_SIZES_READ = 32
_WEIGHED = 16
_WORKERS = 4

Rows = npt.NDArray[np.int64]


class PixelSource(Protocol):
    """Where batches of pixels come from."""

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield (B, 3, S, S) float32 in 0…255 for each array of positions."""
        ...


class StudentImages:
    """A dataset's images as square tensors, (C, S, S): uint8 where the image is, else float32; C = 1 if grey."""

    def __init__(self, images: Images, size: int, resize: Resize) -> None:
        self.images, self.size, self.resize = images, size, resize

    def read(self, row: int) -> Tensor | str:
        """Return an image, or the sentence that says why not: many are then reported at once."""
        try:
            image = self.images.read(row)
            pixels = resize_images([image], self.size, self.resize)[0]  # (3, S, S)
        except DataError as error:
            return str(error)
        if image.shape[2] == 1:
            pixels = pixels[:1]
        return pixels.to(torch.uint8) if image.dtype == np.uint8 else pixels.clone()


class HeldImages:
    """Images that are decoded once, now.

    Raises
    ------
    DataError
        Images cannot be decoded; all of them are named.
    """

    def __init__(self, images: StudentImages, rows: Rows) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = _sound(list(pool.map(images.read, rows.tolist())))
        self._pixels = dict(zip(rows.tolist(), found, strict=True))

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield (B, 3, S, S) float32 for each array of rows."""
        for rows in batches:
            yield _stack([self._pixels[row] for row in rows.tolist()])


class StreamedImages:
    """Images that are decoded whenever they are needed: by worker processes ahead of time, or by this one.

    The processes live from the first pass to `close`, each decodes one batch at a time, and batches come in order
    whichever is ready first. No torch DataLoader: it draws from torch's generator, so that dropout would depend on
    whether images are streamed, and sends tensors through shared memory, of which containers have 64 MB unless told
    otherwise.

    Parameters
    ----------
    workers : number of processes besides this one
    image_bytes : what an image takes; bounds how many batches are decoded ahead
    start : how a process begins. A fork has the locks of torch's, OpenMP's and CUDA's threads without the threads that
        would release them, so it may hang. A spawned process begins afresh, which costs it a second or two, once a
        run. It is no option for users, as the images are the same.
    """

    def __init__(
        self, images: StudentImages, workers: int, image_bytes: float, start: Literal["spawn", "fork"] = "spawn"
    ) -> None:
        self._images, self._workers, self._image_bytes, self._start = images, workers, image_bytes, start
        self._readers: list[_Reader] = []
        self._under_way = False

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield (B, 3, S, S) float32 for each array of rows; a pass that is left off is over once another begins.

        Raises
        ------
        DataError
            Images cannot be decoded; all those of a batch are named.
        StudentError
            A worker process ended.
        """
        if not self._workers:
            for rows in batches:
                yield _stack([self._images.read(row) for row in rows.tolist()])
            return
        if self._under_way:
            self.close()  # answers to the other pass are still under way
        self._under_way = True
        readers: list[_Reader] = []
        for rows in batches[: self._ahead(batches)]:
            readers.append(self._reader(len(readers)))
            readers[-1].ask(rows)
        for number in range(len(batches)):
            reader = readers[number % len(readers)]
            found = reader.answer()
            if number + len(readers) < len(batches):
                reader.ask(batches[number + len(readers)])
            yield _stack(found)
        self._under_way = False

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for reader in self._readers:
            reader.end()
        self._readers, self._under_way = [], False

    def _ahead(self, batches: Sequence[Rows]) -> int:
        """Return how many batches are decoded at once."""
        batch_bytes = self._image_bytes * max(map(len, batches), default=0)
        return min(self._workers, int(max(1, _AHEAD_BYTES // max(1, batch_bytes))))

    def _reader(self, number: int) -> _Reader:
        if number == len(self._readers):
            self._readers.append(_Reader(self._images, self._start))
        return self._readers[number]


class SplitImages:
    """One split of images that are held or streamed."""

    def __init__(self, images: HeldImages | StreamedImages, rows: Rows) -> None:
        self._images, self._rows = images, rows

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        return self._images.batches([self._rows[positions] for positions in batches])


@contextmanager
def load_images(
    images: StudentImages,
    rows: Mapping[str, Rows],
    workers: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[dict[str, PixelSource]]:
    """Give a source of pixels for each split, as long as the context lasts.

    Parameters
    ----------
    rows : rows of the dataset, by split
    workers : processes that decode images when they are needed, 0 = this one; None = all images are decoded now if they
        fit into `memory_bytes` together, else by up to four processes

    Raises
    ------
    DataError
        Images cannot be decoded; all of them are named.
    """
    every = np.concatenate(list(rows.values()))
    image_bytes = _weigh(images, every)
    if workers is None and image_bytes * len(every) <= memory_bytes:
        held = HeldImages(images, every)
        yield {split: SplitImages(held, part) for split, part in rows.items()}
        return
    if workers is None:
        workers = min(_WORKERS, os.cpu_count() or 1)
    with closing(StreamedImages(images, workers, image_bytes)) as streamed:
        yield {split: SplitImages(streamed, part) for split, part in rows.items()}


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


def _weigh(images: StudentImages, rows: Rows) -> float:
    """Return the mean bytes of an image, as it is held, over a few rows; 0 if none of them can be decoded."""
    few = rows[np.linspace(0, len(rows) - 1, min(_WEIGHED, len(rows)), dtype=np.int64)]
    found = [pixels.nbytes for pixels in map(images.read, few.tolist()) if isinstance(pixels, Tensor)]
    return sum(found) / max(1, len(found))


def _sound(found: Sequence[Tensor | str]) -> list[Tensor]:
    errors = [item for item in found if isinstance(item, str)]
    if errors:
        raise DataError("\n".join(errors))
    return [item for item in found if isinstance(item, Tensor)]


def _stack(found: Sequence[Tensor | str]) -> Tensor:
    """Return (B, 3, S, S) float32."""
    return torch.stack([pixels.float().expand(3, -1, -1) for pixels in _sound(found)])


# ── Worker processes ─────────────────────────────────────────────────────────────────────────────────────────────


class _Reader:
    """A process that decodes images, a batch at a time."""

    def __init__(self, images: StudentImages, start: Literal["spawn", "fork"]) -> None:
        context: Any = get_context(start)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(images, theirs, self._pipe), daemon=True)
        with _interrupts_held():
            self._process.start()
        theirs.close()

    def ask(self, rows: Rows) -> None:
        """Have a batch decoded; the answer to the one before it has been taken."""
        try:
            self._pipe.send(rows)
        except OSError as error:
            raise self._death() from error

    def answer(self) -> list[Tensor | str]:
        """Wait for the batch that was asked for."""
        try:
            found = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        return [item if isinstance(item, str) else torch.from_numpy(item) for item in found]

    def end(self) -> None:
        """End the process at once; nothing that it holds is missed."""
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def _death(self) -> StudentError:
        self._process.join(1)
        return StudentError(
            f"A process that reads images ended with exit status {self._process.exitcode}; whole epochs are kept. "
            "Was there too little memory? Give the same command with fewer --workers, or with --workers 0."
        )


def _serve(images: StudentImages, pipe: Connection[Any, Any], theirs: Connection[Any, Any]) -> None:
    """Decode what is asked for until whoever asks is gone."""
    theirs.close()  # or its end would never be noticed
    torch.set_num_threads(1)  # there are as many processes as cores to use
    while True:
        try:
            rows = pipe.recv()
        except (EOFError, OSError):
            return
        found = [images.read(row) for row in rows.tolist()]
        try:
            # As arrays: tensors would go through shared memory.
            pipe.send([item if isinstance(item, str) else item.numpy() for item in found])
        except OSError:
            return


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
