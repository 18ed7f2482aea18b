"""The members of a run: students of several seeds, and as many baselines that learn from the labels alone.

A member's seed decides its first weights, its order and its views, so a student and the baseline of the same seed
differ only in their loss. If the mean with the baseline teaches, the student starts from the baseline's weights. Each
has a folder of its own, and counts as trained once its member.json is there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import timm
import torch
from safetensors.torch import load_file

from ...cache.making.writer import remove
from ...cache.progress import Alert, Progress, Tell
from ...pipeline.metrics import or_none
from ..figures.tables import write_value
from ..network.likeness import Likeness, embedding_of, fit_likeness, take_embeddings
from ..network.model import CONFIG, WEIGHTS, build_model, model_config
from ..network.speed import Plan
from ..run import folder
from ..run.predictions import Predictions, write_predictions
from ..settings import Alpha, StudentSettings
from ..training.checkpoint import Checkpoint, write_tensors
from ..training.loop import Recipe, TrainingData, begin, merit, predict, train
from ..training.tracking import Track, tracking
from .plan import Asked
from .ranks import announce

__all__ = [
    "Arm",
    "Member",
    "answers",
    "copy_member",
    "initial_model",
    "plan_members",
    "promote",
    "read_record",
    "spread",
    "take_over",
    "train_member",
]

Arm = Literal["student", "baseline"]

# In the order of moving or copying: the last one means that all others are there.
_FILES = (folder.CHECKPOINT, CONFIG, WEIGHTS, folder.HISTORY, folder.PREDICTIONS, folder.LIKENESS, folder.MEMBER)
# Number of train images that the likeness is fitted on: a hundredth of what a training sees.
_SAMPLE = 1000
# Recorded answers use the precision that anybody gets who loads the weights.
_PLAIN = Plan(precision="fp32", channels_last=False)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One student of a run and the folder that it is trained in."""

    arm: Arm
    seed: int
    alpha: Alpha
    temperature: float
    loss: str
    place: Path

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.arm} of seed {self.seed}"

    @property
    def teaching(self) -> tuple[Alpha, str]:
        """What it learns from; members of one seed with equal values are equal to the bit."""
        return (self.alpha, self.loss if self.alpha else "kd")

    @property
    def own(self) -> dict[str, Any]:
        """The settings in which it differs from other members."""
        return {"seed": self.seed, "alpha": self.alpha, "temperature": self.temperature, "loss": self.loss}

    def settings(self, settings: StudentSettings) -> StudentSettings:
        """Return a run's settings as they are for this member."""
        return replace(settings, **self.own)


def plan_members(asked: Asked, work: Path, alpha: Alpha, temperature: float, loss: str) -> list[Member]:
    """Return all members of a run, the students first.

    Parameters
    ----------
    alpha, temperature, loss : the students'; a baseline's are 0, T of no effect, and ``kd``
    """
    arms: list[tuple[Arm, Path, Alpha, str]] = [("student", work, alpha, loss)]
    if asked.settings.baseline:
        arms.append(("baseline", work / folder.BASELINE, 0.0, "kd"))
    alone = len(asked.seeds) == 1
    return [
        Member(
            arm=arm,
            seed=seed,
            alpha=weight,
            temperature=temperature,
            loss=name,
            place=root if alone else root / _seed_folder(seed),
        )
        for arm, root, weight, name in arms
        for seed in asked.seeds
    ]


def _seed_folder(seed: int) -> str:
    return f"seed-{seed}"


