"""Trains all members of a run, one after the other, and decides who teaches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from ...cache.progress import Progress, Tell
from ..run import folder
from ..training.loop import Recipe, TrainingData
from .ensemble import Logits, Teaching, average_with_baseline, choose_teaching, describe_teacher
from .plan import Asked
from .train import Member, answers, copy_member, read_record, train_member

__all__ = ["train_all"]


def train_all(
    asked: Asked,
    recipe: Recipe,
    data: TrainingData,
    members: Sequence[Member],
    work: Path,
    *,
    progress: Progress,
    report: Tell,
) -> tuple[list[Member], Teaching | None]:
    """Train all members, or the remaining ones; return them, and who taught the students if that was chosen.

    If baselines teach, they are trained first. A member that would equal another one to the bit is copied.
    """
    teaching: Teaching | None = None
    done: list[Member] = []
    baselines: dict[int, Member] = {}
    # Each baseline is asked once, to choose who teaches and to teach.
    said = cache(lambda place: answers(asked, data, place, ("train", "val")))
    order = sorted(members, key=lambda one: one.arm != "baseline") if asked.settings.teach != "probe" else members
    for index, member in enumerate(order):
        lesson, start = data, None
        if len(members) > 1:
            report(f"{member.name}, {index + 1} of {len(members)}")
        if member.arm == "student" and asked.settings.teach != "probe":
            if teaching is None:
                teaching = _choose_teacher(asked, partial(said, baselines[asked.settings.seed].place), work)
                report(f"taught by {describe_teacher(teaching)}")
            if teaching.chosen == "none":
                member = replace(member, alpha=0.0, loss="kd")  # noqa: PLW2901 - what it turns out to be
            elif teaching.chosen == "ensemble" and read_record(member.place) is None:
                own = baselines[member.seed].place
                lesson = replace(data, targets=average_with_baseline(data.targets, said(own)["train"]))
                # With all weights at a high rate from the start there is nothing to keep.
                start = own if asked.settings.gentle else None
        twin = next((one for one in done if one.seed == member.seed and one.teaching == member.teaching), None)
        if twin is not None and read_record(member.place) is None:
            copy_member(twin.place, member.place, arm=member.arm)
        train_member(asked, recipe, lesson, member, start=start, progress=progress, report=report)
        done.append(member)
        if member.arm == "baseline":
            baselines[member.seed] = member
    return done, teaching


def _choose_teacher(asked: Asked, said: Callable[[], Mapping[str, Logits]], work: Path) -> Teaching:
    """Choose once for all seeds, and save it: another machine may continue, with different last bits."""
    path = work / folder.CHOICE
    if asked.settings.teach == "ensemble":
        return Teaching("ensemble", "asked for", {})
    if path.is_file():
        return Teaching(**json.loads(path.read_text(encoding="utf-8")))
    teaching = choose_teaching(asked.targets, said())
    folder.write_json(path, teaching.to_dict())
    return teaching
