"""PatchCamelyon's layout: images and labels in HDF5 files of their own, ``…train_x.h5`` and ``…train_y.h5``."""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import quoted
from ..columns.dataset import Dataset, DatasetOptions
from ..columns.splits import SPLIT_NAMES
from .array_layout import Pair, channels_last
from .arrays import Stack
from .npz import open_arrays

__all__ = ["hdf5_name", "is_hdf5", "open_hdf5"]

_SPLITS = "|".join(sorted(SPLIT_NAMES, key=len, reverse=True))
_FILE = re.compile(rf"(?P<set>.*?)(?:(?P<split>{_SPLITS})[_-])?(?P<what>[xy])\.(?P<suffix>h5|hdf5)", re.IGNORECASE)
_OPEN_FILES = 16

Array = npt.NDArray[Any]


def is_hdf5(spec: str) -> bool:
    """Tell whether a file of images or labels is named, beside which the other lies."""
    path = Path(spec)
    found = _FILE.fullmatch(path.name)
    return found is not None and path.is_file() and _other(path).is_file()


def hdf5_name(path: Path) -> str:
    """Return what the files of a set have in common in their names."""
    found = _FILE.fullmatch(path.name)
    name = found["set"] if found else path.stem
    return name.removesuffix("split_").strip("_-. ") or path.resolve().parent.name


def _other(path: Path) -> Path:
    """Return the file of labels beside one of images, or the other way round."""
    letter = path.stem[-1]
    other = {"x": "y", "y": "x", "X": "Y", "Y": "X"}[letter]
    return path.with_name(f"{path.stem[:-1]}{other}{path.suffix}")


def open_hdf5(path: Path, name: str, options: DatasetOptions, classes: Sequence[str] | None = None) -> Dataset:
    """Open the files of images and labels of all splits that lie beside one; images of 8 bits stay in their files.

    Raises
    ------
    DataError
        A file cannot be read, has not one array, or is without the other that belongs to it.
    """
    what = f"files '{path.parent / hdf5_name(path)}…'"
    pairs, stacks, labels = [], {}, {}
    for split, images in _files_beside(path, what):
        answers = _other(images)
        if not answers.is_file():
            raise DataError(f"There is no file '{answers}' with the labels of '{images.name}'; expected one beside it.")
        pairs.append(Pair(split, images.name, answers.name))
        stacks[images.name] = _stack(images)
        labels[answers.name] = np.asarray(_open(answers)[:])
    return open_arrays(name, stacks, pairs, labels, options, classes, what)


def _files_beside(path: Path, what: str) -> list[tuple[str | None, Path]]:
    """Return the files of images of a set with their splits, as train, val and test."""
    asked = _FILE.fullmatch(path.name)
    found: dict[str | None, Path] = {}
    for other in sorted(path.parent.iterdir()):
        match = _FILE.fullmatch(other.name)
        if match is None or asked is None or match["what"].lower() != "x" or match["set"] != asked["set"]:
            continue
        split = SPLIT_NAMES[match["split"].lower()] if match["split"] else None
        if (split is None) != (asked["split"] is None):
            continue
        if split in found:
            both = quoted([found[split].name, other.name])
            raise DataError(f"{what} has {both}, both of them {split or 'of no split'}; expected one file a split.")
        found[split] = other
    return sorted(found.items(), key=lambda item: ("train", "val", "test").index(item[0]) if item[0] else 0)


def _stack(path: Path) -> Stack:
    data = _open(path)
    usual = data.ndim == 3 or (data.ndim == 4 and data.shape[3] in (1, 3))
    if data.dtype == np.uint8 and usual and 0 not in data.shape[1:]:
        return Hdf5Stack(path)
    return channels_last(np.asarray(data[:]), path.name, f"file '{path}'")


class Hdf5Stack:
    """The images of a file, each read when it is asked for: a set may be larger than memory.

    Every process opens the file itself: of a handle that processes share, rows of others come back.
    """

    def __init__(self, path: Path) -> None:
        data = _open(path)
        self._path = path
        self.shape: tuple[int, ...] = tuple(data.shape)
        self.dtype: np.dtype[Any] = data.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> Array:
        try:
            return np.asarray(_open(self._path)[row])
        except OSError as exc:
            raise DataError(
                f"file '{self._path}' cannot be read at image {row} ({exc}); download it again.", "damaged"
            ) from exc

    @property
    def ndim(self) -> int:
        return len(self.shape)


class _Opened:
    """A file that is closed with the last user of its array, and the one array in it."""

    def __init__(self, path: Path) -> None:
        import h5py

        # Through a file of Python's, so that nothing is shared with what a process was forked from.
        raw = path.open("rb")
        weakref.finalize(self, raw.close)
        try:
            file = h5py.File(raw, "r")
            arrays = [item for item in file.values() if isinstance(item, h5py.Dataset)]
        except OSError as exc:
            raise DataError(f"file '{path}' is not an HDF5 file that can be read ({exc}); download it again.") from exc
        weakref.finalize(self, file.close)
        if len(arrays) != 1 or not arrays[0].ndim:
            raise DataError(f"file '{path}' holds {len(arrays)} arrays ({quoted(list(file))}); expected one.")
        self.array: Any = arrays[0]


def _open(path: Path) -> Any:
    status = path.stat()
    return _open_once(path, status.st_size, status.st_mtime_ns, os.getpid()).array


@lru_cache(_OPEN_FILES)
def _open_once(path: Path, _size: int, _modified: int, _process: int) -> _Opened:
    return _Opened(path)
