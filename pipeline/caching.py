"""Stage one: a dataset and a teacher become a sealed cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ..cache.errors import CacheIncomplete, DataError, TeacherError
from ..cache.life import Action
from ..cache.lock import Lock, locked
from ..cache.reader import Cache
from ..cache.work import WorkDirectory, work_path
from ..cache.writer import put_back, write_cache
from .planning import Plan, capable_precision, count_kept, decide_again, load_teacher

if TYPE_CHECKING:
    from .features import Computed

__all__ = ["Made", "cache_teacher"]

Tell = Callable[[str], None]
Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, kw_only=True)
class Made:
    """What stage one did."""

    cache: Cache
    action: Action
    computed: int
    kept: int
    images_per_second: float | None
    seconds: float


def cache_teacher(
    asked: Plan,
    progress: Progress,
    *,
    wait: bool = True,
    tell: Tell = lambda _: None,
    again: str = "the same command",
) -> Made:
    """Carry out a plan: compute what is missing, fit the probe, seal.

    Parameters
    ----------
    progress : called with a title, a total and what is done; gives a context that yields the function to advance by
    wait : wait for another process that is making the same target, and reuse what it made
    tell : called with what the user should know while it happens
    again : what to run to go on after an interruption, for messages

    Raises
    ------
    DataError
        Images cannot be read (all of them are listed).
    TeacherError
        The teacher computes values that are not finite.
    CacheBusy
        Another process is making the target, and `wait` is not set.
    CacheIncomplete
        Interrupted by Ctrl-C, a full disk or a lost mount; what is finished is kept.
    """
    begun = time.monotonic()
    made = _reused(asked)
    if made is None:
        with locked(asked.target, wait=wait, tell=tell) as lock:
            # Another process may have finished it while this one waited, or died between two renames.
            put_back(asked.target)
            asked = decide_again(asked)
            made = _reused(asked) or _make(asked, lock, progress, tell, again)
    return replace(made, seconds=time.monotonic() - begun)


def _reused(asked: Plan) -> Made | None:
    if asked.action != "reuse" or asked.existing is None:
        return None
    return Made(
        cache=asked.existing, action="reuse", computed=0, kept=asked.images, images_per_second=None, seconds=0.0
    )


def _make(asked: Plan, lock: Lock, progress: Progress, tell: Tell, again: str) -> Made:
    # Torch and scikit-learn come in here, and not for a cache that is there already.
    from .assembly import assemble_arrays, describe_cache

    work = WorkDirectory(work_path(asked.target))
    try:
        computed, how = _compute(asked, work, lock, progress)
        arrays, probe = assemble_arrays(asked, computed, tell)
        lock.check()
        cache = write_cache(asked.target, arrays, describe_cache(asked, arrays, probe, how))
        work.remove()
    except (DataError, TeacherError) as error:
        # Images that cannot be decoded and features that are no numbers come back with every try: what was computed
        # is of no use. A cause says that something else gave out, memory for one, and that another try may succeed.
        if error.__cause__ is None or not _count_kept(asked):
            work.remove()
        raise
    except (OSError, KeyboardInterrupt) as error:
        happened = "by Ctrl-C" if isinstance(error, KeyboardInterrupt) else f"by the file system ({error})"
        raise CacheIncomplete(
            f"Stopped {happened}: {_count_kept(asked)} of {asked.images} images are done and kept in "
            f"'{work.path}'. Go on with: {again}"
        ) from error
    return Made(
        cache=cache,
        action=asked.action,
        computed=computed.images,
        kept=computed.kept,
        images_per_second=computed.images / computed.seconds if computed.images else None,
        seconds=0.0,
    )


def _count_kept(asked: Plan) -> int:
    try:
        return count_kept(asked)
    except OSError:
        # The mount is gone, and with it the means to count.
        return 0


def _compute(asked: Plan, work: WorkDirectory, lock: Lock, progress: Progress) -> tuple[Computed, Mapping[str, Any]]:
    """Bring every feature to disk and return where, and how it was computed."""
    from .features import compute_features, count_rows, trusted_precision

    how = work.read_settings() if asked.action == "resume" else None
    if how is None:
        teacher, used, cosine = trusted_precision(
            asked.dataset,
            asked.rows,
            asked.preprocessing,
            capable_precision(asked),
            lambda precision: load_teacher(asked, precision),
        )
        how = {
            "cache_id": asked.cache_id,
            "request": dict(asked.request),
            "medal": version("medalmighty"),
            "precision_used": used,
            "min_cosine_to_fp32": cosine,
            "batch_size": asked.settings.batch_size,
        }
        work.begin(how)
    else:
        teacher = load_teacher(asked, how["precision_used"])
    done = work.chunks()
    with progress("teacher", asked.images, count_rows(asked.rows, how["batch_size"], done)) as advance:

        def durable(count: int) -> None:
            lock.check()
            advance(count)

        computed = compute_features(
            asked.dataset, asked.rows, teacher, asked.preprocessing, work, done, how["batch_size"], durable
        )
    if computed.bad:
        raise DataError(
            f"{len(computed.bad)} of {asked.images} images cannot be read; mend or remove them and run the same "
            "command again:\n  " + "\n  ".join(computed.bad)
        )
    return computed, how
