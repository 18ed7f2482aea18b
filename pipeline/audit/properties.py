"""Properties of an image without its pixels: its size and kind of file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...cache.errors import DataError
from ...cache.progress import Progress
from .subject import Subject

__all__ = ["Properties", "read_properties"]

# A file's size is not used: how well an image compresses depends on its content.
_NAMES = ("width", "height", "aspect", "channels", "depth", "format", "quantisation")
_THREADS, _STEP = 8, 64
# Pillow's modes of more than 8 bits a channel.
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_KINDS = ("", "PNG", "JPEG", "TIFF", "BMP")


class Properties(NamedTuple):
    """Names of the properties, and values (N, P) float64, NaN where one is not known."""

    names: tuple[str, ...]
    values: npt.NDArray[np.float64]


def read_properties(subject: Subject, rows: npt.NDArray[np.int64], progress: Progress) -> Properties:
    """Read the properties of rows that the dataset has; of usual pictures the headers alone, others are decoded."""

    def read(row: int) -> tuple[float, ...]:
        return _properties(subject, row)

    found: list[tuple[float, ...]] = []
    with ThreadPoolExecutor(_THREADS) as pool, progress("file properties", len(rows)) as advance:
        for start in range(0, len(rows), _STEP):
            part = rows[start : start + _STEP].tolist()
            found += pool.map(read, part)
            advance(len(part))
    return Properties(_NAMES, np.array(found, np.float64).reshape(-1, len(_NAMES)))


def _properties(subject: Subject, row: int) -> tuple[float, ...]:
    images, source = subject.dataset.images, int(subject.source[row])
    place = images.locate(source)
    folder = getattr(images, "folder", None)
    if place.file is not None and folder is not None and (header := _header(Path(folder) / place.file)) is not None:
        return header
    nothing = (np.nan,) * len(_NAMES)
    try:
        pixels = images.read(source)
    except DataError:
        return nothing
    height, width, channels = pixels.shape
    return (width, height, width / height, channels, 8.0 * pixels.dtype.itemsize, np.nan, np.nan)


def _header(path: Path) -> tuple[float, ...] | None:
    """Return the properties that a picture's header gives, None if Pillow does not know it."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            tables = getattr(image, "quantization", None) or {}
            # The mean step of a JPEG's first table: another camera or another export has another.
            steps = float(np.mean(next(iter(tables.values())))) if tables else 0.0
            depth = 16.0 if image.mode in _DEEP else 1.0 if image.mode == "1" else 8.0
            kind = _KINDS.index(image.format) if image.format in _KINDS else len(_KINDS)
            return (width, height, width / height, float(len(image.getbands())), depth, float(kind), steps)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
