"""Losses of the student: hard labels and the teacher's soft targets. Every image counts once.

total = mean over images of (1-α) · hard + α · soft, and of soft alone where the label is unknown; the soft part is one
term of `LOSSES` or a weighted sum of several
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from ...cache.errors import StudentError
from ...pipeline.datasets.columns.dataset import UNKNOWN_BIT, UNKNOWN_CLASS, Task

__all__ = ["LOSSES", "Answers", "Objective", "Term", "check_terms", "parse_terms", "total_loss"]

# Weight β of the non-target part of `dkd`: the paper's for most pairs on CIFAR-100.
_BETA = 8.0
# Added to a sum of squares in `dist`: a batch or a sample that hardly varies has no direction to follow.
_VARIES = 1e-8
# Where a class is left out of a softmax; finite, as 0 · -∞ has no gradient.
_NOTHING = -1e9


@dataclass(frozen=True)
class Objective:
    """What the student is asked for.

    Attributes
    ----------
    temperature : T of the soft targets
    alpha : weight of the soft part, 0 to 1; or (C,), one a class: that of a sample's label counts, their mean where
        the label is unknown; multi-label: that of each label
    terms : name in `LOSSES` → weight within the soft part
    class_weight : (C,) of each class in the hard part; multi-label (2, C) of each label where it is 0 and where it is 1
    log_prior : (C,) added to the student's logits in the hard part
    """

    task: Task
    temperature: float
    alpha: float | Tensor
    terms: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({"kd": 1.0}))
    class_weight: Tensor | None = None
    log_prior: Tensor | None = None


@dataclass(frozen=True)
class Answers:
    """A batch: what student and teacher say, and what is right.

    Attributes
    ----------
    logits : (B, C) float32, the student's, before temperature
    label : (B,) int64, -1 unknown; or (B, C) uint8 of 0/1, 255 unknown
    teacher : (B, C) float32 logits of the teacher's probe, before temperature
    embedding : (B, F) float32, the student's pooled embedding, projected to the teacher's width
    feature : (B, F) float32, what the teacher says of the same view
    """

    logits: Tensor
    label: Tensor
    teacher: Tensor
    embedding: Tensor | None = None
    feature: Tensor | None = None


# Of each sample (B,), or of each sample and label (B, C): what the student lacks of the teacher.
Term = Callable[[Answers, Objective], Tensor]


def total_loss(answers: Answers, objective: Objective) -> Tensor:
    """Return mean((1-α) · hard + α · Σ weight · term), a scalar, α being 1 where the label is unknown.

    The hard part is cross-entropy (multi-label: binary cross-entropy). The mean is over the samples (entries) that have
    something to teach: all of them, or with α = 0 those whose label is known.
    """
    total = answers.logits.new_zeros(())
    alpha = objective.alpha
    if isinstance(alpha, Tensor) or alpha < 1:
        total = total + _hard(answers, objective)
    if isinstance(alpha, Tensor) or alpha > 0:
        for name, weight in objective.terms.items():
            each = LOSSES[name](answers, objective)
            total = total + weight * (_alpha(answers, objective, each.ndim) * each).mean()
    return total


def parse_terms(words: str) -> dict[str, float]:
    """Read a sum of losses, for instance ``kd+0.5*dist``.

    Raises
    ------
    StudentError
        It is none, or a name or a weight is none.
    """
    terms: dict[str, float] = {}
    for part in words.split("+"):
        weight, _, name = part.strip().rpartition("*")
        name = name.strip()
        if name not in LOSSES:
            raise StudentError(
                f"There is no loss '{name}'; --loss is one of {', '.join(sorted(LOSSES))}, or a sum such as "
                "kd+0.5*feature."
            )
        try:
            value = float(weight or 1)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf or name in terms:
            raise StudentError(
                f"--loss '{words}' is not a sum of losses; expected each name once, with a positive weight before it "
                "or none, as in kd+0.5*feature."
            )
        terms[name] = value
    return terms


def check_terms(terms: Mapping[str, float], task: Task) -> None:
    """Refuse losses that mean nothing for a task.

    Raises
    ------
    StudentError
    """
    if task == "multilabel" and "dkd" in terms:
        raise StudentError(
            "--loss dkd separates the true class from the others, which does not exist with several labels per "
            "image; give --loss kd."
        )


# ── The soft part ────────────────────────────────────────────────────────────────────────────────────────────────


def kd(answers: Answers, objective: Objective) -> Tensor:
    """Return T² · KL(teacher ‖ student) at temperature T (Hinton, Vinyals and Dean 2015, arXiv:1503.02531).

    Multi-class: of the softmax, p = softmax(z / T): Σ_c p_c (log p_c - log q_c), (B,). Multi-label: of one Bernoulli a
    label, p = sigmoid(z / T), (B, C). T² keeps the gradient's size when T changes.
    """
    T = objective.temperature  # noqa: N806 - the paper's own sign
    kl = _categorical_kl if objective.task == "multiclass" else _bernoulli_kl
    return T**2 * kl(answers.logits / T, answers.teacher / T)


def dkd(answers: Answers, objective: Objective) -> Tensor:
    """Return T² · (TCKD + 8 · NCKD), decoupled distillation (Zhao et al. 2022, arXiv:2203.08679), (B,).

    TCKD is the KL of (p_y, 1 - p_y), the right class y against all others; NCKD that of the softmax over the others
    alone. `kd` is TCKD + (1 - p_y) · NCKD, so where the teacher is sure the others hardly count in it. Without a label
    there is no right class: such a sample has the term of `kd`. With two classes NCKD is 0.
    """
    T = objective.temperature  # noqa: N806
    known = answers.label != UNKNOWN_CLASS
    target = functional.one_hot(answers.label.clamp(min=0), answers.logits.shape[1]).bool()  # (B, C)
    student, teacher = answers.logits / T, answers.teacher / T
    ours, theirs = (_target_and_rest(logits, target) for logits in (student, teacher))  # (B, 2)
    tckd = (theirs.exp() * (theirs - ours)).sum(1)
    nckd = _categorical_kl(student.masked_fill(target, _NOTHING), teacher.masked_fill(target, _NOTHING))
    return T**2 * torch.where(known, tckd + _BETA * nckd, _categorical_kl(student, teacher))


def dist(answers: Answers, objective: Objective) -> Tensor:
    """Return T² · (inter + intra) of DIST (Huang et al. 2022, arXiv:2205.10536), (B,).

    With P and Q the probabilities of teacher and student at T, (B, C), and ρ Pearson's correlation: inter is
    1 - ρ(P_b, Q_b), over the classes of each sample; intra the mean over classes of 1 - ρ(P_c, Q_c), over the samples
    of the batch. Relations are matched, not values. Multi-label: probabilities are sigmoids. With two classes inter
    only says which is likelier.
    """
    T = objective.temperature  # noqa: N806
    say = torch.sigmoid if objective.task == "multilabel" else _softmax
    ours, theirs = say(answers.logits / T), say(answers.teacher / T)
    inter = 1 - _pearson(ours, theirs, 1)  # (B,)
    intra = 1 - _pearson(ours, theirs, 0)  # (C,)
    return T**2 * (inter + intra.mean())


def mse(answers: Answers, objective: Objective) -> Tensor:
    """Return the squared difference of standardised logits (Sun et al. 2024, arXiv:2403.01427).

    Multi-class: mean over classes of (Z(student) - Z(teacher))², Z(z) = (z - mean) / std over a sample's classes, so
    that neither shift nor scale is copied, (B,). Of two classes Z would leave the order alone: there, the logits are
    centred and not scaled. Multi-label: each label's own logit as it is, (B, C). Both are as Kim et al. 2021
    (arXiv:2105.08919) have it. There is no temperature.
    """
    student, teacher = answers.logits, answers.teacher
    if objective.task == "multilabel":
        return (student - teacher) ** 2
    scaled = student.shape[1] > 2
    return ((_centred(student, scaled) - _centred(teacher, scaled)) ** 2).mean(1)


def feature(answers: Answers, objective: Objective) -> Tensor:  # noqa: ARG001 - a term's signature
    """Return 1 - cos(W e + b, f), (B,): e the student's pooled embedding, f the teacher's cached feature of the view.

    A hint as in FitNets (Romero et al. 2015, arXiv:1412.6550), compared by the cosine instead of by a squared distance,
    since a feature's length says little. W and b are learned beside the student and thrown away after it.
    """
    if answers.embedding is None or answers.feature is None:
        raise StudentError("The loss 'feature' needs the student's embedding and the teacher's features.")
    return 1 - functional.cosine_similarity(answers.embedding, answers.feature, dim=1)


LOSSES: dict[str, Term] = {"kd": kd, "dkd": dkd, "dist": dist, "mse": mse, "feature": feature}


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _alpha(answers: Answers, objective: Objective, sides: int) -> Tensor:
    """Return α of each sample, (B,), or of each sample and label, (B, C): 1 where the label is unknown."""
    given = objective.alpha
    # Written there by the device itself: a number that is copied to it would wait for it.
    alpha = given.to(answers.logits) if isinstance(given, Tensor) else answers.logits.new_full((), given)
    if objective.task == "multiclass":
        known = answers.label != UNKNOWN_CLASS  # (B,)
        return torch.where(known, alpha[answers.label.clamp(min=0)] if alpha.ndim else alpha, 1.0)
    known = answers.label != UNKNOWN_BIT  # (B, C)
    return torch.where(known, alpha, 1.0) if sides == 2 else torch.where(known.any(1), alpha.mean(), 1.0)


def _hard(answers: Answers, objective: Objective) -> Tensor:
    """Return the sum of (1-α) · weight · cross-entropy over the known labels, over what the whole loss is a mean of."""
    label = answers.label
    logits = answers.logits if objective.log_prior is None else answers.logits + objective.log_prior
    if objective.task == "multiclass":
        known = label != UNKNOWN_CLASS  # (B,)
        each = functional.cross_entropy(logits, label, ignore_index=UNKNOWN_CLASS, reduction="none")
        if objective.class_weight is not None:
            each = each * objective.class_weight[label.clamp(min=0)]
    else:
        known, positive = label != UNKNOWN_BIT, label == 1  # (B, C)
        each = functional.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
        if objective.class_weight is not None:
            each = each * torch.where(positive, objective.class_weight[1], objective.class_weight[0])
    each = (1 - _alpha(answers, objective, each.ndim)) * each * known
    alone = not isinstance(objective.alpha, Tensor) and objective.alpha == 0
    return each.sum() / known.sum().clamp(min=1) if alone else each.mean()


def _categorical_kl(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of softmaxes in nats, (B,)."""
    ours, theirs = functional.log_softmax(logits, 1), functional.log_softmax(teacher, 1)
    return (theirs.exp() * (theirs - ours)).sum(1)


