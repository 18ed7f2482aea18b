"""Pulls caches: everything is checked before use, and an incomplete transfer is never visible."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import CacheCorrupt, CacheError, CacheMismatch, CacheNotFound
from ..format.digest import cache_id, canonical_json
from ..format.forms import form_of
from ..format.layout import FORMAT
from ..format.manifest import MAX_BYTES, Manifest, parse_manifest
from ..format.seal import Seal
from ..machine.drafts import write_file
from ..making.life import holds_others, refuse_others
from ..making.lock import locked
from ..making.writer import beside, put_back, remove, write_cache
from ..progress import Progress, Tell
from ..reader import Cache, open_cache
from ..verify import verify
from .place.entries import read_entries
from .place.layout import (
    LISTING,
    MANIFEST,
    PART_BYTES,
    SETS,
    SIGNATURE,
    SIGNATURES,
    Entry,
    Listing,
    parse_listing,
    parse_signatures,
    sha256_hex,
)
from .place.parts import PartFiles, array_bytes
from .place.store import Store
from .signing import check_signature, signature_path

__all__ = ["Pulled", "Trust", "choose_signed", "fetch", "pull", "read_keys", "read_manifest"]

_THREADS = 4
_SIGNATURE_BYTES = 1 << 14
_MOST_SIGNATURES = 16


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What a pull did: pulled the cache, or found the same one at the target."""

    cache: Cache
    action: Literal["pulled", "reuse"]


@dataclass(frozen=True)
class Trust:
    """Whose signatures count: a file of allowed signers, and one of revoked keys."""

    signers: Path
    revoked: Path | None = None


@dataclass(frozen=True)
class _Wanted:
    """A set whose manifest and listing have been checked against the entry, and against each other."""

    entry: Entry
    manifest: Manifest
    raw: dict[str, Any]
    listing: Listing


def pull(
    store: Store,
    entry: Entry,
    target: Path,
    progress: Progress,
    *,
    overwrite: bool = False,
    trust: Trust | None = None,
    tell: Tell = lambda _: None,
) -> Pulled:
    """Pull a cache to a target, or leave the target if it is the same cache.

    Raises
    ------
    CacheMismatch
        Something else is there, and `overwrite` is not set.
    CacheCorrupt, CacheNotFound, CacheError
        As `fetch`.
    """
    form_of(target)
    with locked(target, wait=True, tell=tell):
        put_back(target)
        if os.path.lexists(target):
            there = _same(target, entry)
            if there is not None:
                _check_trust(store, entry, target, trust)
                return Pulled(cache=there, action="reuse")
            if not overwrite:
                raise CacheMismatch(
                    f"'{target}' is another cache; give another OUT, or --overwrite to replace it when the new one is "
                    "complete."
                )
            if holds_others(target):
                raise refuse_others(target)
        return Pulled(cache=fetch(store, entry, target, progress, trust), action="pulled")


def _same(target: Path, entry: Entry) -> Cache | None:
    """Return the cache at a target if it is the one of an entry, and every byte of it is right."""
    with suppress(CacheError):
        cache = open_cache(target)
        if cache.seal.manifest_sha256 == entry.manifest_sha256 and not verify(cache):
            return cache
    return None


def fetch(store: Store, entry: Entry, target: Path, progress: Progress, trust: Trust | None = None) -> Cache:
    """Pull a cache to a target whose lock is held, in the form that its suffix names.

    Raises
    ------
    CacheCorrupt
        Something differs from what was published; nothing is kept.
    CacheNotFound
        It was withdrawn meanwhile.
    """
    form_of(target)
    try:
        return _fetch(store, entry, target, progress, trust)
    except CacheNotFound:
        if store.can_list and entry.name in {other.name for other in read_entries(store)[0]}:
            raise CacheCorrupt(
                f"Store '{store.url}' lacks parts of cache '{entry.cache_id}', which it lists; nothing was pulled. "
                "Tell whoever maintains the store, or push it again from a copy."
            ) from None
    again = next((other for other in read_entries(store)[0] if other.content == entry.content and other != entry), None)
    if again is None:
        remove(_folder(target))
        raise CacheNotFound(
            f"Cache '{entry.cache_id}' was removed from store '{store.url}' during the pull; nothing was pulled."
        )
    return _fetch(store, again, target, progress, trust)


