"""Scores, calibration and intervals, against the medmnist package's Evaluator and slow, obvious versions."""

import json
import math

import numpy as np
import pytest
from draws import examples
from hypothesis import given
from hypothesis import strategies as st

from medal.pipeline.metrics import (
    Temperature,
    auroc,
    bootstrap,
    confusion_matrix,
    fit_temperature,
    log_loss,
    probabilities,
    reliability,
    score,
)

EVALUATOR_TASK = {2: "binary-class", 3: "multi-class", 9: "multi-class"}


def random_classes(n_rows, n_classes, seed, coarse=False):
    """Labels of all classes and logits that know a little of them; coarse ones have many ties."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(n_rows) % n_classes).astype(np.int32)
    logits = generator.normal(size=(n_rows, n_classes)) + np.eye(n_classes)[labels]
    return (np.round(logits) if coarse else logits).astype(np.float32), labels


def random_labels(n_rows, n_labels, seed):
    generator = np.random.default_rng(seed)
    labels = (generator.random((n_rows, n_labels)) < 0.3).astype(np.uint8)
    labels[0], labels[1] = 0, 1
    return (generator.normal(size=labels.shape) + labels).astype(np.float32), labels


def names(count):
    return [f"class {index}" for index in range(count)]


@pytest.fixture(scope="module")
def evaluator():
    """The two functions of the medmnist package that its Evaluator is made of."""
    return pytest.importorskip("medmnist.evaluator")


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 9])
def test_multiclass_scores_are_the_evaluators(evaluator, n_classes, coarse):
    for seed in range(5):
        logits, labels = random_classes(97, n_classes, seed, coarse)
        probability = probabilities(logits, "multiclass")
        found = score(logits, labels, "multiclass", names(n_classes))
        task = EVALUATOR_TASK[n_classes]
        assert found.auroc == pytest.approx(evaluator.getAUC(labels[:, None], probability, task), abs=1e-9)
        assert found.accuracy == pytest.approx(evaluator.getACC(labels[:, None], probability, task), abs=1e-9)
        assert found.absent == ()
        assert found.n == 97


@pytest.mark.parametrize("n_labels", [2, 5, 14])
def test_multilabel_scores_are_the_evaluators(evaluator, n_labels):
    logits, labels = random_labels(97, n_labels, seed=n_labels)
    probability = probabilities(logits, "multilabel")
    found = score(logits, labels, "multilabel", names(n_labels))
    task = "multi-label, binary-class"
    assert found.auroc == pytest.approx(evaluator.getAUC(labels, probability, task), abs=1e-9)
    assert found.accuracy == pytest.approx(evaluator.getACC(labels, probability, task), abs=1e-9)


def test_a_tie_between_two_classes_goes_to_the_first():
    found = score(np.zeros((4, 2), np.float32), np.array([0, 0, 0, 1]), "multiclass", names(2))
    assert (found.accuracy, found.auroc) == (0.75, 0.5)


def test_a_class_that_is_absent_is_named_and_left_out_of_the_mean():
    logits, labels = random_classes(60, 4, seed=0)
    present = labels != 2
    found = score(logits[present], labels[present], "multiclass", names(4))
    assert found.absent == ("class 2",)
    assert math.isnan(found.per_class["class 2"])
    others = [found.per_class[name] for name in ("class 0", "class 1", "class 3")]
    assert found.auroc == pytest.approx(np.mean(others), abs=1e-12)


def test_a_single_class_has_accuracy_but_no_auroc():
    found = score(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 1]), "multiclass", names(2))
    assert found.accuracy == 0.5
    assert found.absent == ("class 0", "class 1")
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["auroc"] is None


def test_a_label_without_negatives_is_left_out():
    logits, labels = random_labels(40, 3, seed=1)
    labels[:, 1] = 1
    found = score(logits, labels, "multilabel", names(3))
    assert found.absent == ("class 1",)
    assert found.auroc == pytest.approx((found.per_class["class 0"] + found.per_class["class 2"]) / 2)


def test_unknown_labels_are_as_if_not_there():
    logits, labels = random_classes(80, 3, seed=2)
    masked = np.where(np.arange(80) < 30, -1, labels)
    assert score(logits, masked, "multiclass", names(3)) == score(logits[30:], labels[30:], "multiclass", names(3))
    assert log_loss(logits, masked, "multiclass") == pytest.approx(log_loss(logits[30:], labels[30:], "multiclass"))


def test_unknown_bits_are_masked_label_by_label():
    logits, labels = random_labels(80, 2, seed=3)
    masked = labels.copy()
    masked[:30, 1] = 255
    found = score(logits, masked, "multilabel", names(2))
    whole = score(logits, labels, "multilabel", names(2))
    rest = score(logits[30:], labels[30:], "multilabel", names(2))
    assert found.per_class == {"class 0": whole.per_class["class 0"], "class 1": rest.per_class["class 1"]}
    right = [((logits[rows, c] > 0) == labels[rows, c]).mean() for c, rows in ((0, slice(80)), (1, slice(30, 80)))]
    assert found.accuracy == pytest.approx(np.mean(right))
    assert found.n == 80


@pytest.mark.parametrize(
    ("labels", "task"), [(np.full(5, -1), "multiclass"), (np.full((5, 3), 255, np.uint8), "multilabel")]
)
def test_without_a_known_label_nothing_is_defined(labels, task):
    logits = np.zeros((5, 3), np.float32)
    found = score(logits, labels, task, names(3))
    assert math.isnan(found.auroc)
    assert math.isnan(found.accuracy)
    assert found.n == 0
    assert math.isnan(log_loss(logits, labels, task))
    assert math.isnan(reliability(logits, labels, task).error)
    assert np.isnan(list(bootstrap(logits, labels, task).intervals().values())).all()
    assert fit_temperature(logits, labels, task) == Temperature(1.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=25))
def test_auroc_is_the_share_of_pairs_won(rows):
    value = np.array([float(item) for item, _ in rows])
    positive = np.array([flag for _, flag in rows], bool)
    pairs = [(a > b) + (a == b) / 2 for a in value[positive] for b in value[~positive]]
    found = auroc(value, positive, ~positive)
    assert found == pytest.approx(np.mean(pairs)) if pairs else math.isnan(found)


def test_logits_of_any_size_give_finite_figures():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [3e4, -3e4]], np.float32)
    for task, labels in (("multiclass", np.array([0, 1, 1])), ("multilabel", np.array([[1, 0], [0, 1], [0, 1]]))):
        assert np.isfinite(probabilities(logits, task)).all()
        assert math.isfinite(log_loss(logits, labels, task))


def test_confusion_matrices_count_truth_by_row():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 2, 0]]
    counts = confusion_matrix(logits, np.array([0, 1, 0, 2, -1]), "multiclass")
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    counts = confusion_matrix(np.array([[1.0], [1.0], [-1.0], [1.0]]), np.array([[1], [0], [1], [255]]), "multilabel")
    assert counts.tolist() == [[[0, 1], [1, 1]]]


def test_reliability_by_hand():
    probability = np.array([0.6, 0.6, 0.6, 0.6, 0.9, 0.9, 0.9, 0.9])
    logits = np.stack([np.zeros(8), np.log(probability / (1 - probability))], 1)
    found = reliability(logits, np.array([1, 0, 0, 0, 1, 1, 1, 0]), "multiclass", bins=2)
    np.testing.assert_allclose(found.confidence, [0.6, 0.9])
    np.testing.assert_allclose(found.accuracy, [0.25, 0.75])
    assert found.error == pytest.approx(0.25)


def test_equal_confidence_shares_a_bin():
    # A constant classifier that is right as often as it says has no error, in whatever order its rows stand.
    logits = np.tile([0.0, math.log(3)], (400, 1))
    labels = np.array([0] * 100 + [1] * 300)
    assert reliability(logits, labels, "multiclass").error == pytest.approx(0, abs=1e-12)


def test_calibrated_logits_have_little_error_and_a_temperature_of_one():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 4)) * 2
    chance = probabilities(logits, "multiclass").cumsum(1)
    labels = (generator.random((20_000, 1)) > chance).sum(1).astype(np.int32)
    assert fit_temperature(logits, labels, "multiclass").value == pytest.approx(1, abs=0.03)
    assert fit_temperature(3 * logits, labels, "multiclass").value == pytest.approx(3, abs=0.09)
    assert reliability(logits, labels, "multiclass").error < 0.02
    assert reliability(3 * logits, labels, "multiclass").error > 0.1
    assert reliability(3 * logits, labels, "multiclass", temperature=3).error < 0.02


def slow_bootstrap(logits, labels, task, groups, seed, resamples):
    """The same draws, each spelled out row by row and scored anew."""
    known = labels >= 0 if task == "multiclass" else (labels != 255).any(1)
    logits, labels, groups = logits[known], labels[known], groups[known]
    units, seen = [], {}
    for row, group in enumerate(groups):
        if group < 0 or group not in seen:
            seen[group] = len(units)
            units.append([])
        units[-1 if group < 0 else seen[group]].append(row)
    drawn = np.random.default_rng(seed).integers(0, len(units), (resamples, len(units)))
    found = []
    for draw in drawn:
        rows = np.concatenate([units[unit] for unit in draw])
        scores = score(logits[rows], labels[rows], task, names(logits.shape[1]))
        found.append((scores.auroc, scores.accuracy))
    return np.array(found).T


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("case", ["two classes", "ties", "rare class", "multi-label"])
def test_the_bootstrap_equals_a_slow_one(case, grouped):
    if case == "multi-label":
        logits, labels = random_labels(40, 3, seed=0)
        labels[5:20, 1] = 255
        labels[:, 2] = np.arange(40) == 7  # absent from a third of the draws
        task = "multilabel"
    else:
        task = "multiclass"
        logits, labels = random_classes(40, 2 if case == "two classes" else 4, seed=0, coarse=case == "ties")
        if case == "rare class":
            labels[labels == 3] = 2
            labels[9] = 3
        labels[11] = -1
    groups = np.random.default_rng(1).integers(-1, 12, 40) if grouped else np.full(40, -1)
    # One block of 32 resamples and part of a second; draws of whole blocks continue one stream.
    slow = slow_bootstrap(logits, labels, task, groups, seed=3, resamples=45)
    fast = bootstrap(logits, labels, task, groups=groups, seed=3, resamples=45)
    np.testing.assert_allclose(fast.auroc, slow[0], atol=1e-12)
    np.testing.assert_allclose(fast.accuracy, slow[1], atol=1e-12)
    np.testing.assert_allclose(fast.intervals()["auroc"], np.nanpercentile(slow[0], (2.5, 97.5)), atol=1e-12)


@examples(25)
@given(st.integers(0, 1000))
def test_group_numbers_mean_nothing_beyond_equality(seed):
    generator = np.random.default_rng(seed)
    logits, labels = random_classes(30, 3, seed)
    groups = generator.integers(-1, 6, 30)
    renamed = np.where(groups >= 0, generator.permutation(6)[groups] * 7, -1)
    a, b = (bootstrap(logits, labels, "multiclass", groups=g, resamples=20) for g in (groups, renamed))
    np.testing.assert_array_equal(a.auroc, b.auroc)


def test_intervals_hold_the_estimate_and_widen_with_groups():
    logits, labels = random_classes(300, 3, seed=5)
    found = bootstrap(logits, labels, "multiclass").intervals()
    whole = score(logits, labels, "multiclass", names(3))
    assert found["auroc"][0] < whole.auroc < found["auroc"][1]
    assert found["accuracy"][0] < whole.accuracy < found["accuracy"][1]
    assert found == bootstrap(logits, labels, "multiclass", groups=np.full(300, -1)).intervals()
    assert found != bootstrap(logits, labels, "multiclass", seed=1).intervals()
    ten_copies = [np.repeat(column, 10, axis=0) for column in (logits, labels, np.arange(300))]
    copied = bootstrap(*ten_copies[:2], "multiclass", groups=ten_copies[2]).intervals()
    np.testing.assert_allclose(copied["auroc"], found["auroc"], atol=1e-12)
    naive = bootstrap(*ten_copies[:2], "multiclass").intervals()
    assert naive["auroc"][1] - naive["auroc"][0] < (copied["auroc"][1] - copied["auroc"][0]) / 2
