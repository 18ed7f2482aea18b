"""The two forms of a cache, by suffix, and the one place where their libraries' errors become ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from ..errors import CacheCorrupt, CacheError, CacheNotFound, MedalError
from .digest import Rows
from .layout import ArraySpec

__all__ = ["SUFFIXES", "Form", "Survey", "device_failed", "form_of", "reading"]

# Suffix → module; imported when first needed, since zarr alone takes a third of a second.
SUFFIXES = {".zarr": "medal.cache.format.zarr_form", ".h5": "medal.cache.format.hdf5_form"}


@dataclass(frozen=True)
class Survey:
    """Result of a check of a cache's layout: problems as sentences, and the paths of the arrays without problems."""

    problems: tuple[str, ...]
    sound: tuple[str, ...]


class Form(Protocol):
    """How one backend puts arrays, manifest and seal on disk. Each is a module with these functions."""

    def write(self, path: Path, arrays: Mapping[str, Rows], manifest: bytes, seal: bytes) -> None:
        """Write a complete cache durably to an empty path, the seal last."""
        ...

    def read_seal(self, path: Path) -> tuple[bytes, bytes]:
        """Return the bytes of the seal and of the manifest, or raise CacheIncomplete."""
        ...

    def survey(self, path: Path, specs: Mapping[str, ArraySpec]) -> Survey:
        """Compare the files on disk with the layout that the specs imply, before any array is opened."""
        ...

    def open_arrays(self, path: Path, specs: Mapping[str, ArraySpec]) -> AbstractContextManager[Mapping[str, Rows]]:
        """Open arrays that a survey found sound, for reading by slice."""
        ...

    def padding_problems(self, path: Path, name: str, spec: ArraySpec) -> Iterator[str]:
        """Yield problems with bytes stored beyond an array's values; the array has passed the survey."""
        ...


def form_of(path: Path) -> Form:
    """Return the form that a path's suffix stands for."""
    module = SUFFIXES.get(path.suffix)
    if module is None:
        # What other tools call an HDF5 file.
        hdf5 = path.suffix.lower() in (".hdf5", ".hdf", ".he5")
        example = path.with_suffix(".h5").name if hdf5 else f"{path.name or 'cache'}.zarr"
        raise CacheError(
            f"'{path}' has no suffix that tells the form of the cache; end the name in {' or '.join(SUFFIXES)}, for "
            f"instance '{example}'."
        )
    return cast(Form, import_module(module))


# The disk or its server failed, not the cache: these must not make anybody recompute an intact cache.
_DEVICE_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENODEV", "ENXIO")
    if hasattr(errno, name)
)


def device_failed(error: OSError) -> bool:
    """Tell whether an error comes from the disk or its server, not from one file: a lost mount, for example."""
    return error.errno in _DEVICE_ERRORS - {errno.EIO}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever h5py, zarr or the file system raise while a cache is read into errors of our tree.

    libhdf5 reports damage as OSError, KeyError, ValueError, TypeError, RuntimeError and others; zarr likewise. Only
    wrap calls into those libraries: errors in a caller's own code are not errors of the cache.
    """
    try:
        yield
    except MedalError:
        raise
    except FileNotFoundError as error:
        if not path.exists():
            raise CacheNotFound(
                f"There is no cache at '{path}'; check the path, or make it: medal cache-teacher DATASET {path}"
            ) from error
        raise CacheCorrupt(
            f"Cache '{path}' lacks a part: {_sentence(error)}. Get a new copy, or make it again."
        ) from error
    except PermissionError as error:
        raise CacheError(f"Cache '{path}' may not be read: {_sentence(error)}. Ask its owner for access.") from error
    except MemoryError as error:
        raise CacheError(
            f"Cache '{path}' needs more memory than there is: {_sentence(error)}. Read it on a larger machine."
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DEVICE_ERRORS:
            raise CacheError(
                f"Cache '{path}' could not be read completely: {_sentence(error)}. The disk or file server failed; "
                "try again when it works."
            ) from error
        raise CacheCorrupt(
            f"Cache '{path}' cannot be read: {_sentence(error)}. Get a new copy, or make it again."
        ) from error


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
