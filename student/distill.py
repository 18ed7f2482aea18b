"""Stage two: a sealed cache and a dataset's images become students, in a run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..cache.progress import Alert, Progress, Tell
from ..pipeline.threads import allowed_threads, threads_restored
from .members.choice import Choice, choose_weight
from .members.plan import Asked
from .members.ranks import follow, load_data
from .members.telling import describe_passes, describe_times, list_warnings
from .members.train import Member, initial_model, plan_members, promote, read_record, spread, take_over
from .members.train_all import train_all
from .network.parallel import ALONE, Ranks
from .network.speed import Plan, choose_plan, choose_threads, wall_rate
from .outcome.card import write_card, write_overview
from .outcome.description import describe_environment, describe_run, describe_whole, name_run
from .outcome.generalisation import write_summary
from .outcome.write import Outcome, show_teacher, write_outcome
from .run import folder
from .settings import StudentSettings
from .targets.replay import check_replay
from .training.loop import Recipe, TrainingData

__all__ = ["Foreseen", "carry_out", "distill", "estimate", "foresee"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Foreseen:
    """What a training would do, as a sentence and as JSON for scripts."""

    sentence: str
    result: Mapping[str, Any]


def distill(ask: Callable[[], Asked], ranks: Ranks, progress: Progress, tell: Tell) -> dict[str, Any] | None:
    """As rank 0, decide what to do and do it; as another rank, take part. All ranks return the result, if there is
    one."""
    return _lead(ask, ranks, tell, lambda asked: carry_out(asked, progress, tell, ranks))


def foresee(ask: Callable[[], Asked], ranks: Ranks, tell: Tell) -> Foreseen | None:
    """Decide what would be done and describe it, without doing it."""
    return _lead(ask, ranks, tell, _foresee)


def _lead(ask: Callable[[], Asked], ranks: Ranks, tell: Tell, act: Callable[[Asked], Result]) -> Result | None:
    if not ranks.leads:
        followed: Result | None = follow(ranks, ask)
        return followed
    asked = ask()
    for warning in list_warnings(asked):
        tell(Alert(warning))
    result = act(asked)
    with suppress(RuntimeError):  # the others may be gone
        ranks.say({"result": result})
    return result


def _foresee(asked: Asked) -> Foreseen:
    size, seconds = (0, 0.0) if asked.action == "reuse" else estimate(asked)
    result = {
        "run": str(asked.run),
        "action": asked.action,
        "epochs": asked.epochs,
        "image_size": asked.image_size,
        "rows": asked.rows,
        "bytes": size,
        "seconds": seconds,
        **({"domains": {one.name: dict(one.rows) for one in asked.held_out}} if asked.held_out else {}),
    }
    if asked.action == "reuse":
        return Foreseen(f"Nothing to do: '{asked.run}' is finished.", result)
    return Foreseen(
        f"Would {asked.action} '{asked.run}': {describe_passes(asked)} at {asked.image_size} px, about "
        f"{size / 1e6:.1f} MB and {seconds:.0f} s.",
        result,
    )


def estimate(asked: Asked) -> tuple[int, float]:
    """Return the bytes of the run's weights and the seconds of its training, from a short measurement."""
    settings = asked.settings
    model = initial_model(asked, settings.seed)
    plan, _ = _choose_plan(asked, model)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    members, times = settings.seeds * (1 + settings.baseline), max(1, len(asked.held_out))
    # Choosing alpha costs at most one more training.
    trainings: float = members + (settings.alpha == "auto")
    if asked.action == "extend":
        trainings = members - len(list(asked.run.rglob(folder.MEMBER))) / times
    rate = wall_rate(model, plan, asked.image_size, asked.device)
    return members * times * size, trainings * asked.images / rate


