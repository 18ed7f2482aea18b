"""Notes on sets that no entry names, so that their age is known and they need not be listed again.

A note is never deleted while its set exists. A remover first writes the note, then looks for entries. A publisher first
writes the entry, then looks for the note. So if both happen at once, at least one sees the other and gives way: the
remover leaves the set, the publisher starts again in another one. Readers write nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import CacheNotFound
from .place.files import Stat
from .place.layout import UNLISTED
from .place.store import Store

__all__ = ["age", "is_unlisted", "note_name", "note_unlisted", "store_clock"]

_MOST_BYTES = 1 << 12


def note_name(name: str) -> str:
    """Return the name, in its folder, of the note on a set."""
    return f"{name}.json"


def note_unlisted(store: Store, name: str) -> None:
    """Write or renew the note that no entry names a set."""
    store.write(f"{UNLISTED}/{note_name(name)}", b"{}")


def is_unlisted(store: Store, name: str) -> bool:
    """Tell whether there is a note on a set."""
    try:
        store.read(f"{UNLISTED}/{note_name(name)}", _MOST_BYTES)
    except CacheNotFound:
        return False
    return True


@contextmanager
def store_clock(store: Store) -> Iterator[float | None]:
    """Yield the time by the store's clock, None if it is unknown."""
    name = f".{secrets.token_hex(8)}.clock.draft"
    store.write(f"{UNLISTED}/{name}", b"{}")
    try:
        status = store.names(UNLISTED).get(name)
        yield None if status is None else status.modified
    finally:
        store.remove(f"{UNLISTED}/{name}")


def age(status: Stat | None, now: float | None) -> float | None:
    """Return the seconds since a file was written, by the store's clock; None if that cannot be told."""
    return None if status is None or now is None or status.modified is None else now - status.modified
