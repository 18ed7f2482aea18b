"""Stage one: a dataset and a teacher become a sealed cache."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...cache.errors import CacheIncomplete, DataError, TeacherError
from ...cache.machine.permission import require_place
from ...cache.making.life import Action
from ...cache.making.lock import Lock, locked
from ...cache.making.work import WorkDirectory, work_path
from ...cache.making.writer import put_back, write_cache
from ...cache.progress import Alert, Progress, Tell
from ...cache.reader import Cache
from ...cache.store.publish import Pushed
from ..datasets.columns.dataset import DatasetOptions
from ..features.ranks import ALONE, Team
from ..planning.contrast import LOW_CONTRAST, check_views
from ..planning.plan import Plan, count_kept, decide_again, prepare
from ..planning.request import CacheSettings
from ..planning.skipped import list_path, reason_counts, refuse_bad, without_bad, write_list
from .sharing import StageOneStore, announced
from .substitutes import name_substitutes

if TYPE_CHECKING:
    from ..features.compute import StartEngine
    from ..features.extract import Computed

__all__ = ["Made", "cache_teacher", "foresee", "plan_cache"]


@dataclass(frozen=True, kw_only=True)
class Made:
    """Result of stage one.

    Attributes
    ----------
    cache : open
    action : create, resume, extend, reuse or pulled
    computed, kept : images sent through the teacher now, and images found durable
    images_per_second : computed / wall time from the first row read to the last row durable; None where none was
    pushed : what was published in a store, if that was asked for
    """

    cache: Cache
    action: Action
    computed: int
    kept: int
    images_per_second: float | None
    seconds: float
    pushed: Pushed | None = None


def plan_cache(
    spec: str,
    out: str | None,
    options: DatasetOptions,
    settings: CacheSettings,
    *,
    overwrite: bool = False,
    sources: Sequence[str] = (),
    store: StageOneStore | None = None,
    progress: Progress | None,
    tell: Tell = lambda _: None,
) -> Plan:
    """Decide everything before the teacher computes, and report what the user should know.

    Parameters
    ----------
    sources : sealed caches to take features over from
    store : names what others computed by a teacher that cannot be loaded here
    progress : as for `cache_teacher`; None where nothing is to be tried, as the work is only foreseen

    Raises
    ------
    MedalError
        As `plan.prepare` and `plan.decide_again` say.
    """
    try:
        asked = prepare(spec, out, options, settings, overwrite=overwrite, sources=sources)
    except TeacherError as error:
        remedy = None if store is None else name_substitutes(store, settings.teacher, spec, out, tell)
        if remedy is None:
            raise
        raise TeacherError(f"{error} {remedy}") from error
    if settings.tune:
        from .tuning import settle

        asked = settle(asked, progress, tell)
    asked = decide_again(asked)
    account = asked.dataset.account
    if account is not None and not account.left_out:
        tell(f"{account}")  # where something is left out, it has been said
    for warning in asked.warnings:
        tell(Alert(warning))
    if asked.drawing:
        tell(f"{asked.drawing}; now {', '.join(f'{len(part)} {split}' for split, part in asked.rows.items())}")
    return asked


def foresee(asked: Plan, store: StageOneStore | None, tell: Tell) -> tuple[Plan, int, float]:
    """Return the plan, the bytes of its cache and the seconds that the teacher needs."""
    from ..features.engine import estimate

    if store is not None and asked.action != "reuse" and store.find(asked.cache_id, tell) is not None:
        asked = replace(asked, action="pulled")
    return asked, *estimate(asked)


def cache_teacher(
    asked: Plan,
    progress: Progress,
    *,
    wait: bool = True,
    tell: Tell = lambda _: None,
    again: str = "the same command",
    team: Team = ALONE,
    store: StageOneStore | None = None,
) -> Made:
    """Carry out a plan: compute what is missing, fit the probe, seal.

    Parameters
    ----------
    progress : called with a title, a total and what is done; gives a context that yields the function to advance by
    wait : wait for another process that is making the same target, and reuse what it made
    tell : called with what the user should know while it happens
    again : what to run to go on after an interruption, for messages
    team : the processes that share the work, of which this one leads
    store : looked into first

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
        for place in (asked.target, work_path(asked.target)):
            require_place(place)
        with locked(asked.target, wait=wait, tell=tell) as lock:
            # Another process may have finished it while this one waited, or died between two renames.
            put_back(asked.target)
            asked = decide_again(asked)
            made = _reused(asked) or _pulled(asked, store, tell)
            if made is not None and made.action == "pulled":
                asked = replace(asked, existing=made.cache)
            if made is None:
                if store is not None:
                    asked = decide_again(store.with_features(asked, tell))
                with announced(store, asked.cache_id, asked.images, progress) as shown:
                    made = _make(asked, lock, team, shown, tell, again)
                    made = replace(made, pushed=store.offer(made.cache) if store else None)
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


