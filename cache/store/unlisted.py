"""Sets that no entry names: noted as such beside them, so that their age can be told and nobody lists them again.

A note is never taken back. Whoever removes a set first writes its note, then looks for entries; whoever publishes one
first writes its entry, then looks for the note. So of two who meet at least one sees the other and gives way: who
removes leaves the set, who publishes begins anew in another one. Readers write nothing.
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
    """Write down, or once more, that no entry names a set from now on."""
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
    """Yield the time by the store's own clock, None where it does not tell."""
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
