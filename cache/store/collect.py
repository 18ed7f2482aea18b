"""Removes entries at once, data that no entry has named for some days, and leftovers of killed pushes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .place.entries import find_entry, read_entries, refresh_index
from .place.layout import COMPUTING, ENTRIES, SETS, UNLISTED, Entry
from .place.store import Store
from .unlisted import age, note_name, note_unlisted, store_clock

__all__ = ["DAYS", "Collected", "collect", "distinct", "withdraw"]

# Longer than anybody reads, or pushes, one cache.
DAYS = 14.0
_DAY = 86400.0
# Drafts are small, and whoever computes says so every few seconds.
_DRAFT_SECONDS = _DAY
# For this long after a set was removed, a push into it may still be running.
_FORGOTTEN_SECONDS = 60 * _DAY


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was removed.

    Attributes
    ----------
    entries : withdrawn now
    sets : sets removed with all their bytes
    waiting : sets that no entry names, but not for long enough
    freed : bytes
    """

    entries: tuple[Entry, ...] = ()
    sets: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    freed: int = 0


def withdraw(store: Store, asked: str, *, now: bool = False) -> Collected:
    """Take a cache out of a store, in every version that was published of it.

    Parameters
    ----------
    now : also remove its data; anyone still reading it gets an error

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
        _unlist(store, other)
    refresh_index(store)
    names = {other.set for other in gone}
    with store_clock(store) as clock:
        found = _remove_sets(store, names, 0.0 if now else DAYS, clock)
    return Collected(entries=tuple(gone), sets=found.sets, waiting=found.waiting, freed=found.freed)


def collect(store: Store, *, days: float = DAYS) -> Collected:
    """Remove the sets that no entry has named for some days, second copies, and what killed processes left.

    Parameters
    ----------
    days : 0 removes them even if they are being read; a push of one then starts again
    """
    store.require_writable()
    store.check()
    _unlist_copies(store)
    with store_clock(store) as clock:
        there = set(store.names(SETS))
        _remove_leftovers(store, there, clock)
        found = _remove_sets(store, there, days, clock)
    refresh_index(store)
    return found


def _remove_sets(store: Store, names: set[str], days: float, clock: float | None) -> Collected:
    notes, listed = store.names(UNLISTED), _listed(store)
    old: list[str] = []
    waiting: list[str] = []
    for name in sorted(names - listed):
        files = [status for status in store.names(f"{SETS}/{name}").values() if status.kind != "folder"]
        if not files:  # nothing, or a file server's own folders
            store.remove_folder(f"{SETS}/{name}")
            continue
        # What was written last counts: the note, or a part by somebody who is pushing.
        ages = [age(status, clock) for status in [*files, notes.get(note_name(name), files[0])]]
        is_old = days <= 0 or all(one is not None and one >= days * _DAY for one in ages)
        (old if is_old else waiting).append(name)
    for name in old:
        if note_name(name) not in notes:
            note_unlisted(store, name)
    # From here on nobody lists one of them; who did before is seen now.
    again = _listed(store)
    removed = [name for name in old if name not in again]
    freed = sum(_remove_set(store, name) for name in removed)
    return Collected(sets=tuple(removed), waiting=tuple(waiting), freed=freed)


def _listed(store: Store) -> set[str]:
    return {entry.set for entry in read_entries(store)[0]}


def _remove_set(store: Store, name: str) -> int:
    """Remove a set and return its bytes."""
    freed = 0
    for part, status in store.names(f"{SETS}/{name}").items():
        if status.kind != "folder":
            store.remove(f"{SETS}/{name}/{part}")
            freed += status.bytes
    store.remove_folder(f"{SETS}/{name}")
    return freed


def _unlist(store: Store, entry: Entry) -> None:
    store.remove(f"{ENTRIES}/{entry.name}")
    note_unlisted(store, entry.set)


def _unlist_copies(store: Store) -> None:
    """Remove second entries of the same content, from pushes at the same moment."""
    entries = read_entries(store)[0]
    first = {id(entry) for entry in distinct(entries)}
    for entry in entries:
        if id(entry) not in first:
            _unlist(store, entry)


def _remove_leftovers(store: Store, sets: set[str], clock: float | None) -> None:
    """Remove drafts and announcements of killed processes, and notes on sets that were removed long ago."""
    for folder in ("", ENTRIES, UNLISTED, COMPUTING):
        for name, status in store.names(folder).items():
            seconds = age(status, clock)
            if status.kind != "file" or seconds is None:
                continue
            is_draft = (name.startswith(".") and name.endswith(".draft")) or folder == COMPUTING
            is_note = folder == UNLISTED and name.removesuffix(".json") not in sets
            if (is_draft and seconds > _DRAFT_SECONDS) or (is_note and seconds > _FORGOTTEN_SECONDS):
                store.remove(f"{folder}/{name}".lstrip("/"))


def distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries without second copies of the same content."""
    seen: dict[tuple[str, str, str], Entry] = {}
    for entry in entries:
        seen.setdefault(entry.content, entry)
    return list(seen.values())
