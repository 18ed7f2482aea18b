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
from .known import Known, find_fresh, stage_known
from .machine import describe_machine
from .planning import Plan, capable_precision, count_kept, decide_again, load_teacher
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
    if made is None or _is_left(asked):
        with locked(asked.target, wait=wait, tell=tell) as lock:
            # Another process may have finished it while this one waited, or died between two renames.
            put_back(asked.target)
            asked = decide_again(asked)
            made = _reused(asked) or _make(asked, lock, progress, tell, again)
            if _is_left(asked):
                WorkDirectory(work_path(asked.target)).remove()
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


def _is_left(asked: Plan) -> bool:
    """Tell whether the work on a sealed cache still stands beside it, as a kill at the last moment leaves it."""
    left = WorkDirectory(work_path(asked.target)).read_settings()
    return asked.existing is not None and left is not None and left.get("cache_id") == asked.existing.cache_id


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
) -> tuple[Computed, dict[str, Known], Mapping[str, Any]]:
    """Bring every feature to disk and return what is new, what was taken over, and how the new came about."""
    from .features import Computed, FeatureTask, compute_chunks, compute_features, sort_out

    fresh = find_fresh(asked.sources, asked.rows, asked.settings.stored_views)
    images = int(sum(rows.sum() for rows in fresh.values()))
    teacher, how = _begin(asked, work, images > 0, tell)
    done = work.chunks()
    dim = feature_dim(asked.files.config, asked.settings.feature)
    known = {
        split: stage_known(asked.sources, split, part, asked.settings.stored_views, dim, work.scratch(f"known-{split}"))
        for split, part in asked.rows.items()
    }
    if asked.sources:
        tell(f"{asked.images - images} of {asked.images} images are taken over, not computed")
    if teacher is None:
        return Computed(chunks={}), known, how
    task = FeatureTask(
        dataset=asked.dataset,
        rows={split: part.take(fresh[split]) for split, part in asked.rows.items()},
        preprocessing=asked.preprocessing,
        views=asked.settings.stored_views,
        batch_size=how["batch_size"],
    )
    chunks, bad = sort_out(task, done)
    todo = [plan for plan in task.plan() if (plan.split, plan.start) not in chunks]
    with progress("teacher", images, images - sum(map(len, todo))) as advance:

        def durable(count: int) -> None:
            lock.check()
            advance(count)

        computed = compute_features(
            lambda plans: compute_chunks(task, teacher, plans, advance=durable), todo, work, tell
        )
    computed.chunks |= chunks
    # In the rows that were asked for, not in those that were left to compute.
    place = {split: np.flatnonzero(rows) for split, rows in fresh.items()}
    computed.bad = {(split, int(place[split][row])): error for (split, row), error in (bad | computed.bad).items()}
    return computed, known, how


def _begin(asked: Plan, work: WorkDirectory, needed: bool, tell: Tell) -> tuple[Teacher | None, Mapping[str, Any]]:
    """Load the teacher, if any image needs it, as a resumed run says or as this one will; write that down first."""
    from .precision import default_batch_size, fitting_batch_size, trusted_precision
    from .teacher import pick_device

    taken = [source.content_digest for source in asked.sources]
    here = describe_machine(asked.settings.device)
    how = dict((asked.action == "resume" and work.read_settings()) or {})
    if how and how["taken_from"] != taken:
        # What is left to compute, and so the partition into chunks, is another one.
        tell("the caches that features are taken over from are others than before; beginning anew")
        how = {}
    if how:
        teacher = load_teacher(asked, how["precision_used"]) if needed else None
        if here not in how["computed_on"]:
            tell(
                "warning: this machine or its libraries are others than those that began this cache: what is done is "
                "kept, and the rest may differ from it in the last bits"
            )
            how["computed_on"] = [*how["computed_on"], here]
            work.note(how)
        return teacher, how
    teacher, used, cosine, batch_size = None, None, None, None
    if needed:
        teacher, used, cosine = trusted_precision(
            asked.dataset,
            asked.rows,
            asked.preprocessing,
            capable_precision(asked),
            lambda precision: load_teacher(asked, precision),
        )
        device = pick_device(asked.settings.device)
        batch_size = asked.settings.batch_size or default_batch_size(device)
        if teacher.device.type != "cpu":
            batch_size = fitting_batch_size(teacher, asked.preprocessing, batch_size)
    how = {
        "cache_id": asked.cache_id,
        "request": dict(asked.request),
        "medal": version("medalmighty"),
        "precision_used": used,
        "min_cosine_to_fp32": cosine,
        "batch_size": batch_size,
        "computed_on": [here] if needed else [],
        "taken_from": taken,
    }
    work.begin(how)
    return teacher, how
