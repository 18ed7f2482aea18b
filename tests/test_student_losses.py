"""The student's loss against a slow numpy one that follows the formulas letter by letter."""

import numpy as np
import pytest
import torch

from medal.cache.errors import StudentError
from medal.student.losses import LOSSES, Objective, find_loss, kd


def _softmax(row, temperature):
    powers = [np.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def _sigmoid(value, temperature):
    return 1 / (1 + np.exp(-value / temperature))


def _slow_multiclass(logits, labels, teacher, alpha, temperature):
    hard = [-np.log(_softmax(row, 1)[label]) for row, label in zip(logits, labels, strict=True) if label != -1]
    soft = []
    for ours, theirs in zip(logits, teacher, strict=True):
        p, q = _softmax(theirs, temperature), _softmax(ours, temperature)
        soft.append(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))
    return (1 - alpha) * (np.mean(hard) if hard else 0) + alpha * temperature**2 * np.mean(soft)


def _slow_multilabel(logits, labels, teacher, alpha, temperature):
    hard, soft = [], []
    for place in np.ndindex(logits.shape):
        p, q = _sigmoid(logits[place], 1), labels[place]
        if q != 255:
            hard.append(-(q * np.log(p) + (1 - q) * np.log(1 - p)))
        theirs, ours = _sigmoid(teacher[place], temperature), _sigmoid(logits[place], temperature)
        soft.append(theirs * np.log(theirs / ours) + (1 - theirs) * np.log((1 - theirs) / (1 - ours)))
    return (1 - alpha) * (np.mean(hard) if hard else 0) + alpha * temperature**2 * np.mean(soft)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("unknown", ["none", "some", "all"])
def test_equals_slow_numpy(task, alpha, temperature, unknown):
    random = np.random.default_rng(7)
    logits, teacher = random.normal(0, 2, (2, 9, 4))
    hidden = {"none": np.zeros(9, bool), "some": random.random(9) < 0.4, "all": np.ones(9, bool)}[unknown]
    if task == "multiclass":
        labels, slow = np.where(hidden, -1, random.integers(0, 4, 9)), _slow_multiclass
    else:
        hidden = hidden if unknown == "all" else random.permuted(np.tile(hidden, (4, 1)), axis=1).ravel()
        labels = np.where(np.resize(hidden, (9, 4)), 255, random.integers(0, 2, (9, 4)))
        labels, slow = labels.astype(np.uint8), _slow_multilabel
    given = [torch.from_numpy(array) for array in (logits, labels, teacher)]
    ours = kd(*given, Objective(task, temperature, alpha))
    assert float(ours) == pytest.approx(slow(logits, labels, teacher, alpha, temperature), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_extreme_logits_stay_finite(task):
    logits = torch.tensor([[80.0, -80.0]], requires_grad=True)
    labels = torch.tensor([1]) if task == "multiclass" else torch.tensor([[0, 1]], dtype=torch.uint8)
    loss = kd(logits, labels, torch.tensor([[-90.0, 90.0]]), Objective(task, 2.0, 0.5))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_alpha_by_class_is_that_of_each_label(task):
    random = np.random.default_rng(3)
    logits, teacher = random.normal(0, 2, (2, 8, 3))
    alpha, temperature = (0.1, 0.5, 0.9), 2.0
    if task == "multiclass":
        labels = np.array([0, 1, 2, -1, 2, 1, 0, -1])
        own = [np.mean(alpha) if label < 0 else alpha[label] for label in labels]
        each = [
            (row[None], np.array([label]), other[None], one)
            for row, label, other, one in zip(logits, labels, teacher, own, strict=True)
        ]
        slow, entries = _slow_multiclass, (labels >= 0).sum()
    else:
        labels = random.integers(0, 2, (8, 3)).astype(np.uint8)
        labels[2, 1] = labels[5, 0] = 255
        places = list(np.ndindex(8, 3))
        each = [
            (logits[p].reshape(1, 1), labels[p].reshape(1, 1), teacher[p].reshape(1, 1), alpha[p[1]]) for p in places
        ]
        slow, entries = _slow_multilabel, (labels != 255).sum()
    hard = sum((1 - one) * slow(row, label, other, 0.0, temperature) for row, label, other, one in each) / entries
    soft = sum(one * slow(row, label, other, 1.0, temperature) for row, label, other, one in each) / len(each)
    given = [torch.from_numpy(array) for array in (logits, labels, teacher)]
    found = kd(*given, Objective(task, temperature, alpha))
    assert float(found) == pytest.approx(hard + soft, rel=1e-9)
    same = kd(*given, Objective(task, temperature, (0.3, 0.3, 0.3)))
    assert float(same) == pytest.approx(float(kd(*given, Objective(task, temperature, 0.3))), rel=1e-9)


def test_unknown_rows_give_no_hard_gradient():
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kd(logits, torch.tensor([-1, 1, -1]), torch.zeros(3, 2), Objective("multiclass", 2.0, 0.0)).backward()
    assert logits.grad[[0, 2]].abs().max() == 0
    assert logits.grad[1].abs().min() > 0


def test_names():
    assert find_loss("kd") is LOSSES["kd"]
    with pytest.raises(StudentError, match="no loss 'dk'; --loss is one of kd"):
        find_loss("dk")
