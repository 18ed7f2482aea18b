"""Losses of the student: hard labels and the teacher's soft targets, unknown labels left out of the hard part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..cache.errors import StudentError
from ..pipeline.datasets.dataset import UNKNOWN_BIT, UNKNOWN_CLASS, Task

__all__ = ["LOSSES", "Loss", "Objective", "find_loss", "kd"]


@dataclass(frozen=True)
class Objective:
    """What the student is asked for: task, temperature T of the soft targets, weight α of the soft term."""

    task: Task
    temperature: float
    # One a class: that of a sample's label counts, their mean where it is unknown; multi-label: that of each label.
    alpha: float | tuple[float, ...]


# (student logits (B, C), labels (B,) int64 or (B, C) uint8, teacher logits (B, C), objective) → scalar
Loss = Callable[[Tensor, Tensor, Tensor, Objective], Tensor]


def kd(logits: Tensor, labels: Tensor, teacher: Tensor, objective: Objective) -> Tensor:
    """Return (1-α) · hard + α · T² · soft (Hinton, Vinyals and Dean 2015), a scalar.

    Multi-class: cross-entropy and KL(teacher ‖ student) of the softmax at T. Multi-label: binary cross-entropy and
    the KL of one Bernoulli a label at T. T² keeps the soft gradient's size when T changes. With one α a class each
    sample has that of its label, an unlabelled one their mean; multi-label: each label has its own.

    Parameters
    ----------
    logits : (B, C) float32, the student's, before temperature
    labels : (B,) int64, -1 unknown; or (B, C) uint8 of 0/1, 255 unknown
    teacher : (B, C) float32, the teacher's, before temperature
    """
    if isinstance(objective.alpha, tuple):
        return _kd_by_class(logits, labels, teacher, objective)
    total = logits.new_zeros(())
    if objective.alpha < 1:
        hard = _cross_entropy if objective.task == "multiclass" else _binary_cross_entropy
        total = total + (1 - objective.alpha) * hard(logits, labels)
    if objective.alpha > 0:
        soft = _categorical_kl if objective.task == "multiclass" else _bernoulli_kl
        T = objective.temperature  # noqa: N806 - the paper's own sign
        total = total + objective.alpha * T**2 * soft(logits / T, teacher / T)
    return total


LOSSES: dict[str, Loss] = {"kd": kd}


def find_loss(name: str) -> Loss:
    """Return a loss by name.

    Raises
    ------
    StudentError
        There is none of that name.
    """
    if name not in LOSSES:
        raise StudentError(f"There is no loss '{name}'; --loss is one of {', '.join(sorted(LOSSES))}.")
    return LOSSES[name]


def _kd_by_class(logits: Tensor, labels: Tensor, teacher: Tensor, objective: Objective) -> Tensor:
    by_class = torch.tensor(objective.alpha, dtype=logits.dtype, device=logits.device)  # (C,)
    T = objective.temperature  # noqa: N806
    if objective.task == "multiclass":
        known = labels != UNKNOWN_CLASS
        alpha = torch.where(known, by_class[labels.clamp(min=0)], by_class.mean())  # (B,)
        hard = functional.cross_entropy(logits, labels, ignore_index=UNKNOWN_CLASS, reduction="none")
        p, q = functional.log_softmax(teacher / T, 1), functional.log_softmax(logits / T, 1)
        soft = (p.exp() * (p - q)).sum(1)
    else:
        known, alpha = labels != UNKNOWN_BIT, by_class
        hard = functional.binary_cross_entropy_with_logits(logits, (labels == 1).to(logits.dtype), reduction="none")
        soft = _bernoulli_kls(logits / T, teacher / T)
    return ((1 - alpha) * hard * known).sum() / known.sum().clamp(min=1) + T**2 * (alpha * soft).mean()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the samples whose label is known; 0 where none is."""
    known = labels != UNKNOWN_CLASS
    summed = functional.cross_entropy(logits, labels, ignore_index=UNKNOWN_CLASS, reduction="sum")
    return summed / known.sum().clamp(min=1)


def _binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the entries whose label is known; 0 where none is."""
    known = (labels != UNKNOWN_BIT).to(logits.dtype)  # (B, C)
    each = functional.binary_cross_entropy_with_logits(logits, (labels == 1).to(logits.dtype), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def _categorical_kl(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) in nats, mean over samples."""
    return functional.kl_div(
        functional.log_softmax(logits, 1), functional.log_softmax(teacher, 1), reduction="batchmean", log_target=True
    )


def _bernoulli_kl(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL of the teacher's Bernoulli from the student's, label by label, mean over all entries."""
    return _bernoulli_kls(logits, teacher).mean()


def _bernoulli_kls(logits: Tensor, teacher: Tensor) -> Tensor:
    p = torch.sigmoid(teacher)
    yes = functional.logsigmoid(teacher) - functional.logsigmoid(logits)
    no = functional.logsigmoid(-teacher) - functional.logsigmoid(-logits)
    return p * yes + (1 - p) * no
