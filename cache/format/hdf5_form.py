"""A cache as one HDF5 file; the user block at its start seals every byte after it.

The user block is 1024 bytes: one JSON object, a newline, zeros. `body_sha256` is checked before libhdf5, which is
no parser for damaged or hostile files, gets to see anything; and a body that is new to this machine is first
inspected in a child process (`hdf5_trust`).
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import CacheCorrupt, CacheIncomplete, CacheMismatch, CacheNotFound
from ..machine.drafts import sync_folder
from .digest import Rows, canonical_json, rows_per_block
from .forms import Survey, reading
from .hdf5_trust import ensure_trusted, trust
from .layout import SPLITS, ArraySpec
from .manifest import parse_format, parse_hex, parse_json

__all__ = ["open_arrays", "padding_problems", "read_seal", "survey", "write"]

USER_BLOCK = 1024
# Headers, links and alignment of one object; measured about 500 bytes with libhdf5 2.0.
_OBJECT_BYTES = 4096
# Files whose bodies this process has checked, so that each read of an array need not hash the whole file again.
_CHECKED_KEPT = 1024
_checked: set[tuple[int, ...]] = set()
_MANIFEST = "manifest"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NO_SEAL = (
    "Cache '{path}' has no seal: stage one has not finished it, or it is not a medal cache. Run the same `medal "
    "cache-teacher` again, or get a complete copy."
)


def write(path: Path, arrays: Mapping[str, Rows], manifest: bytes, seal: bytes) -> None:
    """Write a complete cache durably to a new file, the seal last."""
    with _Patient(path, "x+") as patient, h5py.File(patient, "w", userblock_size=USER_BLOCK) as file:
        for name, rows in arrays.items():
            dataset = file.create_dataset(name, shape=rows.shape, dtype=rows.dtype.newbyteorder("<"), track_times=False)
            step = rows_per_block(rows)
            for start in range(0, rows.shape[0], step):
                dataset[start : start + step] = rows[start : start + step]
                patient.check()
        file.create_dataset(_MANIFEST, data=np.frombuffer(manifest, np.uint8), track_times=False)
    patient.check()
    body = _body_sha256(path)
    block = canonical_json({"medal_cache": json.loads(seal), "body_sha256": body}) + b"\n"
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        file.write(block.ljust(USER_BLOCK, b"\0"))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    trust(body)


class _Patient(io.FileIO):
    """A file that hides a full disk from libhdf5, and keeps the error for later.

    libhdf5 cannot handle a failed write: its state becomes inconsistent, and the process ends with a segmentation
    fault, at the latest when Python exits.
    """

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        try:
            while left and self.failed is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.failed = error
        return len(memoryview(data).cast("B"))

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failed = self.failed or error
            return size or 0

    def check(self) -> None:
        """Raise the error of a failed write."""
        if self.failed is not None:
            raise self.failed


def _body_sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        file.seek(USER_BLOCK)
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_seal(path: Path) -> tuple[bytes, bytes]:
    """Return the bytes of the seal and of the manifest, after checking that the body is the sealed one."""
    if not path.exists():
        raise CacheNotFound(
            f"There is no cache at '{path}'; check the path, or make it: medal cache-teacher DATASET {path}"
        )
    with reading(path):
        block = _check_body(path)
        with h5py.File(path, "r") as file:
            return canonical_json(block["medal_cache"]), _dataset(file, _MANIFEST)[()].tobytes()


def _check_body(path: Path) -> dict[str, Any]:
    """Check a file as far as possible without opening it in this process; return its user block."""
    status = path.stat()
    # Opening a pipe would wait for ever.
    if not stat.S_ISREG(status.st_mode):
        raise CacheCorrupt(f"Cache '{path}' should be a file, because its name ends in .h5, but it is not.")
    block = _parse_user_block(path)
    body = _body_sha256(path)
    if body != parse_hex(block["body_sha256"], "body_sha256", 64):
        raise CacheCorrupt(
            f"Cache '{path}' is damaged: its bytes do not have the sealed SHA-256. Get a new copy, or make it again."
        )
    ensure_trusted(path, body)
    if len(_checked) >= _CHECKED_KEPT:
        _checked.clear()
    _checked.add(_identity(status))
    return block


def _identity(status: os.stat_result) -> tuple[int, ...]:
    # Neither name nor ctime: a cache that has been moved into place is still the one that was checked.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _parse_user_block(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        block = file.read(USER_BLOCK)
    if block.startswith(_SIGNATURE) or not block.strip(b"\0"):
        raise CacheIncomplete(_NO_SEAL.format(path=path))
    text, newline, padding = block.partition(b"\n")
    if not newline or len(block) < USER_BLOCK or padding.strip(b"\0"):
        raise CacheCorrupt(
            f"Cache '{path}' is damaged or not a medal cache: its user block is not one JSON line followed by zeros."
        )
    try:
        raw = parse_json(text, "user block")
        seal = raw.get("medal_cache")
        # First of all: a newer format may have another user block.
        if isinstance(seal, dict) and "format" in seal:
            parse_format(seal["format"], seal.get("medal"))
    except CacheMismatch as error:
        raise CacheMismatch(f"Cache '{path}': {error}") from error
    except CacheCorrupt as error:
        raise CacheCorrupt(f"Cache '{path}' is damaged or not a medal cache: {error}") from error
    if set(raw) != {"medal_cache", "body_sha256"} or not isinstance(seal, dict):
        raise CacheCorrupt(f"Cache '{path}': its user block should only hold medal_cache and body_sha256.")
    return raw


def survey(path: Path, specs: Mapping[str, ArraySpec]) -> Survey:
    """Compare the arrays of a file with those that its manifest implies."""
    with _open(path) as file:
        found = {f"{group}/{name}": file[group][name] for group in file if group != _MANIFEST for name in file[group]}
        problems = [f"Array '{name}' is missing." for name in sorted(set(specs) - set(found))]
        problems += [f"Array '{name}' does not belong to this cache." for name in sorted(set(found) - set(specs))]
        sound = []
        for name in sorted(set(specs) & set(found)):
            spec, dataset = specs[name], found[name]
            if dataset.shape == spec.shape and dataset.dtype == np.dtype(spec.dtype):
                sound.append(name)
            else:
                problems.append(
                    f"Array '{name}' should be {spec.dtype} of shape {spec.shape}, got {dataset.dtype} of "
                    f"shape {dataset.shape}."
                )
        values = sum(dataset.nbytes for dataset in found.values()) + file[_MANIFEST].nbytes
        bound = USER_BLOCK + values + _OBJECT_BYTES * (len(found) + len(SPLITS) + 3)
    size = path.stat().st_size
    if size > bound:
        problems.append(f"The file is {size} bytes long; expected at most {bound}: something is hidden in it.")
    return Survey(tuple(problems), tuple(sound))


@contextmanager
def open_arrays(path: Path, specs: Mapping[str, ArraySpec]) -> Iterator[Mapping[str, Rows]]:
    """Open arrays that a survey found sound, for reading by slice."""
    with _open(path) as file:
        with reading(path):
            arrays = {name: _Hdf5Rows(path, _dataset(file, name)) for name in specs}
        yield arrays


def padding_problems(path: Path, name: str, spec: ArraySpec) -> Iterator[str]:  # noqa: ARG001 - as every form
    """Yield nothing: a contiguous array has no padding, and the body's SHA-256 covers all the rest."""
    yield from ()


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    with reading(path):
        if _identity(path.stat()) not in _checked:
            _check_body(path)
        file = h5py.File(path, "r")
    with file:
        yield file


def _dataset(file: h5py.File, name: str) -> Any:
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise CacheCorrupt(f"'{name}' is no array in '{file.filename}'.")
    return found


class _Hdf5Rows:
    """An HDF5 dataset as `Rows`."""

    def __init__(self, path: Path, dataset: Any) -> None:
        self._path = path
        self._dataset = dataset
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        with reading(self._path):
            return np.asarray(self._dataset[rows])
