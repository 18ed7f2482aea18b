"""The features of a plan brought to disk: by this process, or by all ranks of a team."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..cache.errors import CacheMismatch, DataError
from ..cache.lock import Lock
from ..cache.work import WorkDirectory, work_path
from .chunks import ChunkPlan, ComputedChunk
from .datasets.dataset import DatasetOptions
from .features import Computed, FeatureTask, compute_chunks, compute_features, sort_out
from .known import Known, find_fresh, stage_known
from .machine import describe_machine
from .planning import Plan, capable_precision, load_teacher, prepare
from .precision import default_batch_size, fitting_batch_size, trusted_precision
from .ranks import Team
from .request import CacheSettings
from .teacher import Teacher, pick_device
from .teacher_files import feature_dim

__all__ = ["compute", "follow"]

Tell = Callable[[str], None]
Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]


def compute(
    asked: Plan, work: WorkDirectory, lock: Lock, team: Team, progress: Progress, tell: Tell
) -> tuple[Computed, dict[str, Known], Mapping[str, Any]]:
    """Bring every feature to disk and return what is new, what was taken over, and how the new came about."""
    fresh = find_fresh(asked.sources, asked.rows, asked.settings.stored_views)
    images = int(sum(rows.sum() for rows in fresh.values()))
    teacher, how = _begin(asked, work, images > 0, tell)
    done = work.chunks()
    known = _take_over(asked, work)
    if asked.sources:
        tell(f"{asked.images - images} of {asked.images} images are taken over, not computed")
    if teacher is None:
        return Computed(chunks={}), known, how
    task = _task(asked, fresh, how["batch_size"])
    chunks, bad = sort_out(task, done)
    todo = [plan for plan in task.plan() if (plan.split, plan.start) not in chunks]
    team.say("task", _describe_task(asked, how, todo))
    mine = team.share(todo)
    others = sum(map(len, todo)) - sum(map(len, mine))
    with progress("teacher", images - others, images - sum(map(len, todo))) as advance:

        def durable(count: int) -> None:
            lock.check()
            advance(count)

        computed = compute_features(_run(task, teacher, durable), mine, work, tell)
    if team.others:
        _gather(computed, team, work)
    computed.chunks |= chunks
    # In the rows that were asked for, not in those that were left to compute.
    place = {split: np.flatnonzero(rows) for split, rows in fresh.items()}
    computed.bad = {(split, int(place[split][row])): error for (split, row), error in (bad | computed.bad).items()}
    return computed, known, how


def _begin(asked: Plan, work: WorkDirectory, needed: bool, tell: Tell) -> tuple[Teacher | None, Mapping[str, Any]]:
    """Load the teacher, if any image needs it, as a resumed run says or as this one will; write that down first."""
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
        "tuned": asked.tuned,
    }
    work.begin(how)
    return teacher, how


def _take_over(asked: Plan, work: WorkDirectory) -> dict[str, Known]:
    views, dim = asked.settings.stored_views, feature_dim(asked.files.config, asked.settings.feature)
    return {
        split: stage_known(asked.sources, split, part, views, dim, work.scratch(f"known-{split}"))
        for split, part in asked.rows.items()
    }


def _task(asked: Plan, fresh: Mapping[str, Any], batch_size: int) -> FeatureTask:
    return FeatureTask(
        dataset=asked.dataset,
        rows={split: part.take(fresh[split]) for split, part in asked.rows.items()},
        preprocessing=asked.preprocessing,
        views=asked.settings.stored_views,
        batch_size=batch_size,
    )


def _run(
    task: FeatureTask, teacher: Teacher, advance: Callable[[int], None]
) -> Callable[[Sequence[ChunkPlan]], Iterable[ComputedChunk]]:
    def run(plans: Sequence[ChunkPlan]) -> Iterator[ComputedChunk]:
        return compute_chunks(task, teacher, plans, advance)

    return run


# ── Ranks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _describe_task(asked: Plan, how: Mapping[str, Any], todo: Sequence[ChunkPlan]) -> dict[str, Any]:
    """Return as JSON what a follower cannot find out by itself."""
    return {
        "cache_id": asked.cache_id,
        "work": str(work_path(asked.target).resolve()),
        "sources": [str(source.path.resolve()) for source in asked.sources],
        "feature": asked.settings.feature,
        "image_size": asked.preprocessing.image_size,
        "precision": how["precision_used"],
        "batch_size": how["batch_size"],
        "todo": [(plan.split, plan.start) for plan in todo],
    }


def follow(team: Team, spec: str, options: DatasetOptions, settings: CacheSettings, tell: Tell) -> None:
    """Compute this rank's share of what rank 0 asks for, if it asks for anything.

    Raises
    ------
    CacheMismatch
        This rank finds other images than rank 0.
    ConnectionError
        Rank 0 is gone.
    """
    order = team.hear("task", 0)
    if order is None:
        return
    try:
        asked = prepare(spec, None, options, settings, sources=order["sources"])
        asked = asked.with_teacher(order["feature"], order["image_size"])
        computed = _obey(order, asked, team, tell)
    except BaseException as error:
        team.say("done", {"failed": str(error) or type(error).__name__})
        raise
    bad = [(split, row, str(error), error.reason) for (split, row), error in computed.bad.items()]
    team.say("done", {"images": computed.images, "bad": bad})


def _obey(order: Mapping[str, Any], asked: Plan, team: Team, tell: Tell) -> Computed:
    if asked.cache_id != order["cache_id"]:
        raise CacheMismatch(
            f"Rank {team.rank} finds other images, labels or teacher's weights than rank 0 under the same names; "
            "give all ranks the same files."
        )
    fresh = find_fresh(asked.sources, asked.rows, asked.settings.stored_views)
    task = _task(asked, fresh, order["batch_size"])
    wanted = set(map(tuple, order["todo"]))
    todo = [plan for plan in task.plan() if (plan.split, plan.start) in wanted]
    teacher = load_teacher(asked, order["precision"])
    work = WorkDirectory(Path(order["work"]))
    return compute_features(_run(task, teacher, lambda _: None), team.share(todo), work, tell)


def _gather(computed: Computed, team: Team, work: WorkDirectory) -> None:
    """Wait until all ranks have done their shares and add what they did."""
    begun = time.monotonic()
    for rank in team.others:
        reply = team.hear("done", rank)
        if "failed" in reply:
            raise ConnectionError(f"rank {rank} failed: {reply['failed']}")
        computed.images += reply["images"]
        computed.bad |= {(split, row): DataError(told, reason) for split, row, told, reason in reply["bad"]}
    computed.chunks = work.chunks()
    computed.seconds += time.monotonic() - begun