def _folder(target: Path) -> Path:
    return beside(target, "pulling")


def _fetch(store: Store, entry: Entry, target: Path, progress: Progress, trust: Trust | None) -> Cache:
    signature = _check_trust(store, entry, None, trust)
    wanted = _describe(store, entry)
    folder = _folder(target)
    files = _fetch_parts(store, wanted, folder, progress)
    sizes = [size for _, size in wanted.listing.parts]
    try:
        cache = write_cache(target, PartFiles(files, sizes, wanted.manifest.arrays).arrays(), wanted.raw)
    except CacheCorrupt as error:
        raise CacheCorrupt(
            f"Cache '{entry.cache_id}' of store '{store.url}' does not match its manifest; nothing was pulled: {error}"
        ) from error
    finally:
        remove(folder)
    if signature is not None:
        write_file(signature_path(target), signature)
    return cache


def read_manifest(store: Store, entry: Entry) -> Manifest:
    """Return the manifest of an entry, checked against the digest in the entry."""
    return _describe(store, entry).manifest


class _StoreParts(PartFiles):
    """Parts that are read from the store when needed; each is checked, and only the last is kept."""

    def __init__(self, store: Store, wanted: _Wanted) -> None:
        super().__init__([], [size for _, size in wanted.listing.parts], wanted.manifest.arrays)
        self._store, self._wanted = store, wanted

    def _part(self, index: int) -> bytes:
        if self._last[0] != index:
            digest, size = self._wanted.listing.parts[index]
            name = f"{SETS}/{self._wanted.entry.set}/{digest}.part"
            self._last = (index, self._store.read_checked(name, digest, size))
        return self._last[1]


def read_keys(store: Store, entry: Entry) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the content keys (N, 16) uint8 of each split; only the parts with keys are fetched."""
    wanted = _describe(store, entry)
    arrays = _StoreParts(store, wanted).arrays()
    return {split: arrays[f"{split}/key"][0:rows] for split, rows in wanted.manifest.rows.items()}


def choose_signed(store: Store, entries: Sequence[Entry], trust: Trust | None) -> Entry:
    """Return the first entry with a signature of an allowed signer; if no signature is required, the first of all.

    Otherwise an unsigned entry that was published first would hide the signed ones.

    Raises
    ------
    CacheMismatch
        There is none.
    """
    refusals: list[CacheMismatch] = []
    for entry in entries:
        try:
            if trust is not None:
                _check_trust(store, entry, None, trust)
        except CacheMismatch as error:
            refusals.append(error)
        else:
            return entry
    raise refusals[0]


def _signatures(store: Store, entry: Entry) -> list[bytes]:
    """Return the signatures of an entry's set; where names cannot be listed, those of its list of them."""
    folder = f"{SETS}/{entry.set}"
    if store.can_list:
        names = [name for name in store.names(folder) if SIGNATURE.fullmatch(name)]
    else:
        try:
            names = parse_signatures(store.read(f"{folder}/{SIGNATURES}", _SIGNATURE_BYTES), "list of signatures")
        except CacheNotFound:
            names = []
    found = []
    for name in names[:_MOST_SIGNATURES]:
        with suppress(CacheNotFound):  # withdrawn just now
            found.append(store.read(f"{folder}/{name}", _SIGNATURE_BYTES))
    return found


