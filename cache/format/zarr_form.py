"""A cache as a Zarr v3 directory: one group a split, `manifest.json` and `seal.json` beside `zarr.json`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore

from ..errors import CacheCorrupt, CacheIncomplete, CacheNotFound
from ..machine.drafts import sync_folder
from .digest import Rows, rows_per_block
from .forms import reading
from .layout import ArraySpec
from .manifest import MAX_BYTES
from .plain_files import read_plain
from .zarr_layout import MANIFEST, SEAL, padding_problems, survey

__all__ = ["open_arrays", "padding_problems", "read_seal", "survey", "write"]

# Large enough that a hundred thousand rows of features are some twenty files, small enough to stream.
_CHUNK_BYTES = 1 << 23
_SEAL_BYTES = 1 << 12


def write(path: Path, arrays: Mapping[str, Rows], manifest: bytes, seal: bytes) -> None:
    """Write a complete cache durably to a new folder, the seal last."""
    path.mkdir(parents=True)
    group = zarr.create_group(LocalStore(path))
    for name, rows in arrays.items():
        # The last chunk is stored whole. Of chunks of even length it is all but full, whereas full ones and a rest made
        # the cache of a million rows without features a fifth larger than its arrays.
        count = max(1, -(-rows.shape[0] // rows_per_block(rows, _CHUNK_BYTES)))
        step = max(1, -(-rows.shape[0] // count))
        array = group.create_array(
            name,
            shape=rows.shape,
            dtype=rows.dtype.newbyteorder("<"),
            # Features and logits do not compress; plain bytes can be read by any Zarr library.
            compressors=None,
            filters=None,
            chunks=(step, *(max(1, length) for length in rows.shape[1:])),
            fill_value=0,
            # A chunk that happens to be all zeros is written too: a missing one is then always damage.
            config={"write_empty_chunks": True},
        )
        for start in range(0, rows.shape[0], step):
            array[start : start + step] = rows[start : start + step]
    (path / MANIFEST).write_bytes(manifest)
    _sync_tree(path)
    with (path / SEAL).open("wb") as file:
        file.write(seal)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path)


def _sync_tree(path: Path) -> None:
    for folder, _, files in os.walk(path):
        for name in files:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


def read_seal(path: Path) -> tuple[bytes, bytes]:
    """Return the bytes of the seal and of the manifest."""
    if not path.exists():
        raise CacheNotFound(
            f"There is no cache at '{path}'; check the path, or make it: medal cache-teacher DATASET {path}"
        )
    with reading(path):
        if not path.is_dir():
            raise CacheCorrupt(f"Cache '{path}' should be a folder, because its name ends in .zarr, but it is not.")
        try:
            seal = read_plain(path / SEAL, _SEAL_BYTES, "seal")
        except FileNotFoundError as error:
            raise CacheIncomplete(
                f"Cache '{path}' has no seal: stage one has not finished it, or it was only partly copied. Run the "
                "same `medal cache-teacher` again, or get a complete copy."
            ) from error
        except CacheCorrupt as error:
            raise CacheCorrupt(f"Cache '{path}': {error}") from error
        try:
            return seal, read_plain(path / MANIFEST, MAX_BYTES, "manifest")
        except CacheCorrupt as error:
            raise CacheCorrupt(f"Cache '{path}': {error}") from error


@contextmanager
def open_arrays(path: Path, specs: Mapping[str, ArraySpec]) -> Iterator[Mapping[str, Rows]]:
    """Open arrays that a survey found sound, for reading by slice."""
    arrays: dict[str, Rows] = {}
    with reading(path):
        store = LocalStore(path, read_only=True)
        for name, spec in specs.items():
            array = zarr.open_array(store, path=name, mode="r", zarr_format=3)
            if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
                raise CacheCorrupt(f"Cache '{path}': array '{name}' is not {spec.dtype} of shape {spec.shape}.")
            arrays[name] = _ZarrRows(path, array)
    yield arrays


class _ZarrRows:
    """A Zarr array as `Rows`."""

    def __init__(self, path: Path, array: zarr.Array[Any]) -> None:
        self._path = path
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        with reading(self._path):
            return np.asarray(self._array[rows])