def _pulled(asked: Plan, store: StageOneStore | None, tell: Tell) -> Made | None:
    """Pull the cache from the store, if the store has it."""
    cache = None if store is None else store.obtain(asked, tell)
    if cache is None:
        return None
    rows = sum(cache.manifest.rows.values())
    return Made(cache=cache, action="pulled", computed=0, kept=rows, images_per_second=None, seconds=0.0)


def _is_left(asked: Plan) -> bool:
    """Tell whether the work folder of a sealed cache still exists, after a kill at the last moment."""
    left = WorkDirectory(work_path(asked.target)).read_settings()
    return asked.existing is not None and left is not None and left.get("cache_id") == asked.existing.cache_id


def _make(asked: Plan, lock: Lock, team: Team, progress: Progress, tell: Tell, again: str) -> Made:
    # Torch and scikit-learn come in here, and not for a cache that is there already.
    from ..features.compute import compute
    from ..features.contrast import FeatureCheck
    from ..features.engine import capable_precision, load_teacher
    from .assembly import assemble_arrays, describe_cache

    start_engine: StartEngine | None = None
    if asked.settings.engine == "ray":
        from ..ray.engine import ray_engine as start_engine

    work = WorkDirectory(work_path(asked.target))
    try:
        seen = check_views(asked.dataset, asked.rows, asked.settings)
        contrast = seen.contrast or {}
        if seen.note:
            tell(Alert(seen.note))
        check = FeatureCheck(asked, lambda: load_teacher(asked, capable_precision(asked)))
        computed, known, how = compute(
            asked, work, lock, team, progress, tell, start_engine=start_engine, look=check.early
        )
        asked = _without_bad(asked, computed, work, tell)
        arrays, probe, alike = assemble_arrays(asked, computed, known, tell, check.look)
        contrast |= alike or {}
        if contrast:
            tell(_low_contrast(contrast))
        lock.check()
        cache = write_cache(asked.target, arrays, describe_cache(asked, arrays, probe, how, contrast), tell)
        write_list(asked.target, asked.skipped)
        work.remove()
    except DataError as error:
        if error.reason == LOW_CONTRAST:
            work.remove()  # with black and white chosen otherwise it is another cache, and begins anew
        raise
    except TeacherError:
        # Where nothing is durable yet, there is nothing that another try could go on from.
        if not _count_kept(asked):
            work.remove()
        raise
    except (OSError, KeyboardInterrupt) as error:
        raise CacheIncomplete(
            f"Stopped {_cause(error)}: {_count_kept(asked)} of {asked.images} images are finished and kept in "
            f"'{work.path}'. Continue with: {again}"
        ) from error
    return Made(
        cache=cache,
        action=asked.action,
        computed=computed.images,
        kept=asked.images - computed.images,
        images_per_second=computed.images / computed.seconds if computed.images else None,
        seconds=0.0,
    )


def _low_contrast(contrast: Mapping[str, Any]) -> Alert:
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in contrast.items())
    return Alert(f"the images are nearly one shade of grey ({told}); the cache records this")


def _cause(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "by Ctrl-C"
    # Of the processes that work together, one cannot be reached any more, or failed.
    return f"as {error}" if isinstance(error, ConnectionError) else f"by the file system ({error})"


def _count_kept(asked: Plan) -> int:
    try:
        return count_kept(asked)
    except OSError:
        # The mount is gone, and with it the means to count.
        return 0


def _without_bad(asked: Plan, computed: Computed, work: WorkDirectory, tell: Tell) -> Plan:
    """Refuse images that cannot be used, or continue without them if requested."""
    if computed.bad and asked.settings.on_bad_image == "fail":
        kept = asked.images - len(computed.bad)
        if not kept:
            work.remove()
        raise refuse_bad(computed.bad, asked.images, kept, work.path)
    if computed.bad:
        rows, skipped, warnings = without_bad(asked.dataset, asked.rows, computed.bad)
        for warning in set(warnings) - set(asked.warnings):
            tell(Alert(warning))
        asked = replace(asked, rows=rows, skipped=(*asked.skipped, *skipped))
    if asked.skipped:
        counts = ", ".join(f"{reason} {count}" for reason, count in reason_counts(asked.skipped).items())
        tell(Alert(f"{len(asked.skipped)} images are left out ({counts}); '{list_path(asked.target)}' lists them"))
    return asked
