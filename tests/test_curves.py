"""ROC and precision-recall curves with bands: against scikit-learn, against a slow bootstrap, and where they end."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from medal.pipeline.metrics import bootstrap, class_curves, macro_curves, measure
from medal.pipeline.metrics.bootstrap import Resamples
from medal.pipeline.metrics.curves import GRID

CLASSES = ("a", "b", "c")


@pytest.fixture
def answers():
    random = np.random.default_rng(4)
    labels = random.integers(0, 3, 150).astype(np.int32)
    logits = np.eye(3)[labels] * 1.2 + random.normal(0, 1, (150, 3))
    return np.round(logits, 1).astype(np.float32), labels  # rounded: ties


def test_the_curves_are_scikit_learns(answers):
    logits, labels = answers
    found = class_curves([logits], labels, "multiclass", CLASSES, resamples=20)
    probability = softmax(logits.astype(np.float64), axis=1)
    for column, name in enumerate(CLASSES):
        positive, value = labels == column, probability[:, column]
        fpr, tpr, _ = roc_curve(positive, value, drop_intermediate=False)
        np.testing.assert_allclose(found[name].sensitivity.value, np.interp(GRID, fpr, tpr), atol=1e-9)
        # The area under each is the figure that stands beside it, to the width of the grid.
        area = np.trapezoid(found[name].sensitivity.value, GRID)
        assert area == pytest.approx(roc_auc_score(positive, value), abs=0.01)
        assert found[name].precision.value.mean() == pytest.approx(average_precision_score(positive, value), abs=0.01)


def test_intervals_of_classes_are_of_the_same_draws_as_all_others(answers):
    logits, labels = answers
    two = logits[:, :2], (labels > 0).astype(np.int32)
    found = class_curves([two[0]], two[1], "multiclass", ("no", "yes"))["yes"].ci95
    whole = bootstrap(*two, "multiclass").intervals()
    assert found["auroc"] == pytest.approx(whole["auroc"])
    assert found["auprc"] == pytest.approx(whole["auprc"])
    rates = measure(*two, "multiclass", ("no", "yes"))["classes"]["yes"]
    for name in ("sensitivity", "specificity"):
        low, high = found[name]
        assert low < rates[name] < high


def test_the_band_is_that_of_a_slow_bootstrap(answers):
    logits, labels = answers
    found = class_curves([logits], labels, "multiclass", CLASSES)["b"].sensitivity
    probability = softmax(logits.astype(np.float64), axis=1)
    random, drawn = np.random.default_rng(1), []
    for _ in range(400):
        rows = random.integers(0, len(labels), len(labels))
        fpr, tpr, _ = roc_curve(labels[rows] == 1, probability[rows, 1], drop_intermediate=False)
        drawn.append(np.interp(GRID, fpr, tpr))
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    # Two bootstraps of other draws agree within the noise of their percentiles.
    assert np.abs(found.low - low).mean() < 0.02
    assert np.abs(found.high - high).mean() < 0.02
    assert (found.low <= found.value + 1e-6).mean() > 0.95
    assert (found.value <= found.high + 1e-6).mean() > 0.95


def test_seeds_are_averaged_inside_each_resample(answers):
    logits, labels = answers
    once = class_curves([logits], labels, "multiclass", CLASSES, resamples=50)
    twice = class_curves([logits, logits], labels, "multiclass", CLASSES, resamples=50)
    for name in CLASSES:
        np.testing.assert_allclose(once[name].precision.low, twice[name].precision.low)
        assert once[name].ci95 == twice[name].ci95
    mean = macro_curves(once).sensitivity
    assert np.all(mean.high >= mean.low)
    np.testing.assert_allclose(mean.value, np.mean([one.sensitivity.value for one in once.values()], axis=0))


def test_patients_are_drawn_whole(answers):
    logits, labels = answers
    groups = np.arange(len(labels)) // 30  # five patients: little is known
    alone = class_curves([logits], labels, "multiclass", CLASSES)["a"].sensitivity
    whole = class_curves([logits], labels, "multiclass", CLASSES, groups=groups)["a"].sensitivity
    assert np.abs(whole.low - alone.low).max() > 0.01


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_what_is_undefined_is_left_out(task):
    random = np.random.default_rng(0)
    logits = random.normal(0, 1, (20, 3)).astype(np.float32)
    if task == "multiclass":
        labels = np.array([0, 1] * 9 + [-1, -1], np.int32)
    else:
        labels = np.stack([np.arange(20) % 2, np.arange(20) % 3 == 0, np.ones(20)], 1).astype(np.uint8)
        labels[3] = 255
    found = class_curves([logits], labels, task, CLASSES, resamples=30)
    assert list(found) == ["a", "b"]
    unknown = np.full_like(labels, -1 if task == "multiclass" else 255)
    assert class_curves([logits], unknown, task, CLASSES, resamples=30) == {}


def test_a_constant_classifier_and_a_perfect_one():
    labels = np.array([0, 1] * 10, np.int32)
    constant = class_curves([np.zeros((20, 2), np.float32)], labels, "multiclass", ("n", "y"), resamples=20)["y"]
    np.testing.assert_allclose(constant.sensitivity.value, GRID)
    np.testing.assert_allclose(constant.precision.value, 0.5)
    perfect = np.eye(2, dtype=np.float32)[labels]
    found = class_curves([perfect], labels, "multiclass", ("n", "y"), resamples=20)["y"]
    assert found.sensitivity.low.min() == found.precision.low.min() == 1


def test_none_or_all_of_a_few_images_is_no_certainty():
    labels = np.repeat([0, 1], (30, 6)).astype(np.int32)
    never = np.tile(np.float32([1, 0]), (36, 1))  # says "a" to everybody
    one = class_curves([never, never], labels, "multiclass", ("a", "b"))["b"].ci95
    # Clopper and Pearson's exact intervals.
    exact = [stats.binomtest(hits, n).proportion_ci(method="exact") for hits, n in ((0, 6), (30, 30))]
    assert one["sensitivity"] == pytest.approx([exact[0].low, exact[0].high])
    assert one["specificity"] == pytest.approx([exact[1].low, exact[1].high])
    # Six images of two patients are two independent units, and an accuracy is a share as well.
    groups = np.repeat([0, 1, 2], (30, 3, 3))
    assert class_curves([never], labels, "multiclass", ("a", "b"), groups=groups)["b"].ci95["sensitivity"][1] > 0.8
    right = np.eye(2, dtype=np.float32)[labels]
    drawn = bootstrap(right, labels, "multiclass")
    assert Resamples.mean([drawn, drawn]).intervals()["accuracy"] == pytest.approx([0.025 ** (1 / 36), 1])
    assert drawn.intervals()["auroc"] == [1, 1]
