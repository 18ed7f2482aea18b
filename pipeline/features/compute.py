"""The features of a plan brought to disk: by this process, by all ranks of a team, or by a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheMismatch, DataError
from ...cache.making.lock import Lock
from ...cache.making.work import WorkDirectory, work_path
from ...cache.progress import Alert, Progress, Tell
from ..datasets.columns.dataset import DatasetOptions
from ..planning.chunks import ChunkPlan
from ..planning.plan import Plan, prepare
from ..planning.request import CacheSettings
from ..planning.reused_features import Known, find_fresh, stage_known
from ..teacher.files import feature_dim
from .engine import Engine, Joined, LocalEngine, Order, make_task
from .extract import Computed, compute_features, sort_out
from .ranks import Team

__all__ = ["StartEngine", "compute", "follow"]

StartEngine = Callable[[Plan, Joined, Tell], AbstractContextManager[Engine]]


def compute(
    asked: Plan,
    work: WorkDirectory,
    lock: Lock,
    team: Team,
    progress: Progress,
    tell: Tell,
    *,
    start_engine: StartEngine | None = None,
    look: Callable[[npt.NDArray[Any]], None] = lambda _: None,
) -> tuple[Computed, dict[str, Known], Mapping[str, Any]]:
    """Bring every feature to disk and return what is new, what was taken over, and how the new came about.

    Parameters
    ----------
    start_engine : starts another engine than this process; it is closed when all is computed
    look : called with the records of every chunk; it may raise what ends the run
    """
    fresh = find_fresh(asked.sources, asked.rows, asked.settings.stored_views, asked.dataset.secret)
    images = int(sum(rows.sum() for rows in fresh.values()))
    how: dict[str, Any] = {}
    start = start_engine or _start_local
    with start(asked, partial(_note_machine, work, how, tell), tell) if images else nullcontext() as engine:
        _begin(asked, work, engine, how, tell)
        done = work.chunks()
        known = _take_over(asked, work)
        if asked.sources:
            tell(f"{asked.images - images} of {asked.images} images are taken over, not computed")
        if engine is None:
            return Computed(chunks={}), known, how
        order = Order(fresh=fresh, precision=how["precision_used"], batch_size=how["batch_size"])
        task = make_task(asked, order)
        chunks, bad = sort_out(task, done)
        todo = [plan for plan in task.plan() if (plan.split, plan.start) not in chunks]
        team.say("task", _describe_task(asked, how, todo))
        mine = team.share(todo)
        others = sum(map(len, todo)) - sum(map(len, mine))
        engine.begin(order)
        with progress("teacher", images - others, images - sum(map(len, todo))) as advance:

            def durable(count: int) -> None:
                lock.check()
                advance(count)

            halved = partial(_note_halved, work, how, tell)
            computed = compute_features(lambda plans: engine.run(plans, durable), mine, work, tell, halved, look)
    if team.others:
        _gather(computed, team, work, halved)
    computed.chunks |= chunks
    # In the rows that were asked for, not in those that were left to compute.
    place = {split: np.flatnonzero(rows) for split, rows in fresh.items()}
    computed.bad = {(split, int(place[split][row])): error for (split, row), error in (bad | computed.bad).items()}
    return computed, known, how


def _start_local(asked: Plan, joined: Joined, _tell: Tell) -> AbstractContextManager[Engine]:
    return nullcontext(LocalEngine(asked, joined))


def _begin(asked: Plan, work: WorkDirectory, engine: Engine | None, how: dict[str, Any], tell: Tell) -> None:
    """Fill in how it is computed, if any image has to be: as a resumed run says or as this one will, written down."""
    taken = [source.content_digest for source in asked.sources]
    how |= (asked.action == "resume" and work.read_settings()) or {}
    if how and how["taken_from"] == taken:
        return
    if how:
        # What is left to compute, and so the partition into chunks, is another one.
        tell("the caches that features are taken over from are others than before; beginning anew")
    how |= {
        "cache_id": asked.cache_id,
        "request": dict(asked.request),
        "medal": version("medalmighty"),
        "precision_used": None,
        "min_cosine_to_fp32": None,
        "batch_size": None,
        "computed_on": [],
        "taken_from": taken,
        "tuned": asked.tuned,
    }
    if engine is not None:
        how |= engine.settle().to_dict()
    work.begin(how)


def _note_machine(work: WorkDirectory, how: dict[str, Any], tell: Tell, machine: Mapping[str, Any]) -> None:
    """Write down what kind of machine takes part; a second kind is told."""
    if machine in how["computed_on"]:
        return
    if how["computed_on"]:
        tell(
            Alert(
                "this machine or its libraries are others than those that began this cache: what is done is "
                "kept, and the rest may differ from it in the last bits"
            )
        )
    how["computed_on"] = [*how["computed_on"], machine]
    work.note(how)


def _note_halved(work: WorkDirectory, how: dict[str, Any], tell: Tell, images: int) -> None:
    """Write down, and tell, that memory ran out, and with how many images at once it went on."""
    if images >= how.get("smallest_forward", how["batch_size"]):
        return
    tell(
        Alert(
            f"the device's memory ran out with {how['batch_size']} images at once, and sufficed with {images}: "
            "the features of these may differ in the last bits from what they would have been, and the cache says so"
        )
    )
    how["smallest_forward"] = images
    work.note(how)


def _take_over(asked: Plan, work: WorkDirectory) -> dict[str, Known]:
    views, dim = asked.settings.stored_views, feature_dim(asked.files.config, asked.settings.feature)
    secret = asked.dataset.secret
    return {
        split: stage_known(asked.sources, split, part, views, dim, work.scratch(f"known-{split}"), secret)
        for split, part in asked.rows.items()
    }


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
    team.say("done", {"images": computed.images, "bad": bad, "halved": computed.halved})


def _obey(order: Mapping[str, Any], asked: Plan, team: Team, tell: Tell) -> Computed:
    if asked.cache_id != order["cache_id"]:
        raise CacheMismatch(
            f"Rank {team.rank} finds other images, labels or teacher's weights than rank 0 under the same names; "
            "give all ranks the same files."
        )
    what = Order(
        fresh=find_fresh(asked.sources, asked.rows, asked.settings.stored_views, asked.dataset.secret),
        precision=order["precision"],
        batch_size=order["batch_size"],
    )
    wanted = set(map(tuple, order["todo"]))
    mine = team.share([plan for plan in make_task(asked, what).plan() if (plan.split, plan.start) in wanted])
    engine = LocalEngine(asked)
    engine.begin(what)
    return compute_features(engine.run, mine, WorkDirectory(Path(order["work"])), tell)


def _gather(computed: Computed, team: Team, work: WorkDirectory, halved: Callable[[int], None]) -> None:
    """Wait until all ranks have done their shares and add what they did."""
    begun = time.monotonic()
    for rank in team.others:
        reply = team.hear("done", rank)
        if "failed" in reply:
            raise ConnectionError(f"rank {rank} failed: {reply['failed']}")
        computed.images += reply["images"]
        if reply["halved"] is not None:
            halved(reply["halved"])
        computed.bad |= {(split, row): DataError(told, reason) for split, row, told, reason in reply["bad"]}
    computed.chunks = work.chunks()
    computed.seconds += time.monotonic() - begun
