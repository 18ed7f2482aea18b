"""Removing: entries go at once, data once nobody reads it; and what killed pushes left behind."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from .leases import is_stale, leased_sets, store_clock
from .place.entries import find_entry, read_entries, refresh_index
from .place.layout import CONDEMNED, ENTRIES, LEASES, SETS, Entry
from .place.store import Store

__all__ = ["Collected", "collect", "distinct", "withdraw"]


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was removed.

    Attributes
    ----------
    entries : withdrawn now
    sets : removed with all their bytes
    waiting : sets that nobody lists any more and somebody still reads or writes
    freed : bytes
    """

    entries: tuple[Entry, ...] = ()
    sets: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    freed: int = 0


def withdraw(store: Store, asked: str) -> Collected:
    """Take a cache out of a store, in every version that was published of it, and its data where nobody reads it.

    Raises
    ------
    CacheNotFound
        There is none of this name or id.
    """
    store.require_writable()
    store.check()
    entry = find_entry(store, asked)
    gone = [other for other in read_entries(store)[0] if other.cache_id == entry.cache_id]
    for other in gone:
        store.remove(f"{ENTRIES}/{other.name}")
    refresh_index(store)
    found = collect(store, only={other.set for other in gone})
    return Collected(entries=tuple(gone), sets=found.sets, waiting=found.waiting, freed=found.freed)


def collect(store: Store, only: set[str] | None = None) -> Collected:
    """Remove the sets that no entry names and nobody reads or writes, and second copies of the same content.

    Parameters
    ----------
    only : look at these sets alone
    """
    store.require_writable()
    store.check()
    with store_clock(store) as now:
        held = leased_sets(store, now)
        if only is None:
            _remove_copies(store)
            _remove_drafts(store, now)
        listed = {entry.set for entry in read_entries(store)[0]}
        found = only if only is not None else set(store.names(SETS))
        removed, waiting, freed = [], [], 0
        for name in sorted(found - listed):
            bytes_there = _remove_set(store, name, now) if name not in held else None
            if bytes_there is None:
                waiting.append(name)
            else:
                removed.append(name)
                freed += bytes_there
        if only is None:
            refresh_index(store)
    return Collected(sets=tuple(removed), waiting=tuple(waiting), freed=freed)


def _remove_set(store: Store, name: str, now: float | None) -> int | None:
    """Remove a set and return its bytes, or None if somebody has come to need it."""
    folder = f"{SETS}/{name}"
    # A mark of one's own: another collector that gives up must not take it away.
    mark = f"{folder}/{CONDEMNED}.{secrets.token_hex(8)}"
    store.write(mark, b"{}")
    # From here on nobody begins to use it; who did before has a lease or an entry by now.
    if name in leased_sets(store, now) or name in {entry.set for entry in read_entries(store)[0]}:
        store.remove(mark)
        return None
    freed = 0
    for part, status in store.names(folder).items():
        # Another collector's mark, or the draft of one, is that collector's to remove.
        if not part.lstrip(".").startswith(CONDEMNED) or is_stale(status, now):
            store.remove(f"{folder}/{part}")
            freed += status.bytes
    store.remove(mark)
    store.remove_folder(folder)
    return freed


def _remove_copies(store: Store) -> None:
    """Withdraw what was published a second time by somebody who pushed at the same moment."""
    seen: set[tuple[str, str, str]] = set()
    for entry in read_entries(store)[0]:
        if entry.content in seen:
            store.remove(f"{ENTRIES}/{entry.name}")
        seen.add(entry.content)


def _remove_drafts(store: Store, now: float | None) -> None:
    """Remove what was being written when a process was killed."""
    for folder in ("", ENTRIES, LEASES):
        for name, status in store.names(folder).items():
            if is_stale(status, now) and status.kind == "file" and name.startswith(".") and name.endswith(".draft"):
                store.remove(f"{folder}/{name}".lstrip("/"))


def distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries without second copies of the same content."""
    seen: dict[tuple[str, str, str], Entry] = {}
    for entry in entries:
        seen.setdefault(entry.content, entry)
    return list(seen.values())
