"""The entries of a store: read with few requests, found by name or id, with one index for readers that cannot list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from difflib import get_close_matches

from ...errors import CacheCorrupt, CacheError, CacheMismatch, CacheNotFound
from .layout import ENTRIES, INDEX, Entry, marker_bytes, parse_entry, parse_entry_name
from .store import Store

__all__ = ["find_entries", "find_entry", "read_entries", "refresh_index", "served"]

_ENTRY_BYTES = 1 << 15
_INDEX_BYTES = 1 << 27
_THREADS = 8
_LEAST_ID = 6
# Other writers come in between at most a few times.
_TRIES = 20


def read_entries(store: Store) -> tuple[list[Entry], list[str]]:
    """Return all entries, the first published first, and sentences about files that are not entries.

    Names are listed, a thousand per request; the index has the content of all but the newest.
    """
    entries, problems, _ = _read_with_index(store)
    return entries, problems


def _read_with_index(store: Store) -> tuple[list[Entry], list[str], set[str]]:
    """Return entries, problems and the names that the index has."""
    indexed = _read_index(store)
    if not store.can_list:
        return _ordered(indexed.values()), [], set(indexed)
    problems: list[str] = []
    names: list[str] = []
    for name, status in store.names(ENTRIES).items():
        if name.startswith(".") and name.endswith(".draft"):
            continue  # somebody is writing it
        if parse_entry_name(name) is None or status.kind != "file":
            kind = "is no plain file" if status.kind == "other" else "is no entry of a store"
            problems.append(f"'{ENTRIES}/{name}' {kind}; left alone.")
        else:
            names.append(name)
    found = [indexed[name] for name in names if name in indexed]
    missing = [name for name in names if name not in indexed]
    with ThreadPoolExecutor(_THREADS) as pool:
        for entry in pool.map(lambda name: _read_entry(store, name), missing):
            if isinstance(entry, Entry):
                found.append(entry)
            elif entry is not None:
                problems.append(entry)
    return _ordered(found), problems, set(indexed)


def _ordered(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.published, entry.name))


def _read_entry(store: Store, name: str) -> Entry | str | None:
    """Return an entry, a sentence about what is wrong with it, or None if it was removed just now."""
    try:
        return check_entry(parse_entry(store.read(f"{ENTRIES}/{name}", _ENTRY_BYTES), f"entry '{name}'"), name)
    except CacheNotFound:
        return None
    except (CacheCorrupt, CacheMismatch) as error:
        return str(error)


def check_entry(entry: Entry, name: str) -> Entry:
    """Refuse an entry under the wrong name."""
    if entry.name != name:
        raise CacheCorrupt(
            f"Entry '{name}' was redirected: it says that it is '{entry.name}'. It was not used; tell whoever "
            "maintains the store."
        )
    return entry


def _read_index(store: Store) -> dict[str, Entry]:
    """Return what the index has, by name; a line that is no entry counts as absent."""
    try:
        data = store.read(INDEX, _INDEX_BYTES)
    except CacheNotFound:
        return {}
    found = {}
    for line in data.splitlines():
        if len(line) <= _ENTRY_BYTES:
            with suppress(CacheCorrupt, CacheMismatch):
                entry = parse_entry(line, "line of the index")
                found[entry.name] = entry
    return found


def refresh_index(store: Store) -> None:
    """Bring the index up to date with the entries.

    Without a lock: each writer looks again after it wrote, so that the last one to write has seen all entries.
    """
    for _ in range(_TRIES):
        entries, _problems, indexed = _read_with_index(store)
        if {entry.name for entry in entries} == indexed and (indexed or not store.can_list):
            return
        # A first line that is no entry: some drivers cannot read an empty object.
        store.write(INDEX, b"\n".join([marker_bytes(), *(entry.to_bytes() for entry in entries), b""]))
        if not entries:
            return


def served(entries: Sequence[Entry], cache_id: str) -> Entry | None:
    """Return the entry that is used for an id: the first published."""
    return next((entry for entry in entries if entry.cache_id == cache_id), None)


def find_entry(store: Store, asked: str) -> Entry:
    """Return the first published of the entries of `find_entries`."""
    return find_entries(store, asked)[0]


def find_entries(store: Store, asked: str) -> list[Entry]:
    """Return the entries with this dataset name, or beginning of a cache id or content digest.

    They are all of one id: the same request, perhaps with other content; the first published first.

    Raises
    ------
    CacheNotFound
        None does.
    CacheError
        Several do, and they are not the same cache.
    """
    entries, _ = read_entries(store)
    by_id = [entry for entry in entries if len(asked) >= _LEAST_ID and entry.cache_id.startswith(asked)]
    by_content = [entry for entry in entries if len(asked) >= _LEAST_ID and entry.content_digest.startswith(asked)]
    by_name = [entry for entry in entries if entry.summary.get("dataset") == asked]
    found = by_id or by_content or by_name
    if not found:
        names = {str(entry.summary.get("dataset")) for entry in entries}
        near = [f"'{name}'" for name in get_close_matches(asked, sorted(names))]
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise CacheNotFound(
            f"Store '{store.url}' has no cache '{asked}'{hint}; see what it has: medal list {store.url}"
        )
    ids: Mapping[str, Entry] = {entry.cache_id: entry for entry in reversed(found)}
    if len(ids) > 1:
        raise CacheError(
            f"'{asked}' fits {len(ids)} caches of store '{store.url}': {', '.join(list(ids)[:6])}. Give the id of one."
        )
    return found