def _check_trust(store: Store, entry: Entry, target: Path | None, trust: Trust | None) -> bytes | None:
    """Return a signature of a cache: one by an allowed signer if signers are given, else any.

    It is kept beside `target`, where that is given.
    """
    found = _signatures(store, entry)
    if trust is None:
        return found[0] if found else None
    seal = Seal(format=FORMAT, content_digest=entry.content_digest, manifest_sha256=entry.manifest_sha256).to_bytes()
    where = f"Cache '{entry.cache_id}' of store '{store.url}'"
    _, signature = check_signature(where, seal, found, trust.signers, trust.revoked)
    if target is not None:
        write_file(signature_path(target), signature)
    return signature


def _describe(store: Store, entry: Entry) -> _Wanted:
    """Read manifest and listing, and refuse them before anything large is fetched if they do not fit."""
    where = f"Cache '{entry.cache_id}' of store '{store.url}'"
    folder = f"{SETS}/{entry.set}"
    data = store.read_checked(f"{folder}/{MANIFEST}", entry.manifest_sha256, MAX_BYTES)
    listing_bytes = store.read_checked(f"{folder}/{LISTING}", entry.listing_sha256, MAX_BYTES)
    try:
        manifest = parse_manifest(data)
        listing = parse_listing(listing_bytes, "listing")
    except CacheCorrupt as error:
        raise CacheCorrupt(f"{where}: {error}") from error
    raw = dict(manifest.raw)
    if (manifest.cache_id, manifest.content_digest) != (entry.cache_id, entry.content_digest):
        raise CacheCorrupt(
            f"{where} was redirected: its entry leads to cache '{manifest.cache_id}' with content "
            f"'{manifest.content_digest[:12]}…'. Nothing was pulled; tell whoever maintains the store."
        )
    request = raw.get("request")
    if not isinstance(request, dict) or cache_id(request) != entry.cache_id:
        raise CacheCorrupt(f"{where} has the wrong id: its request gives another one. Nothing was pulled.")
    if canonical_json(raw) != data:
        raise CacheCorrupt(f"{where} has a manifest that is not canonical JSON; it cannot be pulled.")
    expected = sum(map(array_bytes, manifest.arrays.values()))
    short = [size for _, size in listing.parts[:-1] if size != PART_BYTES]
    if listing.size != expected or short or entry.size != expected:
        raise CacheCorrupt(
            f"{where} lists parts of {listing.size} bytes, but its arrays have {expected}; nothing was pulled."
        )
    return _Wanted(entry, manifest, raw, listing)


def _fetch_parts(store: Store, wanted: _Wanted, folder: Path, progress: Progress) -> list[Path]:
    """Fetch the parts that an earlier try did not fetch, several at once; an existing name is a complete part."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = dict(wanted.listing.parts)
    files = {digest: folder / f"{digest}.part" for digest in parts}
    for other in folder.iterdir():
        if other not in files.values():
            remove(other)
    done = {digest for digest, size in parts.items() if _is_there(files[digest], digest, size)}
    _check_room(folder, sum(size for digest, size in parts.items() if digest not in done) + wanted.listing.size)
    total, kept = sum(parts.values()), sum(parts[digest] for digest in done)
    with progress("pulling", total, kept) as advance, ThreadPoolExecutor(_THREADS) as pool:

        def one(digest: str) -> int:
            data = store.read_checked(f"{SETS}/{wanted.entry.set}/{digest}.part", digest, parts[digest])
            write_file(files[digest], data)
            return len(data)

        try:
            for count in pool.map(one, [digest for digest in parts if digest not in done]):
                advance(count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [files[digest] for digest, _ in wanted.listing.parts]


def _is_there(file: Path, digest: str, size: int) -> bool:
    with suppress(OSError):
        return not file.is_symlink() and file.stat().st_size == size and sha256_hex(file.read_bytes()) == digest
    return False


def _check_room(folder: Path, needed: int) -> None:
    """Refuse a pull that does not fit on the disk before anything is fetched."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        with suppress(OSError):
            folder.rmdir()  # only if empty
        raise CacheError(
            f"The pull needs {needed / 1e9:.2f} GB, and '{folder.parent}' has {free / 1e9:.2f} GB free; make room or "
            "give another OUT."
        )
