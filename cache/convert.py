"""Changing form: the same arrays, the same manifest to the byte, the same seal."""

from __future__ import annotations

from pathlib import Path

from .errors import CacheMismatch
from .format.forms import form_of
from .making.life import holds_others, refuse_others
from .making.lock import locked
from .making.writer import put_back, write_cache
from .reader import Cache, open_cache

__all__ = ["convert"]

_BUSY = "wait until it is finished, or give another OUT"


def convert(source: Cache, target: Path, *, overwrite: bool = False) -> Cache:
    """Write a cache in another form; fields of the manifest that this medal does not know go along.

    Raises
    ------
    CacheMismatch
        Something is at `target` already, and `overwrite` is not set.
    CacheBusy
        Another process is making what goes there.
    CacheCorrupt
        The source is damaged.
    """
    form_of(target)
    with locked(target, wait=False, tell=lambda _: None, remedy=_BUSY):
        put_back(target)
        if target.exists() and not overwrite:
            raise CacheMismatch(f"'{target}' is there already; give another name, or --overwrite to replace it.")
        if holds_others(target):
            raise refuse_others(target)
        return _write(source, target)


def _write(source: Cache, target: Path) -> Cache:
    with source.open_arrays() as arrays:
        # The digests in the manifest are the source's: what is read wrong here does not verify there.
        return write_cache(target, arrays, source.manifest.raw)


def convert_path(source: str, target: str, *, overwrite: bool = False) -> Cache:
    """Convert by path; see `convert`."""
    return convert(open_cache(source), Path(target), overwrite=overwrite)
