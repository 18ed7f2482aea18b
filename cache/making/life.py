"""Decides what to do about a target before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import CacheCorrupt, CacheError, CacheIncomplete, CacheMismatch, CacheNotFound
from ..format.forms import form_of
from ..reader import Cache, open_cache
from ..verify import verify
from .recognise import CACHE
from .work import WorkDirectory, work_path

__all__ = ["Action", "Found", "decide", "differences", "find_at", "holds_others", "refuse_others"]

Action = Literal["create", "resume", "extend", "reuse", "pulled"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What stands at a target: a sealed cache, something that cannot be used, and unfinished work beside it.

    `working_on` is the record of the unfinished work; `stranger`: something that medal did not make is in its place;
    `mixed`: the target also holds files that medal did not write, which a replacement would delete.
    """

    target: Path
    cache: Cache | None = None
    other: CacheError | None = None
    working_on: Mapping[str, Any] | None = None
    stranger: bool = False
    mixed: bool = False


def find_at(target: Path, *, thorough: bool = False) -> Found:
    """Look at a target and its work directory; a thorough look reads every byte of a cache that is there."""
    form_of(target)
    work = WorkDirectory(work_path(target))
    found = Found(target=target, working_on=work.read_settings(), stranger=work.is_strange())
    try:
        cache = open_cache(target)
        problems = verify(cache) if thorough else list(cache.survey().problems)
        if problems:
            raise CacheCorrupt(f"'{target}' holds a damaged cache: {problems[0]}")
    except CacheNotFound:
        return found
    except CacheError as error:
        return replace(found, other=error, mixed=holds_others(target))
    return replace(found, cache=cache)


def holds_others(target: Path) -> bool:
    """Tell whether a target holds anything that medal did not put there.

    Names are not enough: any Zarr store has such files, but neither manifest nor seal.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    if target.is_dir() and not any((target / name).is_file() for name in ("manifest.json", "seal.json")):
        return True
    return not CACHE.is_part(target)


def refuse_others(target: Path) -> CacheMismatch:
    """Return the error for a target with files that medal did not write."""
    if target.is_dir():
        return CacheMismatch(
            f"'{target}' holds files that medal did not write, and --overwrite would delete them; move them away, or "
            "give another OUT."
        )
    return CacheMismatch(
        f"'{target}' is not a medal cache, and --overwrite would delete it; move it away, or give another OUT."
    )


def decide(
    found: Found,
    cache_id: str,
    request: Mapping[str, Any],
    *,
    overwrite: bool = False,
    grown: bool = False,
    known: bool = False,
) -> Action:
    """Decide what to do: a pure function of what exists and what is requested.

    Parameters
    ----------
    grown : the request is for all images of the cache that is there and more, with features of the same kind
    known : features of some images can be reused from sealed caches

    Raises
    ------
    CacheMismatch
        The target holds something else, and `overwrite` is not set.
    """
    if found.cache is not None and found.cache.cache_id == cache_id:
        return "reuse"
    if found.stranger:
        raise CacheMismatch(
            f"'{work_path(found.target)}' is in the place of the work folder, and medal did not make it; move it "
            "away, or give another OUT."
        )
    if not overwrite and not grown and found.cache is not None:
        different = ", ".join(differences(found.cache.manifest.raw.get("request", {}), request)) or "its request"
        raise CacheMismatch(
            f"'{found.target}' holds a different cache: it differs in {different}. Give another OUT, or --overwrite "
            "to replace it when the new one is sealed."
        )
    if found.mixed and overwrite:
        raise refuse_others(found.target)
    if not overwrite and found.other is not None:
        remedy = "Give another OUT, or --overwrite to replace it when the new one is sealed."
        if found.mixed:
            remedy = "Give another OUT."
        if isinstance(found.other, CacheIncomplete):
            raise CacheMismatch(f"'{found.target}' exists and is not a sealed cache. {remedy}") from found.other
        raise type(found.other)(f"{found.other} {remedy}") from found.other
    if found.working_on is None or found.working_on.get("cache_id") == cache_id:
        return "resume" if found.working_on is not None else "extend" if known else "create"
    if not overwrite:
        different = ", ".join(differences(_request(found.working_on), request)) or "its request"
        raise CacheMismatch(
            f"'{work_path(found.target)}' holds a different unfinished cache: it differs in {different}. Repeat its "
            "command to finish it, give another OUT, or --overwrite to delete it."
        )
    return "extend" if known else "create"


def _request(record: Mapping[str, Any]) -> Mapping[str, Any]:
    request = record.get("request")
    return request if isinstance(request, dict) else {}


def differences(there: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the fields in which two requests differ, as ``name (there, asked for here)``."""
    found: list[str] = []
    for name in sorted(set(there) | set(asked)):
        one, other = there.get(name), asked.get(name)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name} ({_short(one)}, asked for: {_short(other)})")
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"
