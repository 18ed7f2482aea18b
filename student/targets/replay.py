"""The replay check: stored views, made again here, are the views that the teacher saw."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from ...cache.errors import CacheMismatch
from ...cache.machine.processors import usable_processors
from ...cache.progress import Progress
from ...pipeline.datasets.columns.dataset import Images
from ...pipeline.views.preprocessing import Preprocessing
from ...pipeline.views.transforms import apply_views, quadrant_means, resize_images
from .load import SplitTargets

__all__ = ["TOLERANCE", "check_replay"]

# Of a quarter's mean in 0…1: what other builds of the same arithmetic leave; another transform leaves more.
TOLERANCE = 0.5 / 255
_SAMPLE, _BATCH = 64, 16


def check_replay(
    images: Images, part: SplitTargets, preprocessing: Preprocessing, progress: Progress, *, every: bool
) -> int:
    """Apply stored views to images at the teacher's size and compare quarters of them with what stage one wrote down.

    Parameters
    ----------
    part : the train split, with its stored views
    every : all rows, rather than a sample spread over them

    Returns
    -------
    Number of images that were checked

    Raises
    ------
    CacheMismatch
        A view comes out otherwise.
    """
    count = len(part)
    rows = np.arange(count) if every else np.linspace(0, count - 1, min(_SAMPLE, count), dtype=np.int64)
    wrong: list[int] = []
    worst = 0.0
    with progress("replay check", len(rows), 0) as advance, ThreadPoolExecutor(usable_processors()) as readers:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            found = list(readers.map(images.read, part.row[batch].tolist()))
            pixels = resize_images(found, preprocessing.image_size, preprocessing.resize)  # (B, 3, S, S)
            off = _distances(pixels, part, batch)
            wrong += batch[off > TOLERANCE].tolist()
            worst = max(worst, float(off.max()))
            advance(len(batch))
    if wrong:
        raise CacheMismatch(
            f"{len(wrong)} of {len(rows)} images have other views here than the teacher saw, for example "
            f"{images.describe(int(part.row[wrong[0]]))} (off by {worst * 255:.1f} of 255 in the mean of a quarter). "
            "This version of medal transforms images differently from the one that made the cache: make the cache "
            "again, or train with --targets canonical."
        )
    return len(rows)


def _distances(pixels: torch.Tensor, part: SplitTargets, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return for each image the largest distance of a quarter's mean over its views, (B,)."""
    off = np.zeros(len(rows), np.float32)
    for view in range(part.view.shape[1]):
        seen = quadrant_means(apply_views(pixels, torch.from_numpy(part.view[rows, view]))).numpy()  # (B, 4)
        off = np.maximum(off, np.abs(seen - part.view_check[rows, view]).max(1))
    return off