def initial_model(asked: Asked, seed: int) -> torch.nn.Module:
    """Return the model that a seed starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(asked.spec, asked.settings.weights, len(asked.targets.classes), asked.image_size)


def train_member(
    asked: Asked,
    recipe: Recipe,
    data: TrainingData,
    member: Member,
    *,
    start: Path | None = None,
    progress: Progress,
    report: Tell,
) -> dict[str, Any]:
    """Train a member, or the rest of its training, write its files, and return its member.json.

    Parameters
    ----------
    start : folder of a trained member whose weights it begins with
    """
    place = member.place
    record = read_record(place)
    if record is not None:
        report(f"{member.name} is trained: best epoch {record['best_epoch']} of {recipe.epochs}")
        return record
    place.mkdir(parents=True, exist_ok=True)
    recipe = replace(recipe, settings=member.settings(recipe.settings))
    checkpoint = Checkpoint(place / folder.CHECKPOINT)
    model = initial_model(asked, member.seed)
    if start is not None:
        model.load_state_dict(load_file(start / WEIGHTS))
    state = begin(model, recipe, asked.targets.feature_dim, None if checkpoint.path.exists() else data)
    if not state.head_fitted:
        report(Alert(f"{asked.settings.student} does not end in one linear layer: its head is not fitted first"))
    if checkpoint.load(state):
        report(f"resuming after epoch {len(state.history)} of {recipe.epochs}")
    done = len(state.history) * asked.rows["train"]
    tracked = tracking(asked.track, _tracked_as(asked, member), {**asked.request, **member.own}, report)
    with tracked as track, progress(member.arm, asked.images, done) as advance:
        told = _telling(recipe, report, track)
        # What was trained before a kill, or as a trial of --alpha auto, so that a tracker's curves are whole.
        for row in state.history:
            track(row)
        announce(asked, recipe, state, data.targets)
        train(state, data, recipe, checkpoint=checkpoint, report=told, advance=advance)
    size, resize = asked.image_size, asked.preprocessing.resize
    folder.write_json(place / CONFIG, model_config(asked.spec, model, asked.targets.classes, size, resize))
    write_tensors(place / WEIGHTS, state.best, {"format": "pt"})
    folder.write_history(place / folder.HISTORY, state.history)
    recorded, likeness = _record_answers(asked, data, place)
    write_predictions(place / folder.PREDICTIONS, recorded, asked.targets.classes)
    if likeness is not None:
        write_tensors(place / folder.LIKENESS, likeness.tensors())
    record = {
        "arm": member.arm,
        "seed": member.seed,
        "alpha": member.alpha,
        "temperature": member.temperature,
        "loss": member.loss,
        "best_epoch": int(state.best_row["epoch"]),
        "val_auroc": or_none(state.best_row["val_auroc"]),
        "val_loss": or_none(state.best_row["val_loss"]),
        "seconds": round(state.seconds, 3),
    }
    if "val_kappa" in state.best_row:
        record["val_kappa"] = or_none(state.best_row["val_kappa"])
    folder.make_durable(place)
    folder.write_json(place / folder.MEMBER, record)
    remove(place / folder.CHECKPOINT)
    return record


def _tracked_as(asked: Asked, member: Member) -> Path:
    """Return the run name of a member in a tracker; each of several members has its own."""
    several = asked.settings.seeds > 1 or asked.settings.baseline
    # Beside the run, whose folder has no tracker files.
    run = asked.run.parent.with_name(f"{asked.run.parent.name}-{asked.run.name}") if asked.is_part else asked.run
    return run.with_name(f"{run.name}-{member.arm}-{member.seed}") if several else run


def _telling(recipe: Recipe, report: Tell, track: Track) -> Callable[[Mapping[str, float]], None]:
    def tell(row: Mapping[str, float]) -> None:
        track(row)
        report(
            f"epoch {row['epoch']:.0f}/{recipe.epochs}: loss {row['train_loss']:.4f}, "
            f"val AUROC {write_value(row['val_auroc'])}, val accuracy {write_value(row['val_accuracy'])}, "
            f"{row['seconds']:.1f} s"
        )

    return tell


def answers(asked: Asked, data: TrainingData, place: Path, splits: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Return a trained member's logits (N, C) on plain images, by split, in float32, as anybody will load it."""
    model = timm.create_model(f"local-dir:{place}", pretrained=True).to(asked.device)
    return {split: predict(model, data, split, _PLAIN, asked.device) for split in splits}


