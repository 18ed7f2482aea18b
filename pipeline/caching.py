"""Stage one: a dataset and a teacher become a sealed cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache.errors import CacheIncomplete, TeacherError
from ..cache.life import Action
from ..cache.lock import Lock, locked
from ..cache.reader import Cache
from ..cache.work import WorkDirectory, work_path
from ..cache.writer import put_back, write_cache
from .known import Known, stage_known
from .planning import Plan, capable_precision, count_kept, count_known, decide_again, load_teacher
from .skipped import list_path, reason_counts, refuse_bad, without_bad, write_list
from .teacher_files import feature_dim

if TYPE_CHECKING:
    from .features import Computed
    from .teacher import Teacher

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
        Images cannot be used (all of them are listed) and were not to be skipped, or too little is left.
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
        cache=asked.existing,
        action="reuse",
        computed=0,
        kept=sum(asked.existing.manifest.rows.values()),
        images_per_second=None,
        seconds=0.0,
    )


def _make(asked: Plan, lock: Lock, progress: Progress, tell: Tell, again: str) -> Made:
    # Torch and scikit-learn come in here, and not for a cache that is there already.
    from .assembly import assemble_arrays, describe_cache

    work = WorkDirectory(work_path(asked.target))
    try:
        computed, known, how = _compute(asked, work, lock, progress, tell)
        asked = _without_bad(asked, computed, work, tell)
        arrays, probe = assemble_arrays(asked, computed, known, tell)
        lock.check()
        cache = write_cache(asked.target, arrays, describe_cache(asked, arrays, probe, how))
        write_list(asked.target, asked.skipped)
        work.remove()
    except TeacherError:
        # Where nothing is durable yet, there is nothing that another try could go on from.
        if not _count_kept(asked):
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
        kept=asked.images - computed.images,
        images_per_second=computed.images / computed.seconds if computed.images else None,
        seconds=0.0,
    )


def _count_kept(asked: Plan) -> int:
    try:
        return count_kept(asked)
    except OSError:
        # The mount is gone, and with it the means to count.
        return 0


def _without_bad(asked: Plan, computed: Computed, work: WorkDirectory, tell: Tell) -> Plan:
    """Refuse images that cannot be used, or go on without them if that was asked for."""
    if computed.bad and asked.settings.on_bad_image == "fail":
        kept = asked.images - len(computed.bad)
        if not kept:
            work.remove()
        raise refuse_bad(computed.bad, asked.images, kept, work.path)
    if computed.bad:
        rows, skipped = without_bad(asked.dataset, asked.rows, computed.bad)
        asked = replace(asked, rows=rows, skipped=(*asked.skipped, *skipped))
    if asked.skipped:
        counts = ", ".join(f"{reason} {count}" for reason, count in reason_counts(asked.skipped).items())
        tell(f"warning: {len(asked.skipped)} images are left out ({counts}); '{list_path(asked.target)}' lists them")
    return asked


def _compute(
    asked: Plan, work: WorkDirectory, lock: Lock, progress: Progress, tell: Tell
) -> tuple[Computed, Known, Mapping[str, Any]]:
    """Bring every feature to disk and return what is new, what was taken over, and how the new came about."""
    from .features import Computed, compute_features, record_dtype

    teacher, how = _begin(asked, work, tell)
    done = work.chunks()
    record = record_dtype(feature_dim(asked.files.config, asked.settings.feature))
    known = stage_known(asked.sources, asked.rows, record, work.scratch("known"))
    missing = {split: known.find(part.key) < 0 for split, part in asked.rows.items()}
    fresh = {split: part.take(missing[split]) for split, part in asked.rows.items()}
    if asked.sources:
        tell(f"{asked.images - sum(map(len, fresh.values()))} of {asked.images} images are taken over, not computed")
    if teacher is None:
        return Computed(chunks={}), known, how
    images = sum(map(len, fresh.values()))
    with progress("teacher", images, sum(chunk.rows for chunk in done.values())) as advance:

        def durable(count: int) -> None:
            lock.check()
            advance(count)

        computed = compute_features(
            asked.dataset, fresh, teacher, asked.preprocessing, work, done, how["batch_size"],
            advance=durable, tell=tell,
        )  # fmt: skip
    # In the rows that were asked for, not in those that were left to compute.
    place = {split: np.flatnonzero(rows) for split, rows in missing.items()}
    computed.bad = {(split, int(place[split][row])): error for (split, row), error in computed.bad.items()}
    return computed, known, how


def _begin(asked: Plan, work: WorkDirectory, tell: Tell) -> tuple[Teacher | None, Mapping[str, Any]]:
    """Load the teacher, if any image needs it, as a resumed run says or as this one will; write that down first."""
    from .features import trusted_precision

    taken = [source.content_digest for source in asked.sources]
    needed = count_known(asked) < asked.images
    how = work.read_settings() if asked.action == "resume" else None
    if how is not None and how["taken_from"] != taken:
        # What is left to compute, and so the partition into chunks, is another one.
        tell("the caches that features are taken over from are others than before; beginning anew")
        how = None
    if how is not None:
        return load_teacher(asked, how["precision_used"]) if needed else None, how
    teacher, used, cosine = None, None, None
    if needed:
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
        "taken_from": taken,
    }
    work.begin(how)
    return teacher, how
