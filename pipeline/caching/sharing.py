"""Stage one and a store: caches that others computed are pulled, and new ones are published if requested."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheCorrupt, CacheError, CacheMismatch, CacheNotFound, StoreUnusable
from ...cache.format.manifest import Manifest
from ...cache.join import image_members
from ...cache.keys import KEY_BYTES
from ...cache.making.work import WorkDirectory, work_path
from ...cache.progress import Advance, Alert, Progress, Tell, silent
from ...cache.reader import Cache
from ...cache.store.announcements import Announcement, wait_for, who_computes
from ...cache.store.fetch import Trust, choose_signed, fetch, read_keys
from ...cache.store.local_copies import DEFAULT_BYTES, copy_named, local_copy, parse_size
from ...cache.store.place.entries import read_entries
from ...cache.store.place.layout import Entry, features_address, rows_address
from ...cache.store.place.store import Store, open_store
from ...cache.store.privacy import check_text, texts_of
from ...cache.store.publish import Pushed
from ...cache.store.publish import push as publish
from ..planning.reused_features import find_fresh, useful_splits
from ..views.policies import Views

if TYPE_CHECKING:
    from ..planning.plan import Plan

__all__ = ["StageOneStore", "announced", "names_of", "open_lab"]

# Of a store's caches with features of the right kind as many are looked into. Those are worth their way that have a
# tenth of the images that are left, or half of whose own images are asked for.
_MOST_LOOKED_INTO, _LEAST_GAIN = 16, 10


@dataclass(frozen=True, kw_only=True)
class StageOneStore:
    """A store that stage one uses, and how.

    Attributes
    ----------
    push : publish what is computed
    wait : wait for another process that computes the same cache
    by : name shown in the store
    confirm : see `publish.push`
    progress : of what is pulled and pushed, in bytes
    most : bytes that local copies of other caches may take
    trust : accepted signers, if a signature is required
    """

    store: Store
    progress: Progress
    push: bool = False
    wait: bool = False
    by: str | None = None
    confirm: Callable[[Manifest], None] = lambda _: None
    most: int
    trust: Trust | None = None

    def get(self, name: str) -> Cache:
        """Return a verified local copy of one of the store's caches, as ``STORE#NAME`` does in a command.

        Parameters
        ----------
        name : as the store lists it, or the beginning of an id

        Raises
        ------
        CacheNotFound, CacheError, CacheCorrupt
            The store does not have it, or not as it was published.
        CacheMismatch
            It lacks a required signature.
        """
        return copy_named(self.store, name, self.progress, most=self.most, trust=self.trust)

    def find(self, cache_id: str, tell: Tell) -> Entry | None:
        """Return the entry that has what is asked for; a store that cannot be asked has none, and that is told.

        Raises
        ------
        CacheMismatch
            There is one, but it lacks a required signature.
        """
        found = [entry for entry in self.entries(tell) if entry.cache_id == cache_id]
        return self._choose(found) if found else None

    def _choose(self, entries: list[Entry]) -> Entry:
        try:
            return choose_signed(self.store, entries, self.trust)
        except CacheMismatch as error:
            raise CacheMismatch(
                f"{error} Leave --store out to compute it here, or --signers out to accept it unsigned."
            ) from error

    def entries(self, tell: Tell) -> list[Entry]:
        """Return what the store lists; a store that cannot be asked has nothing, and that is told."""
        try:
            self.store.check()
            entries, problems = read_entries(self.store)
        except CacheNotFound as error:
            if not self.push:
                tell(Alert(error))
            return []
        except CacheCorrupt:
            raise
        except CacheError as error:
            tell(Alert(f"{error} Going on without it."))
            return []
        for problem in problems:
            tell(Alert(problem))
        return entries

    def await_others(self, cache_id: str, tell: Tell) -> Entry | None:
        """Return the entry once the process that computes it has published it; without waiting, report who computes
        it."""
        if self.wait:
            return wait_for(self.store, cache_id, tell)
        for one in who_computes(self.store, cache_id)[:1]:
            tell(f"this cache is being computed by {one}; computing it here too (--wait waits for it)")
        return None

    def obtain(self, asked: Plan, tell: Tell) -> Cache | None:
        """Pull what is asked for to its target, whose lock is held, if the store has it or comes to have it.

        A store that cannot be used counts as empty, with a warning.
        """
        try:
            entry = self.find(asked.cache_id, tell) or self.await_others(asked.cache_id, tell)
            return None if entry is None else fetch(self.store, entry, asked.target, self.progress, self.trust)
        except StoreUnusable as error:
            tell(Alert(f"{error} Going on without it."))
            return None

    def with_features(self, asked: Plan, tell: Tell) -> Plan:
        """Return the plan with sources of features for images that none of its own has, where the store has some."""
        sources = list(asked.sources)
        try:
            for entry in self._useful(asked, tell):
                sources.append(local_copy(self.store, entry, self.progress, most=self.most, trust=self.trust))
                tell(f"features are reused from cache '{entry.cache_id}' of store '{self.store.url}'")
        except CacheCorrupt:
            raise
        except CacheError as error:
            tell(Alert(f"{error} Going on without it."))
        return replace(asked, sources=tuple(sources))

    def _useful(self, asked: Plan, tell: Tell) -> Iterator[Entry]:
        """Yield entries with features that are asked for, each for images that none before it has.

        A resumed run takes what it took before, and nothing else: else it would have to begin anew.
        """
        entries = self._alike(asked)
        if asked.action == "resume":
            begun = WorkDirectory(work_path(asked.target)).read_settings() or {}
            by_content = {entry.content_digest: entry for entry in reversed(entries)}
            own = {source.content_digest for source in asked.sources}
            yield from (by_content[one] for one in begun.get("taken_from", ()) if one in by_content and one not in own)
            return
        views, secret = asked.settings.stored_views, asked.dataset.secret
        fresh = find_fresh(asked.sources, asked.rows, views, secret)
        left = {name: part.key[fresh[name]] for name, part in asked.rows.items()}
        for entry in entries[:_MOST_LOOKED_INTO]:
            wanted = sum(map(len, left.values()))
            if not wanted:
                return
            try:
                choose_signed(self.store, [entry], self.trust)
            except CacheMismatch as error:
                tell(Alert(f"features are not reused: {error}"))
                continue
            there = read_keys(self.store, entry)
            if secret is not None and entry.summary.get("key_check") is None:
                there = {split: secret.keys(key) for split, key in there.items()}
            found = {name: image_members(key, _useful_keys(there, name, views)) for name, key in left.items()}
            gain = sum(int(one.sum()) for one in found.values())
            if gain and (gain * _LEAST_GAIN >= wanted or gain * 2 >= sum(map(len, there.values()))):
                yield entry
                left = {name: key[~found[name]] for name, key in left.items()}

    def _alike(self, asked: Plan) -> list[Entry]:
        """Return the entries with features of the same kind: of the same images first, then the largest."""
        features, rows = features_address(asked.request), rows_address(asked.request)
        check = None if asked.dataset.secret is None else asked.dataset.secret.check
        alike = [
            entry
            for entry in self.entries(lambda _: None)
            if entry.summary.get("features_kept") is True
            and entry.summary.get("features_address") == features
            and entry.summary.get("key_check") in (None, check)
        ]
        return sorted(alike, key=lambda entry: (entry.summary.get("rows_address") != rows, -entry.size))

    def offer(self, cache: Cache) -> Pushed | None:
        """Publish a cache if requested.

        Raises
        ------
        CacheError
            It could not be published; it is still sealed.
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
        """Announce in the store that this process computes, if it will publish; yields the progress function."""
        if not self.push or self.store.read_only:
            yield progress
            return
        # Check before the work whether it can be published.
        self.store.require_writable()
        self.store.begin()
        with Announcement(self.store, cache_id, total, self.by) as announcement:

            @contextmanager
            def counted(what: str, count: int, done: int = 0) -> Iterator[Advance]:
                announcement.done = done
                with progress(what, count, done) as advance:

                    def both(more: int) -> None:
                        announcement.done += more
                        advance(more)

                    yield both

            yield counted