def _record_answers(asked: Asked, data: TrainingData, place: Path) -> tuple[dict[str, Predictions], Likeness | None]:
    """Return a member's answers on val and test as anybody will load it, in float32, and what train is like to it."""
    model = timm.create_model(f"local-dir:{place}", pretrained=True).to(asked.device)
    parts = {split: asked.targets.splits[split] for split in ("val", "test") if split in asked.targets.splits}
    train = asked.targets.splits["train"]
    sample = np.arange(len(train))[:: max(1, -(-len(train) // _SAMPLE))]  # in the order of keys: by no other
    said, heard = {}, {}
    with embedding_of(model) as embeddings:
        for split, part in parts.items():
            logits = predict(model, data, split, _PLAIN, asked.device)
            said[split] = Predictions(part.key, part.label, logits, part.patients)
            heard[split] = take_embeddings(embeddings)
        if embeddings is None:
            return said, None
        predict(model, data, "train", _PLAIN, asked.device, sample)
        return said, fit_likeness(take_embeddings(embeddings), train.label[sample], heard["val"])


def read_record(place: Path) -> dict[str, Any] | None:
    """Return a trained member's member.json, None where there is none."""
    path = place / folder.MEMBER
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


# ── Folders ──────────────────────────────────────────────────────────────────────────────────────────────────────


def spread(work: Path, seeds: Sequence[int]) -> None:
    """Move the members that lie at the top of the run back into their own folders.

    Parameters
    ----------
    seeds : of the run; an unfinished training at the top belongs to the first
    """
    if len(seeds) == 1:
        return
    for root in (work, work / folder.BASELINE):
        if any((root / name).exists() for name in _FILES):
            record = read_record(root)
            # A kill while a member was moved up left its member.json, which goes last, where it came from.
            torn = [place for place in root.glob("seed-*") if read_record(place) and not (place / WEIGHTS).exists()]
            own = _seed_folder(record["seed"] if record else seeds[0])
            _move(root, torn[0] if torn and not record else root / own)


def promote(members: Sequence[Member]) -> list[Member]:
    """Move the member of an arm that is best on val (the first of equal ones) to the top; return where all members are
    now."""
    best = max(members, key=lambda member: merit(read_record(member.place) or {"val_auroc": None, "val_loss": None}))
    if len(members) == 1:
        return [best]
    root = best.place.parent
    _move(best.place, root)
    return [replace(member, place=root) if member is best else member for member in members]


def take_over(run: Path, work: Path, seeds: Sequence[int]) -> None:
    """Copy the trained members of a finished run, and the recorded choices, that the work folder lacks."""
    for root, target in ((run, work), (run / folder.BASELINE, work / folder.BASELINE)):
        for place in (root, *sorted(root.glob("seed-*"))):
            record = read_record(place)
            if record is not None and not _is_there(target, record["seed"]):
                copy_member(place, target if len(seeds) == 1 else target / _seed_folder(record["seed"]))
    if (run / folder.CHOICE).is_file() and not (work / folder.CHOICE).exists():
        folder.write_json(work / folder.CHOICE, json.loads((run / folder.CHOICE).read_text(encoding="utf-8")))


def _is_there(root: Path, seed: int) -> bool:
    places = (root, root / _seed_folder(seed))
    return any((read_record(place) or {}).get("seed") == seed for place in places)


def copy_member(place: Path, target: Path, **changed: Any) -> None:
    """Copy a trained member's files, its member.json, with what has `changed`, last."""
    target.mkdir(parents=True, exist_ok=True)
    for name in _FILES[1:-1]:
        # A run of an older medal has no likeness.
        if name != folder.LIKENESS or (place / name).exists():
            shutil.copy2(place / name, target / name)
    folder.make_durable(target)
    folder.write_json(target / folder.MEMBER, {**(read_record(place) or {}), **changed})


def _move(place: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (place / name).exists():
            (place / name).replace(target / name)
    if not any(place.iterdir()):
        place.rmdir()
