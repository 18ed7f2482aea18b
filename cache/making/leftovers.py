"""What killed or abandoned commands left behind: found by its name, removed under the lock of its target.

Drafts have names that only medal makes (`writer.beside`). Work has a name that anybody may use (OUT.work,
RUN.unfinished), and is medal's if medal's record of it is in there. Nothing is removed that a living process holds,
that is not medal's, or that may be the only copy of something finished: a folder is replaced by two renames, and
whoever is killed between them leaves the old one under a hidden name.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..errors import CacheBusy, CacheError
from ..format.forms import SUFFIXES
from ..machine.system_files import is_system_folder
from ..progress import Tell
from .lock import holder_of, is_abandoned, lock_path, lock_target, locked, remove_abandoned
from .writer import put_back, remove

__all__ = ["Action", "Kind", "Leftover", "Outcome", "action_for", "find_leftovers", "inside", "take_away"]

Action = Literal["remove", "put back", "leave"]
State = Literal["abandoned", "only copy", "perhaps the only copy", "mixed"]

_DRAFT_KINDS = {"sealing": "draft", "pulling": "unfinished pull", "replaced": "replaced copy"}
_DRAFT = re.compile(r"\.(.+)\.medal-(sealing|pulling|replaced)(\.[^.]+)?")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Something that medal makes in a work folder beside the target, and how that work is recognised.

    Attributes
    ----------
    work : name of its unfinished work
    suffix : what the name of its work folder has behind the target's
    last : the file of the work folder that is removed last, if only that file identifies the rest
    is_work : tells whether a folder with that suffix is such work, whatever else may be in it
    is_part : tells whether a path holds parts of a finished or unfinished one, and nothing else
    is_finished : tells whether a path holds a finished one
    count : what there is to say about the work folder beside its files
    """

    work: str
    suffix: str
    last: str | None
    is_work: Callable[[Path], bool]
    is_part: Callable[[Path], bool]
    is_finished: Callable[[Path], bool]
    count: Callable[[Path], Mapping[str, int]] = lambda _: {}


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """Something that was left behind.

    Attributes
    ----------
    target : the path it belongs to, whose lock is needed to remove it
    bytes : lengths of all files in it
    age_seconds : since the newest modification in it
    holds : counts, by "files" or by "chunks" and "images"
    held_by : who holds the target's lock, in words
    last : the file in it that is removed last
    """

    path: Path
    target: Path
    kind: str
    state: State
    bytes: int
    age_seconds: float
    holds: Mapping[str, int]
    held_by: str | None = None
    last: str | None = None


@dataclass
class Outcome:
    """What was done about leftovers; `failed` counts those that could not be removed."""

    removed: list[Path] = field(default_factory=list)
    put_back: list[Path] = field(default_factory=list)
    freed: int = 0
    failed: int = 0


def action_for(leftover: Leftover) -> Action:
    """Decide what to do about a leftover."""
    if leftover.held_by is not None:
        return "leave"
    if leftover.state == "abandoned":
        return "remove"
    return "put back" if leftover.state == "only copy" else "leave"


# ── Finding ──────────────────────────────────────────────────────────────────────────────────────────────────────


