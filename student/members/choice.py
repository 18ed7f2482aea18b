"""``--alpha auto``: α and T chosen on val, without the teacher, by successive halving.

A few settings are trained for a tenth of the epochs; labels alone and the best other one go on to seven tenths, and one
of the two is trained to the end as the run's first student, from where it stands (Jamieson and Talwalkar, AISTATS 2016,
in two rungs). Nothing is trained twice, and all of it together costs at most what two students do. The last rung lies
late because early epochs mislead: on chest X-rays a teacher of permuted labels was ahead after two epochs of eight.

Labels alone are taken unless the best other one is ahead of them by more than one standard error of the difference on
val (the rule of Breiman et al. 1984, for trees): the winner of several trials is partly the luckiest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.making.writer import remove
from ...cache.progress import Progress, Tell
from ...pipeline.metrics import bootstrap
from ..figures.tables import write_value
from ..run import folder
from ..training.checkpoint import Checkpoint, TrainingState
from ..training.loop import Recipe, TrainingData, begin, merit, predict, train
from .plan import Asked
from .ranks import announce
from .train import initial_model

__all__ = ["GRID", "Choice", "Rungs", "choose_weight", "plan_rungs"]


# (α, T), most worth a trial first, as a short training can only afford some: labels alone, the default, what trusts the
# teacher more, less, and the same weights with harder or softer targets.
GRID = ((0.0, 2.0), (0.5, 2.0), (0.75, 4.0), (0.25, 2.0), (0.5, 4.0))
_FIRST, _LAST = 0.1, 0.7
_FINALISTS = 2


@dataclass(frozen=True)
class Rungs:
    """How many settings are tried, and until which epoch all settings and the finalists are trained."""

    settings: int
    first: int
    last: int


@dataclass(frozen=True)
class Choice:
    """The chosen setting, all trials, and their cost, including the chosen student's whole training."""

    alpha: float
    temperature: float
    tried: Sequence[Mapping[str, Any]]
    full_runs: float

    def to_dict(self) -> dict[str, Any]:
        """Return the choice for JSON."""
        return {
            "alpha": self.alpha,
            "temperature": self.temperature,
            "chosen_on": "val",
            "full_runs": round(self.full_runs, 3),
            "tried": [dict(row) for row in self.tried],
        }


