"""Announces in a store that this process computes a cache, so that others can wait; expires if not repeated."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from types import TracebackType
from typing import Any

from ..errors import CacheCorrupt, CacheError, CacheNotFound
from ..format.digest import canonical_json
from ..format.manifest import parse_json
from ..machine.heartbeat import Heartbeat
from ..making.holder import Holder, is_running, this_process
from ..progress import Tell
from .place.entries import read_entries, served
from .place.layout import COMPUTING, VERSION, Entry
from .place.store import Store

__all__ = ["Announcement", "Computing", "wait_for", "who_computes"]

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
_POLL_SECONDS = 1.0
_MOST_BYTES = 1 << 12


@dataclass(frozen=True)
class Computing:
    """One announcement."""

    name: str
    raw: dict[str, Any]

    def __str__(self) -> str:
        who, since = self.raw.get("by") or "somebody", str(self.raw.get("since"))[:25]
        return f"{str(who)[:80]}, since {since}, {self.raw.get('done')} of {self.raw.get('total')} images done"

    @property
    def is_dead(self) -> bool:
        """Whether it is a process of this machine that has ended."""
        me = this_process()
        process, started = self.raw.get("process"), self.raw.get("started")
        if self.raw.get("machine") != _machine(me) or type(process) is not int or not isinstance(started, str):
            return False
        them = Holder(host=me.host, machine=me.machine, process=process, started=started, since="", token=me.token)
        return not is_running(them)


class Announcement:
    """Announce, as a context, that this process computes a cache; `done` is its progress."""

    def __init__(self, store: Store, cache_id: str, total: int, by: str | None) -> None:
        me = this_process()
        self._store, self.done, self._beats = store, 0, 0
        self._name = f"{COMPUTING}/{cache_id}.{secrets.token_hex(8)}.json"
        self._said = {
            "medal_store": VERSION,
            "by": by,
            "since": me.since,
            "total": total,
            "machine": _machine(me),
            "process": me.process,
            "started": me.started,
        }

    def __enter__(self) -> Announcement:
        # Others then compute it too, which only costs time.
        with suppress(CacheError):
            self._say()
        self._heartbeat = Heartbeat(self._say, BEAT_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.stop()
        with suppress(CacheError):
            self._store.remove(self._name)

    def _say(self) -> None:
        self._beats += 1
        self._store.write(self._name, canonical_json({**self._said, "done": self.done, "beat": self._beats}))


def who_computes(store: Store, cache_id: str) -> list[Computing]:
    """Return the announcements for a cache, without ended processes of this machine."""
    if not store.can_list:
        return []
    found = []
    for name, status in store.names(COMPUTING).items():
        if name.startswith(f"{cache_id}.") and status.kind == "file":
            with suppress(CacheNotFound, CacheCorrupt):
                said = parse_json(store.read(f"{COMPUTING}/{name}", _MOST_BYTES), f"announcement '{name}'")
                found.append(Computing(name, said))
    return [one for one in found if not one.is_dead]


def wait_for(store: Store, cache_id: str, tell: Tell) -> Entry | None:
    """Wait until another process has published a cache; None once no process computes it any more.

    A process counts as running while its announcement keeps changing, so clocks do not matter.
    """
    heard: dict[str, tuple[object, float]] = {}
    told = ""
    while True:
        # In this order, because a process publishes first and then withdraws its announcement.
        computing = who_computes(store, cache_id)
        entry = served(read_entries(store)[0], cache_id)
        if entry is not None:
            return entry
        now = time.monotonic()
        alive = []
        for one in computing:
            beat, since = heard.get(one.name, (None, now))
            if beat != one.raw.get("beat") or one.name not in heard:
                heard[one.name] = (one.raw.get("beat"), now)
                since = now
            if now - since < STALE_SECONDS:
                alive.append(one)
        if not alive:
            if computing or heard:
                tell("no other process computes it any more; computing it here")
            return None
        if told != alive[0].name:
            tell(f"this cache is being computed by {alive[0]}; waiting for it")
            told = alive[0].name
        time.sleep(_POLL_SECONDS)


def _machine(me: Holder) -> str:
    # Enough to recognise this machine without publishing its name.
    return blake2b(me.machine.encode(), digest_size=8).hexdigest()