def open_lab(
    store: str | PathLike[str],
    *,
    push: bool = False,
    wait: bool = False,
    by: str | None = None,
    confirm: Callable[[Manifest], None] = lambda _: None,
    max_cache_size: str | None = None,
    signers: str | PathLike[str] | None = None,
    revoked: str | PathLike[str] | None = None,
    progress: Progress = silent,
) -> StageOneStore:
    """Return a lab's store as stage one looks into it, for `medal.cache_teacher(…, lab=…)`.

    Parameters
    ----------
    store : a folder or URL, as ``--store`` takes it
    push : publish what is computed; the names of classes, domains and columns are published with it
    wait : wait for another process that computes the same cache
    by : name shown in the store
    confirm : given the manifest of what is about to be pushed; raises what is to keep it from that
    max_cache_size : what local copies of other caches may take, for instance ``20GB``; None = that
    signers, revoked : files as ``--signers`` and ``--revoked`` take them
    progress : of what is pulled and pushed, in bytes

    Raises
    ------
    CacheError
        It is no store's address, or what reaches it is not installed.
    """
    return StageOneStore(
        store=open_store(fspath(store)),
        progress=progress,
        push=push,
        wait=wait,
        by=by,
        confirm=confirm,
        most=DEFAULT_BYTES if max_cache_size is None else parse_size(max_cache_size),
        trust=None if signers is None else Trust(Path(signers), None if revoked is None else Path(revoked)),
    )


def _useful_keys(keys: Mapping[str, npt.NDArray[np.uint8]], name: str, views: Views) -> npt.NDArray[np.uint8]:
    """Return the keys (N, 16) uint8 of all splits that can serve a split."""
    return np.concatenate(
        [np.empty((0, KEY_BYTES), np.uint8), *(keys[one] for one in useful_splits(keys, name, views))]
    )


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
        "reading": [text for _, text in texts_of("reading", list(dataset.reading.values()))],
        "teacher": [asked.files.name],
    }
    for what, names in found.items():
        for name in names:
            check_text(what, name)
    return {what: names for what, names in found.items() if names}


def announced(
    store: StageOneStore | None, cache_id: str, total: int, progress: Progress
) -> AbstractContextManager[Progress]:
    """Return the context in which a cache is computed."""
    return nullcontext(progress) if store is None else store.announced(cache_id, total, progress)