def find_leftovers(
    folders: Iterable[Path], kinds: Sequence[Kind], *, older_than: float = 0.0, tell: Tell
) -> list[Leftover]:
    """Search folders and their subfolders; a given folder may itself be a leftover.

    Links inside are not followed, and caches, work and runs not descended into.

    Parameters
    ----------
    older_than : seconds since the newest modification
    tell : called for each folder that cannot be looked at
    """
    found: list[Leftover] = []
    seen: set[tuple[int, int]] = set()
    asked = [(path, True) for path in folders]
    waiting = list(asked)
    while waiting:
        here, is_folder = waiting.pop()
        try:
            if is_folder:
                status = here.stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            leftover = leftover_at(here, kinds)
            if leftover is not None:
                found.append(leftover)
            elif is_folder and ((here, True) in asked or not _is_made(here, kinds)):
                with os.scandir(here) as entries:
                    inner = [(here / entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
                # Of the files only hidden ones can be medal's, and folders of images are large.
                waiting += [(path, is_one) for path, is_one in inner if is_one or path.name.startswith(".")]
        except FileNotFoundError:
            # Whoever works there has just moved or removed it.
            continue
        except OSError as error:
            tell(f"'{here}' could not be looked at: {error.strerror or error}")
        except RecursionError:
            tell(f"'{here}' could not be looked at: a file in it is nested too deep to be read")
    old = (leftover for leftover in found if leftover.age_seconds >= older_than)
    return [replace(one, held_by=holder_of(one.target)) for one in sorted(old, key=lambda one: one.path)]


def _is_made(folder: Path, kinds: Sequence[Kind]) -> bool:
    return folder.suffix in SUFFIXES or any(kind.is_finished(folder) for kind in kinds)


def leftover_at(path: Path, kinds: Sequence[Kind]) -> Leftover | None:
    """Return the leftover at a path, if there is one, without checking who holds it."""
    if path.is_symlink():
        return None
    target = lock_target(path)
    if target is not None:
        return _leftover(path, target, "dead lock", "abandoned") if is_abandoned(path) else None
    draft = _DRAFT.fullmatch(path.name)
    if draft is not None:
        target = path.with_name(draft[1] + (draft[3] or ""))
        state: State = _state_of_replaced(target, kinds) if draft[2] == "replaced" else "abandoned"
        return _leftover(path, target, _DRAFT_KINDS[draft[2]], state)
    for kind in kinds:
        if path.name.endswith(kind.suffix) and path.is_dir() and kind.is_work(path):
            state = "abandoned" if kind.is_part(path) else "mixed"
            target = path.with_name(path.name.removesuffix(kind.suffix))
            return replace(_leftover(path, target, kind.work, state, kind.count(path)), last=kind.last)
    return None


def _state_of_replaced(target: Path, kinds: Sequence[Kind]) -> State:
    if not os.path.lexists(target):
        return "only copy"
    return "abandoned" if any(kind.is_finished(target) for kind in kinds) else "perhaps the only copy"


def _leftover(path: Path, target: Path, kind: str, state: State, holds: Mapping[str, int] | None = None) -> Leftover:
    size, files, newest = 0, 0, path.lstat().st_mtime
    for entry in inside(path) if path.is_dir() else [path]:
        try:
            status = entry.lstat()
        except FileNotFoundError:
            continue
        newest = max(newest, status.st_mtime)
        if not entry.is_dir() or entry.is_symlink():
            size, files = size + status.st_size, files + 1
    return Leftover(
        path=path,
        target=target,
        kind=kind,
        state=state,
        bytes=size,
        age_seconds=max(0.0, time.time() - newest),
        holds=holds or {"files": files},
    )


def inside(folder: Path) -> Iterator[Path]:
    """Yield everything in a folder and below; links are yielded, not followed, nor folders of the operating system."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield Path(entry.path)
                if entry.is_dir(follow_symlinks=False) and not is_system_folder(entry.name):
                    waiting.append(Path(entry.path))


# ── Removing ─────────────────────────────────────────────────────────────────────────────────────────────────────


def take_away(found: Iterable[Leftover], kinds: Sequence[Kind], *, older_than: float = 0.0, tell: Tell) -> Outcome:
    """Remove or put back leftovers, target by target; each is checked again once its lock is held.

    Parameters
    ----------
    tell : called with the reason for each that is not removed
    """
    targets: dict[Path, list[Leftover]] = {}
    for leftover in found:
        if action_for(leftover) != "leave":
            targets.setdefault(leftover.target, []).append(leftover)
    outcome = Outcome()
    for target, group in targets.items():
        holder = holder_of(target)
        if holder is not None:
            tell(f"Left alone: '{target}' is now held by {holder}.")
            continue
        try:
            with locked(target, wait=False, tell=lambda _: None, remedy="clean it later") as lock:
                for leftover in group:
                    lock.check()
                    _take(leftover, kinds, older_than, outcome, tell)
        except CacheBusy as error:
            tell(f"Left alone: {str(error).partition(';')[0]}.")
        except (CacheError, OSError) as error:
            outcome.failed += 1
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "; its lock needs a few kB, so free these by hand and run the same command again" if full else ""
            tell(f"What was left of '{target}' could not be removed: {error}{remedy}")
    return outcome


def _take(leftover: Leftover, kinds: Sequence[Kind], older_than: float, outcome: Outcome, tell: Tell) -> None:
    path = leftover.path
    if path == lock_path(leftover.target) or (leftover.kind == "dead lock" and not os.path.lexists(path)):
        # Taken over just now, and gone once this process lets go of it; so may be a claim on it.
        outcome.removed.append(path)
        outcome.freed += leftover.bytes
        return
    again = leftover_at(path, kinds) if os.path.lexists(path) else None
    if again is None or (again.kind, again.state) != (leftover.kind, leftover.state) or again.age_seconds < older_than:
        tell(f"Left alone: '{path}' has changed since it was listed.")
    elif action_for(again) == "put back":
        put_back(again.target)
        outcome.put_back.append(again.target)
    elif _remove(again):
        outcome.removed.append(path)
        outcome.freed += again.bytes
    else:
        outcome.failed += 1
        tell(f"'{path}' could not be removed; try again.")


def _remove(leftover: Leftover) -> bool:
    path = leftover.path
    if leftover.kind == "dead lock":
        return remove_abandoned(path)
    if leftover.last is not None:
        # A removal that is killed leaves what a second one recognises.
        for item in path.iterdir():
            if item.name != leftover.last:
                remove(item)
    remove(path)
    return True
