"""The student's losses against slow numpy ones that follow the formulas letter by letter."""

import numpy as np
import pytest
import torch

from medal.cache.errors import StudentError
from medal.student.training.imbalance import balanced_order, balanced_weights, log_priors
from medal.student.training.losses import LOSSES, Answers, Objective, check_terms, parse_terms, total_loss

ROWS, CLASSES, WIDTH = 9, 4, 5
TERMS = [("multiclass", name) for name in LOSSES] + [("multilabel", name) for name in LOSSES if name != "dkd"]


def _softmax(row, temperature=1.0):
    powers = [np.exp(value / temperature) for value in row]
    return np.array([power / sum(powers) for power in powers])


def _sigmoid(value, temperature=1.0):
    return 1 / (1 + np.exp(-value / temperature))


def _kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


def _pearson(one, other):
    a, b = one - np.mean(one), other - np.mean(other)
    return sum(a * b) / np.sqrt((sum(a * a) + 1e-8) * (sum(b * b) + 1e-8))


def _slow(name, task, logits, labels, teacher, temperature, embedding, feature):  # noqa: PLR0911 - a formula each
    """Return a term of each sample (B,), or of each sample and label (B, C)."""
    rows = range(len(logits))
    if name == "feature":
        cosine = [e @ f / np.linalg.norm(e) / np.linalg.norm(f) for e, f in zip(embedding, feature, strict=True)]
        return 1 - np.array(cosine)
    if task == "multilabel":
        p, q = _sigmoid(teacher, temperature), _sigmoid(logits, temperature)
        if name == "kd":
            return temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
        if name == "mse":
            return (logits - teacher) ** 2
    else:
        p, q = (np.array([_softmax(row, temperature) for row in of]) for of in (teacher, logits))
    if name == "dist":
        intra = np.mean([1 - _pearson(p[:, c], q[:, c]) for c in range(p.shape[1])])
        return temperature**2 * np.array([1 - _pearson(p[b], q[b]) + intra for b in rows])
    if name == "kd":
        return np.array([temperature**2 * _kl(p[b], q[b]) for b in rows])
    if name == "mse":
        z = [[(row - row.mean()) / (row.std() if len(row) > 2 else 1) for row in of] for of in (logits, teacher)]
        return np.mean((np.array(z[0]) - np.array(z[1])) ** 2, 1)
    found = []
    for b in rows:
        y = labels[b]
        if y == -1:
            found.append(temperature**2 * _kl(p[b], q[b]))
            continue
        tckd = _kl([p[b, y], 1 - p[b, y]], [q[b, y], 1 - q[b, y]])
        p_others, q_others = (np.delete(row, y) / np.delete(row, y).sum() for row in (p[b], q[b]))
        found.append(temperature**2 * (tckd + 8 * _kl(p_others, q_others)))
    return np.array(found)


def _slow_hard(task, logits, labels, class_weight, log_prior):
    """Return the weighted cross-entropy, 0 where the label is unknown, and how many are known."""
    if task == "multiclass":
        rows = [
            0 if y == -1 else -class_weight[y] * np.log(_softmax(row + log_prior)[y])
            for row, y in zip(logits, labels, strict=True)
        ]
        return np.array(rows), (labels != -1).sum()
    found = np.zeros(logits.shape)
    for place in np.ndindex(logits.shape):
        p, y = _sigmoid(logits[place]), labels[place]
        if y != 255:
            found[place] = -class_weight[y, place[1]] * (y * np.log(p) + (1 - y) * np.log(1 - p))
    return found, (labels != 255).sum()


def _draw(task, unknown="some", classes=CLASSES):
    random = np.random.default_rng(7)
    logits, teacher = random.normal(0, 2, (2, ROWS, classes))
    hidden = {"none": np.zeros(ROWS, bool), "some": random.random(ROWS) < 0.4, "all": np.ones(ROWS, bool)}[unknown]
    if task == "multiclass":
        labels = np.where(hidden, -1, random.integers(0, classes, ROWS))
    else:
        hidden = hidden if unknown == "all" else random.permuted(np.tile(hidden, (classes, 1)), axis=1).ravel()
        labels = np.where(np.resize(hidden, (ROWS, classes)), 255, random.integers(0, 2, (ROWS, classes)))
        labels = labels.astype(np.uint8)
    embedding, feature = random.normal(size=(2, ROWS, WIDTH))
    return logits, labels, teacher, embedding, feature


