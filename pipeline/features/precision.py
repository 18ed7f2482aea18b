"""Fast arithmetic, where it says what exact arithmetic says; and the batch that fits into the device's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from ...cache.errors import TeacherError
from ..datasets.columns.dataset import Dataset
from ..planning.rows import SplitRows
from ..teacher.teacher import IMAGES_AT_ONCE, OutOfMemory, Teacher, agreement
from ..threads import allowed_threads
from ..views.preprocessing import Preprocessing
from .loading import load_batch

__all__ = ["MIN_COSINE", "Halving", "default_batch_size", "fitting_batch_size", "trusted_precision"]

# bf16 must say what fp32 says, on images of this very run, to be used for it.
MIN_COSINE = 0.999
_SAMPLE = 8
# A GPU is filled by large batches, as many as fit. Of a CPU each thread takes a few images at a time.
_BATCH_SIZE, _BATCH_SIZE_CPU = {"cuda": 256}, 32


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
    return (teacher, wanted, cosine) if cosine >= MIN_COSINE else (reference, "fp32", cosine)


def default_batch_size(device: str) -> int:
    """Return how many images a forward pass takes where nobody says."""
    kind = torch.device(device).type
    return max(_BATCH_SIZE_CPU, IMAGES_AT_ONCE * allowed_threads()) if kind == "cpu" else _BATCH_SIZE.get(kind, 32)


def fitting_batch_size(teacher: Teacher, preprocessing: Preprocessing, batch_size: int) -> int:
    """Halve a batch size until the teacher's forward pass fits into the device's memory.

    Raises
    ------
    TeacherError
        Not even one image fits.
    """
    side = preprocessing.image_size
    while True:
        try:
            teacher.features(torch.zeros(batch_size, 3, side, side), preprocessing)
        except OutOfMemory as error:
            if batch_size == 1:
                raise TeacherError(
                    f"One image of {side} px does not fit into the memory of {teacher.device} beside teacher "
                    f"'{teacher.files.name}'; take a smaller --image-size or another --device."
                ) from error
            batch_size //= 2
        else:
            return batch_size


class Halving:
    """A teacher's forward pass that goes on where memory runs out: from there batches are forwarded in halves.

    Other programs may use the device too, so what fitted at the start need not fit for ever. The plan of chunks and
    batches stays as it is, as other processes and a resumed run follow it; but the sums of a bf16 batch of another size
    may have other last bits, so that it is told and written into the cache that it was done. It is for one chunk: the
    next is tried in whole batches again.

    Attributes
    ----------
    size : most images that are forwarded at once
    """

    def __init__(self, teacher: Teacher, preprocessing: Preprocessing, size: int) -> None:
        self.teacher, self._preprocessing, self.size = teacher, preprocessing, size

    def __call__(self, pixels: torch.Tensor) -> npt.NDArray[np.float32]:
        """Return features (B, F) float32 of (B, 3, S, S) float32 in 0…255.

        Raises
        ------
        OutOfMemory
            Not even one image fits.
        """
        while True:
            try:
                parts = [self.teacher.features(part, self._preprocessing) for part in torch.split(pixels, self.size)]
                return np.concatenate(parts)
            except OutOfMemory:
                if self.size == 1:
                    raise
            # Out of the handler, whose traceback holds what was allocated.
            self.size = max(1, min(self.size, len(pixels)) // 2)
            if self.teacher.device.type == "cuda":
                torch.cuda.empty_cache()
