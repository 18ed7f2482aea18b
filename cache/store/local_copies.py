"""Verified local copies of caches in stores, in medal's folder: limited in size, least recently used deleted first."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from ..errors import CacheBusy, CacheError
from ..machine.eviction import make_room
from ..machine.home import home_folder
from ..making.lock import locked
from ..making.writer import remove
from ..progress import Progress
from ..reader import Cache
from .fetch import Trust, choose_signed, pull
from .place.entries import find_entries
from .place.layout import Entry
from .place.store import Store, open_store

__all__ = ["DEFAULT_BYTES", "copy_named", "local_copy", "parse_size", "resolve"]

DEFAULT_BYTES = 20 * 10**9
# What was used within the last hour may be in use still.
_IN_USE_SECONDS = 3600.0
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", re.ASCII)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``20GB`` or ``500M``.

    Raises
    ------
    CacheError
        It is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise CacheError(f"'{text}' is not a size; expected a number with k, M, G or T, for instance 20GB.")
    return int(float(match[1]) * 1000 ** " kMGT".index(match[2] or " "))


def local_copy(
    store: Store, entry: Entry, progress: Progress, *, most: int = DEFAULT_BYTES, trust: Trust | None = None
) -> Cache:
    """Return a verified copy of a store's cache, pulled if it is not there yet.

    Parameters
    ----------
    most : limit for the bytes of all copies
    trust : accepted signers, if a signature is required
    """
    target = _folder() / f"{entry.content_digest[:32]}-{entry.manifest_sha256[:16]}.zarr"
    target.parent.mkdir(parents=True, exist_ok=True)
    cache = pull(store, entry, target, progress, overwrite=True, trust=trust).cache
    os.utime(target)
    _evict(target, most)
    return cache


def _folder() -> Path:
    return home_folder() / "copies"


def _evict(keep: Path, most: int) -> None:
    """Remove the copies used longest ago until the rest fits."""
    copies = []
    for path in _folder().glob("*.zarr"):
        if not path.name.startswith("."):
            with suppress(FileNotFoundError):
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                copies.append((path.stat().st_mtime, size, path))

    def take(path: Path) -> bool:
        if path == keep or time.time() - path.stat().st_mtime <= _IN_USE_SECONDS:
            return False
        # Whoever is pulling it just now keeps it.
        with suppress(CacheBusy), locked(path, wait=False, tell=lambda _: None):
            remove(path)
            return True
        return False

    make_room(copies, most, take)


def resolve(text: str, progress: Progress, *, most: str | None = None, trust: Trust | None = None) -> str:
    """Return the path of a cache: for ``STORE#NAME`` a verified local copy, else the path as given.

    Raises
    ------
    CacheNotFound, CacheError, CacheCorrupt
        The store does not have it, or not as it was published.
    CacheMismatch
        It has no signature of a signer in `trust`.
    """
    url, hash_sign, name = text.rpartition("#")
    if not hash_sign or not url or not name or Path(text).exists():
        return text
    limit = DEFAULT_BYTES if most is None else parse_size(most)
    return str(copy_named(open_store(url), name, progress, most=limit, trust=trust).path)


def copy_named(store: Store, name: str, progress: Progress, *, most: int, trust: Trust | None = None) -> Cache:
    """Return a verified local copy of a cache by its name, or the beginning of its id; raises as `resolve` does."""
    store.check()
    return local_copy(store, choose_signed(store, find_entries(store, name), trust), progress, most=most, trust=trust)
