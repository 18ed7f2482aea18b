"""Who reads or writes a set now, so that it is not removed meanwhile; without a lock held across the network.

A lease is a small object, written anew while it is needed, and dead once it has not been for `STALE_SECONDS` by the
store's own clock. Whoever removes a set first condemns it, then looks for leases; whoever uses one first writes a
lease, then looks whether it is condemned. So at least one of two that meet sees the other.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from ..errors import CacheError, CacheNotFound
from .place.files import Stat
from .place.layout import CONDEMNED, LEASES, SETS, set_of_lease
from .place.store import Store

__all__ = ["STALE_SECONDS", "Lease", "Withdrawn", "has_condemned", "is_stale", "leased_sets", "store_clock"]

BEAT_SECONDS = 60.0
# A laptop that sleeps over lunch has to begin anew; a server that hangs for minutes costs nobody anything.
STALE_SECONDS = 900.0


class Withdrawn(CacheNotFound):
    """The set is being removed."""


class Lease:
    """A lease on a set, as a context; a store that cannot be written has none.

    Raises
    ------
    Withdrawn
        The set is being removed.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self.set = store, name
        self._object = f"{LEASES}/{name}.{secrets.token_hex(8)}.json"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="medal-lease")

    def __enter__(self) -> Lease:
        if not self._store.read_only:
            self._store.write(self._object, b"{}")
            self._thread.start()
        try:
            self._look()
        except BaseException:
            self._let_go()
            raise
        return self

    def _look(self) -> None:
        if not self._store.read_only and has_condemned(self._store.names(f"{SETS}/{self.set}")):
            raise Withdrawn(f"Store '{self._store.url}' is removing this cache just now; it has been withdrawn.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()

    def _beat(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            # A network that is away comes back or not; what is read or written next says so.
            with suppress(CacheError):
                self._store.write(self._object, b"{}")

    def _let_go(self) -> None:
        self._done.set()
        if self._store.read_only:
            return
        self._thread.join()
        # What cannot be removed goes stale.
        with suppress(CacheError):
            self._store.remove(self._object)


def has_condemned(names: Iterable[str]) -> bool:
    """Tell whether among a set's names is the mark of somebody who removes it."""
    return any(name.startswith(CONDEMNED) for name in names)


@contextmanager
def store_clock(store: Store) -> Iterator[float | None]:
    """Yield the time by the store's own clock, None where it does not tell."""
    name = f"clock-{secrets.token_hex(8)}"
    store.write(f"{LEASES}/{name}", b"{}")
    try:
        status = store.names(LEASES).get(name)
        yield None if status is None else status.modified
    finally:
        store.remove(f"{LEASES}/{name}")


def is_stale(status: Stat, now: float | None) -> bool:
    """Tell whether a file has not been written for long, by the store's clock."""
    return now is not None and status.modified is not None and now - status.modified > STALE_SECONDS


def leased_sets(store: Store, now: float | None) -> set[str]:
    """Return the sets that somebody reads or writes; stale leases are removed."""
    held = set()
    for name, status in store.names(LEASES).items():
        stale = is_stale(status, now)
        found = set_of_lease(name)
        if found is not None and not stale:
            held.add(found)
        elif stale and status.kind == "file":
            store.remove(f"{LEASES}/{name}")
    return held