def _answers(logits, labels, teacher, embedding, feature):
    return Answers(*map(torch.from_numpy, (logits, labels, teacher, embedding, feature)))


def _slow_total(task, hard, soft, labels, alpha, known):
    """Return the mean over images, or entries, of (1-α) · hard + α · soft, of soft alone without a label."""
    if alpha == 0.0:
        return hard.sum() / max(1, known)
    weights = np.full(CLASSES, alpha) if isinstance(alpha, float) else np.array(alpha)
    if task == "multiclass":
        rows = zip(hard, soft, labels, strict=True)
        return np.mean([s if y == -1 else (1 - weights[y]) * h + weights[y] * s for h, s, y in rows])
    each = np.where(labels == 255, 0, (1 - weights) * hard)
    if soft.ndim == 2:
        return (each + np.where(labels == 255, 1, weights) * soft).mean()
    share = [1 if (row == 255).all() else weights.mean() for row in labels]
    return each.mean() + (share * soft).mean()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, (0.1, 0.9, 0.0, 1.0)], ids=str)
@pytest.mark.parametrize("temperature", [0.5, 4.0])
@pytest.mark.parametrize("unknown", ["none", "some", "all"])
@pytest.mark.parametrize(("task", "name"), TERMS)
def test_equals_slow_numpy(task, name, unknown, temperature, alpha):
    drawn = _draw(task, unknown)
    labels = drawn[1]
    one = np.ones((2, CLASSES)) if task == "multilabel" else np.ones(CLASSES)
    hard, known = _slow_hard(task, drawn[0], labels, one, np.zeros(CLASSES))
    soft = _slow(name, task, *drawn[:3], temperature, *drawn[3:])
    expected = _slow_total(task, hard, soft, labels, alpha, known)
    alpha = torch.tensor(alpha, dtype=torch.float64) if isinstance(alpha, tuple) else alpha
    ours = total_loss(_answers(*drawn), Objective(task, temperature, alpha, {name: 1.0}))
    # Standardised logits have a little added under the root.
    assert float(ours) == pytest.approx(expected, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "mse"])
def test_two_classes(name):
    drawn = _draw("multiclass", "some", classes=2)
    ours = total_loss(_answers(*drawn), Objective("multiclass", 2.0, 1.0, {name: 1.0}))
    assert float(ours) == pytest.approx(_slow(name, "multiclass", *drawn[:3], 2.0, *drawn[3:]).mean(), rel=1e-7)


def test_a_sum_of_losses():
    drawn = _draw("multiclass")
    each = {name: _slow(name, "multiclass", *drawn[:3], 3.0, *drawn[3:]) for name in LOSSES}
    hard, known = _slow_hard("multiclass", *drawn[:2], np.ones(CLASSES), np.zeros(CLASSES))
    ours = total_loss(_answers(*drawn), Objective("multiclass", 3.0, 0.25, parse_terms("kd + 0.5*dist+2*feature")))
    soft = each["kd"] + 0.5 * each["dist"] + 2 * each["feature"]
    expected = _slow_total("multiclass", hard, soft, drawn[1], 0.25, known)
    assert float(ours) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("task", "name"), TERMS)
@pytest.mark.parametrize("extreme", [True, False])
def test_gradients_stay_finite(task, name, extreme):
    """Also where logits are all equal, and where probabilities are 0 and 1 to the last bit."""
    logits = torch.tensor([[80.0, -80, 0], [-90, 90, 90]]) if extreme else torch.zeros(2, 3)
    logits.requires_grad_()
    labels = torch.tensor([1, -1]) if task == "multiclass" else torch.tensor([[0, 1, 255]] * 2, dtype=torch.uint8)
    embedding = torch.ones(2, 2, requires_grad=True)
    answers = Answers(logits, labels, torch.tensor([[-90.0, 90, 0], [0, 0, 0]]), embedding, torch.ones(2, 2))
    loss = total_loss(answers, Objective(task, 2.0, 0.5, {name: 1.0}))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_teacher_itself_lacks_nothing(name):
    _, labels, teacher, _, feature = _draw("multiclass")
    ours = total_loss(
        _answers(teacher, labels, teacher, 3 * feature, feature), Objective("multiclass", 2.0, 1.0, {name: 1})
    )
    assert float(ours) == pytest.approx(0, abs=1e-6)