def plan_rungs(epochs: int) -> Rungs:
    """Plan the trials so that they and the chosen student's training cost at most twice its epochs."""
    first = max(1, round(_FIRST * epochs))
    last = max(first, round(_LAST * epochs))
    left = 2 * epochs - (epochs - last) - _FINALISTS * (last - first)
    return Rungs(min(len(GRID), left // first), first, last)


def choose_weight(
    asked: Asked, recipe: Recipe, data: TrainingData, work: Path, first: Path, *, progress: Progress, report: Tell
) -> Choice:
    """Choose α and T, or continue choosing; the chosen training is moved to the folder of the first student.

    Parameters
    ----------
    first : that folder
    """
    path = work / folder.CHOICE
    written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"tried": []}
    tried: list[dict[str, Any]] = written["tried"]
    trials = work / folder.TRIALS
    if "alpha" not in written:
        rungs = plan_rungs(recipe.epochs)
        climb = _Climb(asked, recipe, data, work, tried, progress, report)
        finalists = _best(climb.to(rungs.first, GRID[: rungs.settings]), _FINALISTS)
        alpha, temperature = climb.judge(_best(climb.to(rungs.last, finalists), len(finalists)))
        spent = rungs.settings * rungs.first + len(finalists) * (rungs.last - rungs.first) + recipe.epochs - rungs.last
        written = Choice(alpha, temperature, tried, spent / recipe.epochs).to_dict()
        folder.write_json(path, written)
    choice = Choice(written["alpha"], written["temperature"], tried, written["full_runs"])
    chosen = trials / _name(choice.alpha, choice.temperature) / folder.CHECKPOINT
    if chosen.exists():
        first.mkdir(parents=True, exist_ok=True)
        chosen.replace(first / folder.CHECKPOINT)
    remove(trials)
    return choice


@dataclass(frozen=True)
class _Climb:
    """The trials of one choice, each in its own folder; `tried` is saved after each."""

    asked: Asked
    recipe: Recipe
    data: TrainingData
    work: Path
    tried: list[dict[str, Any]]
    progress: Progress
    report: Tell

    def to(self, epoch: int, settings: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
        """Train these settings up to an epoch, and return their rows."""
        rows = []
        for alpha, temperature in settings:
            wanted = {"alpha": alpha, "temperature": temperature, "epochs": epoch}
            row = next((row for row in self.tried if wanted.items() <= row.items()), None)
            if row is None:
                row = wanted | self._train(alpha, temperature, epoch)
                self.tried.append(row)
                folder.write_json(self.work / folder.CHOICE, {"tried": self.tried})
                figure = write_value(row["val_auroc"])
                self.report(f"tried alpha {alpha:g}, T {temperature:g} for {epoch} epochs: val AUROC {figure}")
            rows.append(row)
        # Trials that lost are deleted.
        kept = {_name(alpha, temperature) for alpha, temperature in settings}
        for place in (self.work / folder.TRIALS).iterdir():
            if place.name not in kept:
                remove(place)
        return rows

    def judge(self, finalists: Sequence[tuple[float, float]]) -> tuple[float, float]:
        """Return the best finalist if it is clearly better than the labels alone (the first finalist), else the labels
        alone."""
        plain, *others = finalists
        if not others:
            return plain
        part, task = self.data.targets.splits["val"], self.data.targets.task
        one, other = (
            bootstrap(self._answer(*settings), part.label, task, groups=part.units) for settings in (others[0], plain)
        )
        ahead, behind = (self._row(*settings) for settings in (others[0], plain))
        if ahead["val_auroc"] is None or behind["val_auroc"] is None:
            return plain
        error = one.auroc_error(other)
        gain = ahead["val_auroc"] - behind["val_auroc"]
        ahead |= {"gain": gain, "standard_error": error}
        name = f"alpha {others[0][0]:g}, T {others[0][1]:g}"
        self.report(f"{name} against the labels alone: val AUROC {gain:+.4f}, standard error {error:.4f}")
        return others[0] if gain > error else plain

    def _row(self, alpha: float, temperature: float) -> dict[str, Any]:
        """Return the last row of a setting."""
        return [row for row in self.tried if (row["alpha"], row["temperature"]) == (alpha, temperature)][-1]

    def _answer(self, alpha: float, temperature: float) -> npt.NDArray[np.float32]:
        """Return the logits on val of a trial's best epoch so far."""
        place = self.work / folder.TRIALS / _name(alpha, temperature)
        state = self._begin(self._recipe(alpha, temperature), Checkpoint(place / folder.CHECKPOINT))
        state.model.load_state_dict(state.best)
        return predict(state.model, self.data, "val", self.recipe.plan, self.recipe.device)

    def _recipe(self, alpha: float, temperature: float) -> Recipe:
        settings = replace(self.recipe.settings, alpha=alpha, temperature=temperature)
        return replace(self.recipe, settings=settings if alpha else replace(settings, loss="kd"))

    def _begin(self, recipe: Recipe, checkpoint: Checkpoint) -> TrainingState:
        model = initial_model(self.asked, recipe.settings.seed)
        state = begin(model, recipe, self.asked.targets.feature_dim, None if checkpoint.path.exists() else self.data)
        checkpoint.load(state)
        return state

    def _train(self, alpha: float, temperature: float, epoch: int) -> dict[str, float | None]:
        recipe = self._recipe(alpha, temperature)
        place = self.work / folder.TRIALS / _name(alpha, temperature)
        place.mkdir(parents=True, exist_ok=True)
        checkpoint = Checkpoint(place / folder.CHECKPOINT)
        state = self._begin(recipe, checkpoint)
        announce(self.asked, recipe, state, self.data.targets, epoch)
        rows, done = self.asked.rows["train"], len(state.history)
        with self.progress(f"alpha {alpha:g}, T {temperature:g}", epoch * rows, done * rows) as advance:
            train(state, self.data, recipe, checkpoint=checkpoint, report=lambda _: None, advance=advance, until=epoch)
        best = state.best_row
        names = [name for name in ("val_auroc", "val_loss", "val_kappa") if name in best]
        return {name: None if math.isnan(best[name]) else best[name] for name in names}


def _best(rows: Sequence[Mapping[str, Any]], count: int) -> list[tuple[float, float]]:
    """Return the best settings on val, the earlier of equal ones; if several are kept, labels alone are among them."""
    ranked = sorted(rows, key=merit, reverse=True)
    if count > 1:
        plain = [row for row in ranked if row["alpha"] == 0]
        ranked = plain + [row for row in ranked if row["alpha"] != 0]
    return [(row["alpha"], row["temperature"]) for row in ranked[:count]]


def _name(alpha: float, temperature: float) -> str:
    return f"alpha-{alpha:g}-t-{temperature:g}"