def carry_out(asked: Asked, progress: Progress, report: Tell, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Run a training, or the rest of it, and return its result as the command prints it.

    Parameters
    ----------
    progress : called with a title, a total and what is done; gives a context that yields the function to advance by
    report : given one sentence at a time: what was chosen, how each epoch went
    ranks : the processes that share the work, of which this one leads
    """
    if asked.action == "reuse":
        return _found(asked)
    start = time.perf_counter()
    with folder.working(asked.run, report) as work, threads_restored():
        # Another process may have finished or begun this very run since `ask`.
        found = folder.inspect_run(asked.run)
        action = folder.choose_action(found, asked.request, overwrite=asked.overwrite)
        asked = replace(asked, action=action)
        if action == "reuse":
            if not any(work.iterdir()):
                work.rmdir()
            return _found(asked)
        if action == "create":
            folder.clear(work)
        if asked.settings.targets == "stored":
            train_part = asked.targets.splits["train"]
            checked = check_replay(
                asked.dataset.images, train_part, asked.preprocessing, progress, every=asked.check_views
            )
            report(f"{checked} images checked: their views are those that the teacher saw")
        if found.holds == "run" and not asked.overwrite:
            _go_on(asked, work)
        recipe = replace(_recipe(asked, work, report, ranks), ranks=ranks)
        if asked.held_out:
            metrics, spent = _make_each(asked, recipe, work, start, progress=progress, report=report)
        else:
            (metrics, _), spent = _make(asked, recipe, work, start, progress=progress, report=report)
        folder.finish(work, asked.run, report)
    return {"run": str(asked.run), "action": asked.action, **metrics, **spent}


def _found(asked: Asked) -> dict[str, Any]:
    """Return the result of a run that is finished, as it was recorded."""
    metrics, run = (json.loads((asked.run / name).read_text(encoding="utf-8")) for name in (folder.METRICS, folder.RUN))
    spent = {name: run[name] for name in ("seconds", "images_per_second")}
    return {"run": str(asked.run), "action": "reuse", **metrics, **spent}


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _make(
    asked: Asked, recipe: Recipe, work: Path, start: float, *, progress: Progress, report: Tell, seed: int = 0
) -> tuple[Outcome, dict[str, float]]:
    """Train all members of a run, or the remaining ones, and write the results; run.json last.

    Parameters
    ----------
    start : when it began, by `time.perf_counter`
    seed : of the resamples

    Returns
    -------
    The outcome, and how long it took: ``seconds``, ``images_per_second``
    """
    work.mkdir(exist_ok=True)
    recipe = replace(recipe, settings=asked.settings, epochs=asked.epochs)
    show_teacher(asked.targets, report, ordinal=asked.settings.ordinal)
    with ExitStack() as opened:
        data = load_data(asked, opened, tuple(asked.rows))
        spread(work, asked.seeds)
        members, choice = _settle(asked, recipe, data, work, progress=progress, report=report)
        members, teaching = train_all(asked, recipe, data, members, work, progress=progress, report=report)
    arms = [promote([member for member in members if member.arm == arm]) for arm in _arms(asked)]
    outcome = write_outcome(asked, work, *arms, choice=choice, teaching=teaching, report=report, seed=seed)
    spent = _spent(start, len(members) * asked.images, _seconds(arms))
    description = describe_run(asked, recipe, work, arms[0][0], teaching) | spent
    write_card(work, name_run(asked), description, outcome.metrics)
    folder.make_durable(work)
    folder.write_json(work / folder.RUN, description)
    return outcome, spent


def _make_each(
    asked: Asked, recipe: Recipe, work: Path, start: float, *, progress: Progress, report: Tell
) -> tuple[dict[str, Any], dict[str, float]]:
    """Make a run for each domain held out, each in its own folder, and write the results of all together."""
    outcomes: dict[str, Outcome] = {}
    seconds = 0.0
    for index, one in enumerate(asked.held_out):
        report(f"without the domain '{one.name}', {index + 1} of {len(asked.held_out)}")
        place = work / one.folder
        begun = time.perf_counter()
        outcomes[one.name], spent = _make(
            asked.without(one.name), recipe, place, begun, progress=progress, report=report, seed=one.code
        )
        seconds += one.epochs * one.rows["train"] / max(1e-2, spent["images_per_second"])
    metrics = write_summary(asked, work, outcomes, report)
    spent = _spent(start, asked.images, seconds)
    description = describe_whole(asked, recipe, work) | spent
    write_overview(work, asked.run.name, description, metrics)
    folder.make_durable(work)
    folder.write_json(work / folder.RUN, description)
    return metrics, spent


def _spent(start: float, images: int, seconds: float) -> dict[str, float]:
    """Return how long a run took from its start, and the images a second while students were trained."""
    return {
        "seconds": round(time.perf_counter() - start, 3),
        "images_per_second": round(images / max(1e-9, seconds), 2),
    }


def _arms(asked: Asked) -> tuple[str, ...]:
    return ("student", "baseline") if asked.settings.baseline else ("student",)


def _seconds(arms: Sequence[Sequence[Member]]) -> float:
    records = [read_record(member.place) or {} for members in arms for member in members]
    return sum(float(record["seconds"]) for record in records)


def _go_on(asked: Asked, work: Path) -> None:
    """Copy trained members of the finished run, and its plan, into the work folder."""
    run = json.loads((asked.run / folder.RUN).read_text(encoding="utf-8"))
    if not (work / folder.PLAN).exists():
        precision = dict(run["precision"])
        plan = {"request": dict(asked.request), "plan": Plan.from_dict(precision).to_dict()}
        kept = {name: precision[name] for name in ("images_per_second", "threads")}
        folder.write_json(work / folder.PLAN, plan | kept | {"trained_on": run["trained_on"]})
    for part in [one.folder for one in asked.held_out] or ["."]:
        take_over(asked.run / part, work / part, asked.seeds)


def _settle(
    asked: Asked, recipe: Recipe, data: TrainingData, work: Path, *, progress: Progress, report: Tell
) -> tuple[list[Member], Choice | None]:
    """Decide what the students learn from, on val if requested, and return all members."""
    settings = asked.settings
    if settings.alpha != "auto":
        return plan_members(asked, work, settings.soft_weight, settings.temperature, settings.loss), None
    first = plan_members(asked, work, 0.0, settings.temperature, settings.loss)[0].place
    choice = choose_weight(asked, recipe, data, work, first, progress=progress, report=report)
    report(
        f"chosen on val: alpha {choice.alpha:g}, T {choice.temperature:g}"
        if choice.alpha
        else "chosen on val: alpha 0, the labels alone; distilling did not help here"
    )
    loss = settings.loss if choice.alpha else "kd"
    return plan_members(asked, work, choice.alpha, choice.temperature, loss), choice


def _start(settings: StudentSettings) -> str:
    known = {"random": "random weights", "pretrained": "timm's weights"}
    return known.get(settings.weights, f"weights of '{Path(settings.weights).name}'")


def _recipe(asked: Asked, work: Path, report: Tell, ranks: Ranks) -> Recipe:
    """Return the recipe; the precision is measured once, and written down before the first step."""
    path = work / folder.PLAN
    if path.is_file():
        written = json.loads(path.read_text(encoding="utf-8")) | {"request": dict(asked.request)}
        plan = Plan.from_dict(written["plan"])
        # Sums over a batch are split by thread: another number of threads would change the last bits.
        torch.set_num_threads(written["threads"])
        if describe_environment(asked, ranks) not in written["trained_on"]:
            report(
                Alert(
                    "this run began on another machine or with other libraries: it continues, and results may differ "
                    "in the last bits"
                )
            )
            written["trained_on"] = [*written["trained_on"], describe_environment(asked, ranks)]
        folder.write_json(path, written)
    else:
        model = initial_model(asked, asked.settings.seed)
        settings = asked.settings
        plan, rates = _choose_plan(asked, model)
        for name in (name for name, rate in rates.items() if not rate):
            report(Alert(f"{name} crashes on this machine because of a fault in its libraries: not used"))
        threads = choose_threads(model, plan, asked.image_size, asked.device)
        if threads < allowed_threads() and asked.device == "cpu":
            report(f"threads: {threads} of {allowed_threads()}, the fastest now; OMP_NUM_THREADS sets the number")
        torch.set_num_threads(threads)
        written = {"request": dict(asked.request), "plan": plan.to_dict(), "images_per_second": rates}
        folder.write_json(
            path, written | {"threads": torch.get_num_threads(), "trained_on": [describe_environment(asked, ranks)]}
        )
        seconds = asked.images / wall_rate(model, plan, asked.image_size, asked.device)
        lasting = f"{seconds / 60:.1f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
        report(
            f"{settings.student} ({_start(settings)}) at {asked.image_size} px, {plan}: {describe_passes(asked)}, "
            f"about {lasting}{describe_times(asked)} (--epochs to change)"
        )
        if settings.fast_kernels and asked.device == "cuda":
            report(
                "cuDNN takes the kernels that it measures to be the fastest: the same command may give other last bits"
            )
    return Recipe(settings=asked.settings, epochs=asked.epochs, policy=asked.policy, plan=plan, device=asked.device)


def _choose_plan(asked: Asked, model: torch.nn.Module) -> tuple[Plan, dict[str, float]]:
    settings = asked.settings
    kinds = (settings.precision, settings.memory_layout)
    return choose_plan(model, settings.student, asked.image_size, asked.device, *kinds)