def test_unknown_rows_give_no_hard_gradient():
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    answers = Answers(logits, torch.tensor([-1, 1, -1]), torch.zeros(3, 2))
    total_loss(answers, Objective("multiclass", 2.0, 0.0)).backward()
    assert logits.grad[[0, 2]].abs().max() == 0
    assert logits.grad[1].abs().min() > 0


def test_what_can_be_asked_for():
    assert parse_terms("kd") == {"kd": 1.0}
    assert parse_terms("0.5 * kd+feature") == {"kd": 0.5, "feature": 1.0}
    with pytest.raises(StudentError, match=f"no loss 'dk'; --loss is one of {', '.join(sorted(LOSSES))}, or a sum"):
        parse_terms("kd+dk")
    for wrong in ("kd+kd", "-1*kd", "x*kd", "0*kd", "inf*kd", "nan*kd"):
        with pytest.raises(StudentError, match=r"is not a sum of losses; expected each name once"):
            parse_terms(wrong)
    check_terms({"dkd": 1.0}, "multiclass")
    with pytest.raises(StudentError, match=r"--loss dkd separates the true class from the others.* give --loss kd"):
        check_terms({"dkd": 1.0}, "multilabel")


# ── Rare classes ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_class_weights_change_the_hard_part_alone(task, alpha):
    drawn = _draw(task)
    weight = balanced_weights(drawn[1], task, CLASSES).astype(np.float64)
    hard, known = _slow_hard(task, *drawn[:2], weight, np.zeros(CLASSES))
    soft = _slow("kd", task, *drawn[:3], 2.0, *drawn[3:])
    objective = Objective(task, 2.0, alpha, class_weight=torch.from_numpy(weight))
    expected = _slow_total(task, hard, soft, drawn[1], alpha, known)
    assert float(total_loss(_answers(*drawn), objective)) == pytest.approx(expected, rel=1e-9)


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    label = np.array([0, 0, 0, 1, 2, 2, -1, -1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=label[label >= 0])
    np.testing.assert_allclose(balanced_weights(label, "multiclass", 3), expected, rtol=1e-6)
    bits = np.array([[0, 1, 1], [0, 1, 255], [0, 0, 1], [1, 255, 255]], np.uint8)
    found = balanced_weights(bits, "multilabel", 3)
    for column in range(2):
        given = bits[bits[:, column] < 2, column]
        expected = compute_class_weight("balanced", classes=np.arange(2), y=given)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-6)
    np.testing.assert_allclose(found[:, 2], 1)  # constant where it is known


def test_logit_adjustment_changes_the_hard_part_alone():
    drawn = _draw("multiclass")
    prior = log_priors(drawn[1], CLASSES).astype(np.float64)
    counts = [(drawn[1] == c).sum() for c in range(CLASSES)]
    np.testing.assert_allclose(np.exp(prior), np.maximum(counts, 0.5) / sum(counts), rtol=1e-6)
    hard, known = _slow_hard("multiclass", *drawn[:2], np.ones(CLASSES), prior)
    soft = _slow("kd", "multiclass", *drawn[:3], 2.0, *drawn[3:])
    objective = Objective("multiclass", 2.0, 0.4, log_prior=torch.from_numpy(prior))
    expected = _slow_total("multiclass", hard, soft, drawn[1], 0.4, known)
    assert float(total_loss(_answers(*drawn), objective)) == pytest.approx(expected, rel=1e-9)


def test_the_balanced_order_is_balanced_and_a_function_of_seed_epoch_and_keys():
    random = np.random.default_rng(0)
    key = random.integers(0, 256, (100, 16), dtype=np.uint8)
    label = np.repeat([0, 1, 2, -1], [70, 18, 3, 9]).astype(np.int32)
    order = balanced_order(key, label, seed=1, epoch=0)
    assert len(order) == 100
    assert np.bincount(label[order] + 1).tolist() == [9, 30, 30, 31]
    counts = np.bincount(order[label[order] == 2])[-12:-9]
    assert counts.max() - counts.min() <= 1
    shuffled = random.permutation(100)
    np.testing.assert_array_equal(shuffled[balanced_order(key[shuffled], label[shuffled], seed=1, epoch=0)], order)
    frequent = [set(balanced_order(key, label, seed, epoch)) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert len(set(map(frozenset, frequent))) == 3
