"""Caches in a store that replace a teacher that cannot be loaded here, because it is offline or gated.

A cache's id needs the digest of the weights, so that without them none is looked up; `medal pull` takes one by name.
"""

from __future__ import annotations

import shlex
from difflib import get_close_matches

from ...cache.progress import Tell
from ...cache.store.place.layout import Entry
from ...cache.text import plain
from ..datasets.opening import dataset_name
from .sharing import StageOneStore

__all__ = ["name_substitutes"]

# As many as can be read in a sentence, by as many digits of an id as tell it from others.
_MOST, _ID_DIGITS = 3, 12


def name_substitutes(store: StageOneStore, teacher: str, spec: str, out: str | None, tell: Tell) -> str | None:
    """Return a sentence with the commands that pull caches by a teacher of such a name; None where there are none.

    The last part of the name counts, as a folder has that alone, and near ones do where none is the same. Caches of a
    dataset of the same name come first.
    """
    by_name: dict[str, dict[str, Entry]] = {}
    for entry in store.entries(tell):
        by_name.setdefault(_last_name(str(entry.summary.get("teacher"))), {}).setdefault(entry.cache_id, entry)
    asked = _last_name(teacher)
    names = [asked] if asked in by_name else get_close_matches(asked, by_name)
    found = [entry for name in names for entry in by_name[name].values()]
    if not found:
        return None
    found.sort(key=lambda entry: entry.summary.get("dataset") != dataset_name(spec))
    url, offers = store.store.url, ", or ".join(_offer(store, entry, out) for entry in found[:_MOST])
    rest = f" ({len(found) - _MOST} more: {shlex.join(['medal', 'list', url])})" if len(found) > _MOST else ""
    return (
        f"Store '{url}' has caches that need no teacher: {offers}{rest}. To see if one fits your images: medal show "
        f"CACHE {shlex.quote(spec)}"
    )


def _offer(store: StageOneStore, entry: Entry, out: str | None) -> str:
    """Return the command that pulls a cache, and what that is; its names come from a stranger."""
    words = ["medal", "pull", entry.cache_id[:_ID_DIGITS], store.store.url, *([] if out is None else [out])]
    if store.trust is not None:
        words += ["--signers", str(store.trust.signers)]
    said = entry.summary
    dataset, teacher = (plain(str(said.get(name)))[:60] for name in ("dataset", "teacher"))
    return f"{shlex.join(words)} ('{dataset}' by '{teacher}', {said.get('image_size')} px)"


def _last_name(teacher: str) -> str:
    return teacher.rstrip("/").rpartition("/")[2]
