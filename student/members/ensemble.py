"""Who teaches the students: the probe, its mean with the student of the labels alone, or the labels alone.

A probe on few labels and a student fine-tuned on the same labels err on other images, and their mean is mostly better
than either. The student of the labels alone has seen the labelled images, so it answers for the others only. A
student of trained weights begins with those of its baseline, and a head fitted to the mean: what the labels teach is
learned once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from ...pipeline.datasets.columns.dataset import Task
from ...pipeline.metrics import bootstrap, fit_temperature, known, probabilities, score
from ..targets.load import Targets

__all__ = ["Logits", "Teaching", "average_with_baseline", "choose_teaching", "describe_teacher"]

Teacher = Literal["none", "probe", "ensemble"]
Logits = npt.NDArray[np.float32]

_OTHERS: tuple[Teacher, ...] = ("none", "probe")
_SURE = 1e-6


@dataclass(frozen=True)
class Teaching:
    """Who teaches, why, and the AUROC on val of each candidate; None if undefined."""

    chosen: Teacher
    why: str
    val_auroc: Mapping[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"chosen": self.chosen, "why": self.why, "val_auroc": dict(self.val_auroc)}


def describe_teacher(teaching: Teaching) -> str:
    """Say who teaches, and why."""
    names = {
        "none": "the labels alone",
        "probe": "the probe",
        "ensemble": "the mean of the probe and the student trained on the labels alone",
    }
    return f"{names[teaching.chosen]}: {teaching.why}"


def choose_teaching(targets: Targets, answers: Mapping[str, Logits]) -> Teaching:
    """Choose on val, by the answers of the teachers themselves: no student is trained for it.

    The mean was the best of the three on most sets. It is taken unless the probe, or the baseline, is ahead of it by
    more than one standard error of the difference on val (the rule of Breiman et al. 1984, for trees).

    Parameters
    ----------
    answers : the baseline's logits (N, C) on train and val
    """
    val, alone = targets.splits["val"], answers["val"]
    scale = _Scale.fit(targets, answers["train"])
    said = {"ensemble": scale.mean(val.teacher, alone), "probe": val.teacher, "none": alone}
    auroc = {name: score(one, val.label, targets.task, targets.classes).auroc for name, one in said.items()}
    shown = {name: None if np.isnan(value) else round(value, 4) for name, value in auroc.items()}
    if not val.can_choose(targets.task):
        return Teaching("ensemble", "val has too few labels to choose by", shown)
    drawn = {name: bootstrap(one, val.label, targets.task, groups=val.units) for name, one in said.items()}
    ahead: dict[Teacher, str] = {}
    for name in _OTHERS:
        error = drawn[name].auroc_error(drawn["ensemble"])
        if auroc[name] - auroc["ensemble"] > error:
            ahead[name] = (
                f"better than the mean on val by {auroc[name] - auroc['ensemble']:.4f}, standard error {error:.4f}"
            )
    if not ahead:
        return Teaching("ensemble", "nothing else is better on val by more than one standard error", shown)
    best = max(ahead, key=lambda name: auroc[name])
    return Teaching(best, ahead[best], shown)


def average_with_baseline(targets: Targets, answer: Logits) -> Targets:
    """Return the targets with new logits of train: where a label is unknown, of the mean of probe and baseline.

    They are calibrated: their softmax at temperature 1 is a probability.

    Parameters
    ----------
    answer : the baseline's logits (N, C) on train
    """
    scale = _Scale.fit(targets, answer)
    train = targets.splits["train"]
    given = known(train.label, targets.task)
    views = range(train.logits.shape[1])
    mean = np.stack([scale.mean(train.logits[:, view], answer) for view in views], 1)
    logits = np.where(given.reshape(len(train), 1, -1), train.logits / scale.probe, mean).astype(np.float32)
    return replace(targets, splits={**targets.splits, "train": replace(train, logits=logits)})


@dataclass(frozen=True)
class _Scale:
    """Temperatures of probe and baseline."""

    task: Task
    probe: float
    baseline: float

    @classmethod
    def fit(cls, targets: Targets, answer: Logits) -> _Scale:
        """Fit the probe's on its out-of-fold answers, and the baseline's for the same confidence on unlabelled images.

        The baseline has no answer of its own for an image whose label it has not seen, so its errors cannot be counted.
        """
        train = targets.splits["train"]
        probe = fit_temperature(train.teacher, train.label, targets.task, train.units).value
        blind = ~known(train.label, targets.task).reshape(len(train), -1).any(1)
        wanted = _sureness(train.teacher[blind], targets.task, np.log(probe))
        low, high = np.log(0.02), np.log(50.0)
        if not _sureness(answer[blind], targets.task, high) < wanted < _sureness(answer[blind], targets.task, low):
            return cls(targets.task, probe, probe)
        matched = brentq(lambda log_t: _sureness(answer[blind], targets.task, log_t) - wanted, low, high, xtol=1e-4)
        return cls(targets.task, probe, float(np.exp(matched)))

    def mean(self, probe: Logits, baseline: Logits) -> Logits:
        """Return logits of the mean of both probabilities."""
        mean = (probabilities(probe, self.task, self.probe) + probabilities(baseline, self.task, self.baseline)) / 2
        mean = np.clip(mean, _SURE, 1 - _SURE)
        found = np.log(mean) if self.task == "multiclass" else np.log(mean) - np.log1p(-mean)
        return found.astype(np.float32)


def _sureness(logits: Logits, task: Task, log_temperature: float) -> float:
    """Return the mean probability of the likelier class."""
    p = probabilities(logits, task, float(np.exp(log_temperature)))
    return float((p.max(1) if task == "multiclass" else np.maximum(p, 1 - p)).mean())
