"""Recognises unfinished caches and work folders by their content."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import MedalError
from ..format.forms import SUFFIXES
from ..format.plain_files import is_system
from .leftovers import Kind, inside
from .work import WorkDirectory, work_path

__all__ = ["CACHE"]

_WORK_SUFFIX = work_path(Path("x")).name.removeprefix("x")
_ZARR_FOLDER = re.compile(r"[a-z_]+|\d+")
# zarr writes each file under a name of its own first.
_ZARR_FILE = re.compile(r"(zarr|manifest|seal)\.json|\d+|(zarr|\d+)\.[0-9a-f]{32}\.partial")
# As `hdf5_form` has them, which would bring h5py in.
_HDF5_BLOCK = 1024
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def _is_cache_work(path: Path) -> bool:
    work = WorkDirectory(path)
    if Path(path.name.removesuffix(_WORK_SUFFIX)).suffix not in SUFFIXES or not _is_flat(path) or work.is_strange():
        return False
    settings = work.read_settings()
    return work.count()[0] > 0 or (settings is not None and "cache_id" in settings)


def _is_flat(path: Path) -> bool:
    """Tell whether a folder holds plain files alone: what is no file must not be opened, or taken for one."""
    with os.scandir(path) as entries:
        return all(
            entry.is_file(follow_symlinks=False) or is_system(entry.name, entry.stat(follow_symlinks=False).st_mode)
            for entry in entries
        )


def _is_cache_part(path: Path) -> bool:
    if path.suffix == _WORK_SUFFIX:
        return True  # as a work directory it holds nothing else
    if path.suffix == ".h5":
        return path.is_file() and _is_hdf5_part(path)
    return path.suffix == ".zarr" and path.is_dir() and all(map(_is_zarr_part, inside(path)))


def _is_zarr_part(path: Path) -> bool:
    if path.is_symlink():
        return False
    if is_system(path.name, path.stat().st_mode):
        return True
    if path.is_dir():
        return _ZARR_FOLDER.fullmatch(path.name) is not None
    return path.is_file() and _ZARR_FILE.fullmatch(path.name) is not None


def _is_hdf5_part(path: Path) -> bool:
    """Tell whether a file is an HDF5 cache as far as it was written: an empty or a filled user block, then HDF5."""
    with path.open("rb") as file:
        block, signature = file.read(_HDF5_BLOCK), file.read(len(_HDF5_SIGNATURE))
    if block.strip(b"\0") and not block.startswith(b'{"body_sha256":'):
        return False
    return not signature.strip(b"\0") or signature == _HDF5_SIGNATURE


def _is_cache(path: Path) -> bool:
    if path.suffix not in SUFFIXES:
        return False
    # Reading a cache brings in zarr or h5py, and only a replacement that was killed needs it.
    from ..reader import open_cache

    try:
        open_cache(path)
    except MedalError:
        return False
    return True


def _count_work(path: Path) -> Mapping[str, int]:
    chunks, images = WorkDirectory(path).count()
    return {"chunks": chunks, "images": images}


CACHE = Kind(
    work="work directory",
    suffix=_WORK_SUFFIX,
    last=None,
    is_work=_is_cache_work,
    is_part=_is_cache_part,
    is_finished=_is_cache,
    count=_count_work,
)
