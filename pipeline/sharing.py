"""Stage one and a store: what somebody else has computed is taken over, and offered to others if that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..cache.errors import CacheCorrupt, CacheError, CacheMismatch, CacheNotFound
from ..cache.manifest import Manifest
from ..cache.reader import Cache
from ..cache.store.announcements import Announcement, wait_for, who_computes
from ..cache.store.entries import read_entries
from ..cache.store.fetch import Trust, choose_signed, fetch
from ..cache.store.layout import Entry, features_address, rows_address
from ..cache.store.local_copies import local_copy
from ..cache.store.privacy import check_text
from ..cache.store.publish import Pushed
from ..cache.store.publish import push as publish
from ..cache.store.store import Store

if TYPE_CHECKING:
    from .planning import Plan

__all__ = ["Lab", "announced", "names_of"]

Tell = Callable[[str], None]
Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A store that stage one looks into, and how.

    Attributes
    ----------
    push : offer what is computed to others
    wait : wait for somebody who computes the very cache that is asked for
    by : how to be called there
    confirm : see `publish.push`
    progress : of what is pulled and pushed, in bytes
    most : bytes that local copies of other caches may take
    trust : whose signatures count, if somebody has to have signed what is taken over
    """

    store: Store
    progress: Progress
    push: bool = False
    wait: bool = False
    by: str | None = None
    confirm: Callable[[Manifest], None] = lambda _: None
    most: int
    trust: Trust | None = None

    def find(self, cache_id: str, tell: Tell) -> Entry | None:
        """Return the entry that has what is asked for; a store that cannot be asked has none, and that is told.

        Raises
        ------
        CacheMismatch
            There is one, and nobody signed it who has to have.
        """
        found = [entry for entry in self.entries(tell) if entry.cache_id == cache_id]
        return self._choose(found) if found else None

    def _choose(self, entries: list[Entry]) -> Entry:
        try:
            return choose_signed(self.store, entries, self.trust)
        except CacheMismatch as error:
            raise CacheMismatch(
                f"{error} Or leave --store out to compute it, or --signers to take it on your own judgement."
            ) from error

    def entries(self, tell: Tell) -> list[Entry]:
        """Return what the store lists; a store that cannot be asked has nothing, and that is told."""
        try:
            self.store.check()
            entries, problems = read_entries(self.store)
        except CacheNotFound as error:
            if not self.push:
                tell(f"warning: {error}")
            return []
        except CacheCorrupt:
            raise
        except CacheError as error:
            tell(f"warning: {error} Going on without it.")
            return []
        for problem in problems:
            tell(f"warning: {problem}")
        return entries

    def await_others(self, cache_id: str, tell: Tell) -> Entry | None:
        """Return the entry once whoever computes it has published it; say who they are if they are not waited for."""
        if self.wait:
            return wait_for(self.store, cache_id, tell)
        for one in who_computes(self.store, cache_id)[:1]:
            tell(f"this cache is being computed by {one}; going on all the same (--wait waits for it)")
        return None

    def obtain(self, asked: Plan, tell: Tell) -> Cache | None:
        """Pull what is asked for to its target, whose lock is held, if the store has it or comes to have it."""
        entry = self.find(asked.cache_id, tell)
        if entry is None:
            entry = self._await(asked.cache_id, tell)
        return None if entry is None else fetch(self.store, entry, asked.target, self.progress, self.trust)

    def _await(self, cache_id: str, tell: Tell) -> Entry | None:
        try:
            return self.await_others(cache_id, tell)
        except CacheCorrupt:
            raise
        except CacheError as error:
            tell(f"warning: {error} Going on without it.")
            return None

    def with_features(self, asked: Plan, tell: Tell) -> Plan:
        """Return the plan with a source of features for the same images, if only splits or probe differ."""
        features, rows = features_address(asked.request), rows_address(asked.request)
        for entry in self.entries(lambda _: None):
            summary = entry.summary
            if (
                summary.get("features_kept") is True
                and summary.get("features_address") == features
                and summary.get("rows_address") == rows
            ):
                try:
                    cache = local_copy(self.store, entry, self.progress, most=self.most, trust=self.trust)
                except CacheMismatch as error:
                    tell(f"warning: features are not taken over: {error}")
                    continue
                tell(f"features are taken over from cache '{entry.cache_id}' of store '{self.store.url}'")
                return replace(asked, sources=(*asked.sources, cache))
        return asked

    def offer(self, cache: Cache) -> Pushed | None:
        """Publish a cache if that was asked for.

        Raises
        ------
        CacheError
            It could not be published; it is sealed all the same.
        """
        if not self.push:
            return None
        try:
            return publish(self.store, cache, self.progress, by=self.by, confirm=self.confirm)
        except CacheError as error:
            raise type(error)(
                f"'{cache.path}' is sealed, and was not pushed: {error} Then: medal push {cache.path} {self.store.url}"
            ) from error

    @contextmanager
    def announced(self, cache_id: str, total: int, progress: Progress) -> Iterator[Progress]:
        """Say in the store that this process computes, if others will get it; yields the progress to be called."""
        if not self.push or self.store.read_only:
            yield progress
            return
        # Whether it can be published is known before the work, and not after.
        self.store.begin()
        with Announcement(self.store, cache_id, total, self.by) as announcement:

            @contextmanager
            def counted(what: str, count: int, done: int) -> Iterator[Callable[[int], None]]:
                announcement.done = done
                with progress(what, count, done) as advance:

                    def both(more: int) -> None:
                        announcement.done += more
                        advance(more)

                    yield both

            yield counted


def names_of(asked: Plan) -> dict[str, list[str]]:
    """Return the free text that a plan's manifest will hold, for whoever publishes it.

    Raises
    ------
    CacheMismatch
        Some of it may not be published.
    """
    dataset = asked.dataset
    found = {
        "dataset": [dataset.name],
        "classes": list(dataset.classes),
        "domains": list(dataset.domains),
        "excluded classes": list(dataset.excluded),
        "columns": list(dataset.label_columns),
        "teacher": [asked.files.name],
    }
    for what, names in found.items():
        for name in names:
            check_text(what, name)
    return {what: names for what, names in found.items() if names}


def announced(lab: Lab | None, cache_id: str, total: int, progress: Progress) -> AbstractContextManager[Progress]:
    """Return the context in which a cache is computed."""
    return nullcontext(progress) if lab is None else lab.announced(cache_id, total, progress)
