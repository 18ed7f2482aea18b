"""Pushes caches: data first, the entry last; data that the store already has is not sent again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from typing import Literal

from ..errors import CacheCorrupt, CacheError, CacheMismatch, CacheNotFound
from ..format.digest import cache_id, canonical_json
from ..format.manifest import MAX_BYTES, Manifest
from ..machine.drafts import write_file
from ..machine.home import home_folder
from ..progress import Progress
from ..reader import Cache
from ..verify import verify
from .place.entries import read_entries, refresh_index
from .place.layout import (
    ENTRIES,
    LISTING,
    MANIFEST,
    SETS,
    SIGNATURE,
    SIGNATURES,
    UNLISTED,
    Entry,
    Listing,
    parse_listing,
    sha256_hex,
    signature_name,
    signatures_bytes,
    summarize,
)
from .place.parts import array_bytes, cut_parts
from .place.store import Store
from .privacy import check_private, check_text
from .unlisted import is_unlisted, note_name

__all__ = ["Pushed", "push"]

_THREADS = 4
# A set is removed during a push only by `--now`.
_TRIES = 10
# Other signers come in between at most a few times.
_TRIES_TO_LIST = 20


class _Removed(Exception):
    """The set was removed during the push."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did.

    Attributes
    ----------
    action : pushed, or there: the same was published before
    served : whether a pull of the id gives this content; else other content was published first
    sent, kept : bytes sent now, and bytes from an earlier try
    """

    entry: Entry
    action: Literal["pushed", "there"]
    served: bool
    sent: int = 0
    kept: int = 0


def push(
    store: Store,
    cache: Cache,
    progress: Progress,
    *,
    by: str | None = None,
    signature: bytes | None = None,
    confirm: Callable[[Manifest], None] = lambda _: None,
) -> Pushed:
    """Publish a cache.

    Parameters
    ----------
    by : name shown as who pushed it
    signature : of its seal, to be published with it
    confirm : called before a new cache is sent; raises if it must not be published

    Raises
    ------
    CacheCorrupt
        The cache is damaged; nothing was sent.
    CacheMismatch
        Its manifest holds something that must not leave the machine.
    CacheError
        The store cannot be used.
    """
    store.require_writable()
    _check(cache)
    check_private(cache.manifest)
    if by is not None:
        check_text("by", by)
    store.begin()
    confirmed = False
    for _ in range(_TRIES):
        entries, _problems = read_entries(store)
        there = _published(entries, cache)
        if there is not None and _is_sound(store, there):
            refresh_index(store)
            _add_signature(store, there, signature)
            return Pushed(entry=there, action="there", served=_is_served(entries, there))
        if there is not None:
            # Its parts are gone, by a disk or by hand: what is listed must be there.
            store.remove(f"{ENTRIES}/{there.name}")
        if not confirmed:
            confirm(cache.manifest)
            confirmed = True
        try:
            return _push(store, cache, entries, progress, by, signature)
        except _Removed:
            continue
    raise CacheError(
        f"Store '{store.url}' removed the data during the push, {_TRIES} times; run the same command again."
    )


def _check(cache: Cache) -> None:
    problems = verify(cache)
    if problems:
        raise CacheCorrupt(f"Cache '{cache.path}' is damaged and was not pushed: {problems[0]}")
    request = cache.manifest.raw.get("request")
    if not isinstance(request, dict) or cache_id(request) != cache.cache_id:
        raise CacheMismatch(
            f"Cache '{cache.path}' has a cache id that does not fit its request; medal did not make it, and others "
            "could not find it. It was not pushed."
        )
    if sha256_hex(canonical_json(cache.manifest.raw)) != cache.seal.manifest_sha256:
        raise CacheMismatch(
            f"The manifest of cache '{cache.path}' is not canonical JSON, so nobody could reproduce it; it was not "
            "pushed. Convert it first: medal convert CACHE OUT"
        )


def _published(entries: Iterable[Entry], cache: Cache) -> Entry | None:
    content = (cache.cache_id, cache.content_digest, cache.seal.manifest_sha256)
    return next((entry for entry in entries if entry.content == content), None)


def _is_served(entries: Iterable[Entry], entry: Entry) -> bool:
    first = next((other for other in entries if other.cache_id == entry.cache_id), entry)
    return first.content == entry.content


def _push(
    store: Store, cache: Cache, entries: list[Entry], progress: Progress, by: str | None, signature: bytes | None
) -> Pushed:
    token = _free_token(store, cache)
    folder = f"{SETS}/{cache.content_digest}.{token}"
    there = {name: status.bytes for name, status in store.names(folder).items() if status.kind == "file"}
    listing, sent = _send_parts(store, cache, folder, there, progress)
    listing_bytes = listing.to_bytes()
    store.write(f"{folder}/{MANIFEST}", cache.manifest.to_bytes())
    store.write(f"{folder}/{LISTING}", listing_bytes)
    if signature is not None:
        _write_signature(store, folder, signature)
    # Whoever's clock is behind does not come before what was there when they looked.
    latest = max((other.published for other in entries if other.cache_id == cache.cache_id), default=0)
    entry = Entry(
        cache_id=cache.cache_id,
        content_digest=cache.content_digest,
        manifest_sha256=cache.seal.manifest_sha256,
        listing_sha256=sha256_hex(listing_bytes),
        token=token,
        published=max(time.time_ns() // 1_000_000, latest + 1),
        by=by,
        size=listing.size,
        summary=summarize(cache.manifest),
    )
    store.write(f"{ENTRIES}/{entry.name}", entry.to_bytes())
    # After the entry, not before: see `unlisted`.
    if not _is_whole(store, entry, listing):
        store.remove(f"{ENTRIES}/{entry.name}")
        raise _Removed
    refresh_index(store)
    return Pushed(
        entry=entry, action="pushed", served=_is_served([*entries, entry], entry), sent=sent, kept=listing.size - sent
    )


def _add_signature(store: Store, entry: Entry, signature: bytes | None) -> None:
    """Sign a published cache; signatures of several keys are kept side by side."""
    if signature is not None:
        _write_signature(store, f"{SETS}/{entry.set}", signature)


def _write_signature(store: Store, folder: str, signature: bytes) -> None:
    """Add a signature to a set, and bring the list of them up to date; as the index is, without a lock."""
    store.write(f"{folder}/{signature_name(signature)}", signature)
    listed: set[str] = set()
    for _ in range(_TRIES_TO_LIST):
        there = {name for name in store.names(folder) if SIGNATURE.fullmatch(name)}
        if there == listed:
            return
        store.write(f"{folder}/{SIGNATURES}", signatures_bytes(there))
        listed = there


def _is_whole(store: Store, entry: Entry, listing: Listing) -> bool:
    """Tell whether all parts of an entry are there, and nobody removes them."""
    names = store.names(f"{SETS}/{entry.set}")
    parts = {f"{digest}.part": size for digest, size in listing.parts}
    whole = all(name in names and names[name].bytes == size for name, size in parts.items())
    return whole and {MANIFEST, LISTING} <= set(names) and not is_unlisted(store, entry.set)


def _is_sound(store: Store, entry: Entry) -> bool:
    """Tell whether all files of an entry exist and have the right length."""
    try:
        data = store.read_checked(f"{SETS}/{entry.set}/{LISTING}", entry.listing_sha256, MAX_BYTES)
        return _is_whole(store, entry, parse_listing(data, "listing"))
    except (CacheNotFound, CacheCorrupt):
        return False


def _send_parts(
    store: Store, cache: Cache, folder: str, there: dict[str, int], progress: Progress
) -> tuple[Listing, int]:
    """Send the parts that are not there yet, several at once; reading stays ahead by as many as are sent at once."""
    total = sum(map(array_bytes, cache.manifest.arrays.values()))
    parts: list[tuple[str, int]] = []
    pending: set[Future[int]] = set()
    sent = 0
    with progress("pushing", total, 0) as advance, cache.open_arrays() as arrays, ThreadPoolExecutor(_THREADS) as pool:

        def settle(leave: int) -> None:
            nonlocal pending
            while len(pending) > leave:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for one in done:
                    advance(one.result())

        for data in cut_parts(arrays):
            digest = sha256_hex(data)
            parts.append((digest, len(data)))
            if there.get(f"{digest}.part") == len(data):
                advance(len(data))
                continue
            settle(_THREADS - 1)
            pending.add(pool.submit(_send, store, f"{folder}/{digest}.part", data))
            there[f"{digest}.part"] = len(data)
            sent += len(data)
        settle(0)
    return Listing(parts=tuple(parts)), sent


def _send(store: Store, name: str, data: bytes) -> int:
    store.write(name, data)
    return len(data)


def _free_token(store: Store, cache: Cache) -> str:
    """Return the token of the set; the same each time, so that a killed push can continue."""
    noted = store.names(UNLISTED)
    identity = _identity()
    tokens = (
        blake2b(cache.seal.to_bytes() + b"%d" % turn, key=identity, digest_size=8).hexdigest() for turn in count()
    )
    return next(token for token in tokens if note_name(f"{cache.content_digest}.{token}") not in noted)


def _identity() -> bytes:
    """Return a name that distinguishes this home folder's sets from those of others."""
    try:
        file = home_folder() / "identity"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(file, secrets.token_bytes(16))
        return file.read_bytes()[:64]
    except (OSError, RuntimeError):  # RuntimeError: there is no home to be found
        return secrets.token_bytes(16)