def _bernoulli_kl(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL of the teacher's Bernoulli from the student's in nats, (B, C)."""
    p = torch.sigmoid(teacher)
    yes = functional.logsigmoid(teacher) - functional.logsigmoid(logits)
    no = functional.logsigmoid(-teacher) - functional.logsigmoid(-logits)
    return p * yes + (1 - p) * no


def _target_and_rest(logits: Tensor, target: Tensor) -> Tensor:
    """Return the log-probabilities of the target class and of all others together, (B, 2)."""
    whole = logits.logsumexp(1)
    parts = [logits.masked_fill(~target, _NOTHING).logsumexp(1), logits.masked_fill(target, _NOTHING).logsumexp(1)]
    return torch.stack([part - whole for part in parts], 1)


def _softmax(logits: Tensor) -> Tensor:
    return functional.softmax(logits, 1)


def _pearson(one: Tensor, other: Tensor, side: int) -> Tensor:
    one, other = (values - values.mean(side, keepdim=True) for values in (one, other))
    lengths = ((one**2).sum(side) + _VARIES).sqrt() * ((other**2).sum(side) + _VARIES).sqrt()
    return (one * other).sum(side) / lengths


def _centred(logits: Tensor, scaled: bool) -> Tensor:
    centred = logits - logits.mean(1, keepdim=True)
    # Logits that are all equal stay 0.
    return centred / ((centred**2).mean(1, keepdim=True) + _VARIES).sqrt() if scaled else centred
