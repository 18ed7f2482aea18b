"""Every metric against scikit-learn, on random and on degenerate inputs, and what resamples say of two models."""

import json
import warnings

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from medal.pipeline.metrics import (
    Resamples,
    bootstrap,
    by_domain,
    by_rarity,
    class_counts,
    compare,
    confusion_matrix,
    mcnemar,
    mean_measures,
    measure,
    probabilities,
    rests_on,
)

CASES = ["two classes", "five classes", "ties", "class absent", "unknown", "one class only"]


def draw(case, seed=0, count=90):
    """Logits and class labels of one kind of trouble."""
    random = np.random.default_rng(seed)
    n_classes = 2 if case == "two classes" else 5
    labels = random.permutation(np.arange(count) % n_classes).astype(np.int32)
    logits = (random.normal(size=(count, n_classes)) + np.eye(n_classes)[labels]).astype(np.float32)
    if case == "ties":
        logits = np.round(logits)
    if case == "class absent":
        labels[labels == 3] = 1
    if case == "unknown":
        labels[::4] = -1
    if case == "one class only":
        labels[:] = 2
    return logits, labels


def draw_several(seed=0, count=80, n_labels=4):
    """Logits and 0/1 labels: some unknown, one never there, one unknown throughout."""
    random = np.random.default_rng(seed)
    labels = (random.random((count, n_labels)) < 0.4).astype(np.uint8)
    logits = (random.normal(size=labels.shape) + labels).astype(np.float32)
    labels[random.random(labels.shape) < 0.2] = 255
    labels[labels[:, 2] == 1, 2] = 0
    labels[:, 3] = 255
    return logits, labels


def names(count):
    return [f"class {index}" for index in range(count)]


def binary_by_scikit(truth, value, decided, at):
    """The figures of one class against the rest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sk_warning())
        found = {
            "n": int(truth.sum()),
            "sensitivity": sk.recall_score(truth, decided) if truth.any() else None,
            "specificity": sk.recall_score(truth, decided, pos_label=0) if not truth.all() else None,
            "f1": sk.f1_score(truth, decided) if truth.any() else None,
            "auroc": None,
            "auprc": None,
            "specificity_at_sensitivity": None,
        }
    if truth.any() and not truth.all():
        specificities = []
        for threshold in np.unique(value):
            positive = value >= threshold
            if positive[truth].mean() >= at:
                specificities.append((~positive[~truth]).mean())
        found |= {
            "auroc": sk.roc_auc_score(truth, value),
            "auprc": sk.average_precision_score(truth, value),
            "specificity_at_sensitivity": max(specificities),
        }
    return found


def sk_warning():
    from sklearn.exceptions import UndefinedMetricWarning

    return UndefinedMetricWarning


def mean(values):
    given = [value for value in values if value is not None]
    return np.mean(given) if given else None


def same(found, expected):
    assert (found is None) == (expected is None)
    return found is None or found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("at", [0.95, 0.5, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_multiclass_measures_are_scikit_learns(case, at):
    logits, labels = draw(case)
    n_classes = logits.shape[1]
    found = measure(logits, labels, "multiclass", names(n_classes), at_sensitivity=at)
    given = labels >= 0
    truth, probability = labels[given], probabilities(logits[given], "multiclass")
    decided = probability.argmax(1)
    by_class = []
    for c, name in enumerate(names(n_classes)):
        expected = binary_by_scikit(truth == c, probability[:, c], decided == c, at)
        for what, value in found["classes"][name].items():
            assert same(value, expected[what]), (name, what)
        by_class.append(expected)
    shown = by_class[1:] if n_classes == 2 else by_class
    for what in ("auroc", "auprc", "specificity_at_sensitivity"):
        assert same(found[what], mean([one[what] for one in shown])), what
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that are decided and not there
        assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, decided))
    present = np.unique(truth)
    assert found["macro_f1"] == pytest.approx(sk.f1_score(truth, decided, labels=present, average="macro"))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, decided))
    assert found["log_loss"] == pytest.approx(sk.log_loss(truth, probability, labels=range(n_classes)), abs=1e-6)
    assert found["confusion"] == sk.confusion_matrix(truth, decided, labels=range(n_classes)).tolist()
    squared = ((probability - np.eye(n_classes)[truth]) ** 2).sum(1).mean()
    assert found["brier"] == pytest.approx(squared / 2 if n_classes == 2 else squared)
    absent = [name for name, one in zip(names(n_classes), by_class, strict=True) if one["auroc"] is None]
    assert found["absent"] == absent
    json.dumps(found, allow_nan=False)


def test_the_brier_score_of_two_classes_is_scikit_learns():
    logits, labels = draw("two classes")
    expected = sk.brier_score_loss(labels, probabilities(logits, "multiclass")[:, 1])
    assert measure(logits, labels, "multiclass", names(2))["brier"] == pytest.approx(expected)


def test_multilabel_measures_are_scikit_learns_label_by_label():
    logits, labels = draw_several()
    found = measure(logits, labels, "multilabel", names(4))
    probability = probabilities(logits, "multilabel")
    by_label = []
    for c, name in enumerate(names(4)):
        rows = labels[:, c] != 255
        expected = binary_by_scikit(labels[rows, c] == 1, probability[rows, c], probability[rows, c] > 0.5, 0.95)
        if not rows.any():
            expected |= {"sensitivity": None, "specificity": None, "f1": None}
        for what, value in found["classes"][name].items():
            assert same(value, expected[what]), (name, what)
        by_label.append(expected)
    assert found["absent"] == ["class 2", "class 3"]
    assert found["auprc"] == pytest.approx(mean([one["auprc"] for one in by_label]))
    balanced = [(one["sensitivity"] + one["specificity"]) / 2 for one in by_label[:2]]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(balanced))
    known = labels != 255
    assert found["brier"] == pytest.approx(sk.brier_score_loss(labels[known], probability[known]))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_without_a_known_label_every_figure_is_none(task):
    logits = np.zeros((5, 3), np.float32)
    labels = np.full(5, -1) if task == "multiclass" else np.full((5, 3), 255, np.uint8)
    found = measure(logits, labels, task, names(3))
    figures = ("auroc", "accuracy", "auprc", "balanced_accuracy", "macro_f1", "brier", "calibration_error", "log_loss")
    assert {found[name] for name in figures} == {None}
    assert found["absent"] == names(3)
    assert found["n"] == 0


def test_the_order_of_rows_changes_nothing():
    logits, labels = draw("ties")
    order = np.random.default_rng(1).permutation(len(labels))
    one, other = (measure(logits[rows], labels[rows], "multiclass", names(5)) for rows in (slice(None), order))
    for what in ("auroc", "auprc", "macro_f1", "brier", "calibration_error", "specificity_at_sensitivity"):
        assert one[what] == pytest.approx(other[what], abs=1e-12)


def test_domains_are_measured_apart():
    logits, labels = draw("five classes")
    domain = (np.arange(90) % 3 - 1).astype(np.int16)
    found = by_domain(logits, labels, domain, ["one", "other", "nobody's"], "multiclass", names(5))
    assert list(found) == ["one", "other"]
    alone = measure(logits[domain == 1], labels[domain == 1], "multiclass", names(5))
    assert found["other"]["auroc"] == alone["auroc"]
    assert found["other"]["n"] == 30


def test_classes_are_told_apart_by_how_rare_they_are():
    logits, labels = draw("five classes")
    classes = measure(logits, labels, "multiclass", names(5))["classes"]
    trained_on = dict(zip(names(5), (100, 3, 50, 7, 60), strict=True))
    found = by_rarity(classes, trained_on)
    assert {tier: part["classes"] for tier, part in found.items()} == {
        "rare": ["class 1", "class 3"],
        "medium": ["class 2", "class 4"],
        "common": ["class 0"],
    }
    assert found["rare"]["sensitivity"] == pytest.approx(np.mean([classes[c]["sensitivity"] for c in names(5)[1:4:2]]))
    assert list(by_rarity({name: classes[name] for name in names(2)}, trained_on)) == ["rare", "common"]
    assert class_counts(np.array([0, 1, 1, -1]), "multiclass", ["a", "b"]) == {"a": 1, "b": 2}


def test_the_mean_over_seeds_is_taken_figure_by_figure():
    one, other = (
        {"auroc": a, "absent": ["x"], "confusion": [[n, 0]], "classes": {"y": {"f1": None}}}
        for a, n in ((0.5, 2), (0.7, 4))
    )
    assert mean_measures([one, other]) == {
        "auroc": pytest.approx(0.6),
        "absent": ["x"],
        "confusion": [[3.0, 0]],
        "classes": {"y": {"f1": None}},
    }


# ── Resamples ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", ["two classes", "ties", "class absent", "unknown", "several labels"])
def test_every_statistic_of_every_resample_is_its_measure(case):
    task = "multilabel" if case == "several labels" else "multiclass"
    logits, labels = draw_several(count=40) if case == "several labels" else draw(case, count=40)
    given = (labels != 255).any(1) if labels.ndim == 2 else labels >= 0
    logits, labels = logits[given], labels[given]
    fast = bootstrap(logits, labels, task, seed=5, resamples=12)
    for index, rows in enumerate(np.random.default_rng(5).integers(0, len(labels), (12, len(labels)))):
        slow = measure(logits[rows], labels[rows], task, names(logits.shape[1]))
        for name, values in fast.values.items():
            assert values[index] == pytest.approx(slow[name], abs=1e-6), name


def test_seeds_are_averaged_inside_each_resample():
    (first, labels), (second, _) = draw("five classes", seed=0), draw("five classes", seed=0)
    second = second[::-1]
    one, other = (bootstrap(logits, labels, "multiclass", resamples=50) for logits in (first, second))
    np.testing.assert_allclose(Resamples.mean([one, other]).auroc, (one.auroc + other.auroc) / 2)
    # A seed that is repeated says no more than it did once.
    assert Resamples.mean([one, one, one]).intervals()["brier"] == pytest.approx(one.intervals()["brier"])


def test_what_intervals_rest_on_is_counted_by_patient():
    labels = np.array([0, 0, 0, 1, 1, 2, -1])
    patient = np.array([4, 4, 7, 7, -1, -1, 9])
    assert rests_on(labels, "multiclass") == {"units": 6, "rarest": 1}
    assert rests_on(labels[:5], "multiclass", patient[:5]) == {"units": 3, "rarest": 2}
    assert rests_on(labels, "multiclass", patient) == {"units": 4, "rarest": 1}
    bits = np.array([[1, 0], [1, 255], [0, 255], [1, 255], [255, 0]], np.uint8)
    assert rests_on(bits, "multilabel") == {"units": 5, "rarest": 1}  # the second label does not vary
    assert rests_on(bits, "multilabel", np.array([1, 1, 2, 2, 3])) == {"units": 3, "rarest": 1}
    assert rests_on(np.full(3, -1), "multiclass") == {"units": 0, "rarest": 0}


def compared(first, second, labels):
    pair = [bootstrap(logits, labels, "multiclass") for logits in (first, second)]
    values = [measure(logits, labels, "multiclass", names(first.shape[1])) for logits in (first, second)]
    return compare(*pair, tuple(values))


def test_a_model_does_not_differ_from_itself():
    logits, labels = draw("five classes")
    for found in compared(logits, logits.copy(), labels).values():
        assert (found.value, found.interval, found.p) == (0, (0, 0), 1)
        assert not found.above
        assert not found.below


def test_a_better_model_is_told_from_a_worse_one():
    _, labels = draw("five classes", count=300)
    random = np.random.default_rng(3)
    good = np.eye(5)[labels] * 3 + random.normal(size=(300, 5))
    bad = np.eye(5)[labels] * 0.3 + random.normal(size=(300, 5))
    found = compared(good, bad, labels)
    assert found["auroc"].above
    assert found["brier"].below
    assert found["auroc"].p == pytest.approx(2 / 1001)
    reverse = compared(bad, good, labels)["auroc"]
    assert reverse.value == pytest.approx(-found["auroc"].value)
    assert reverse.interval == pytest.approx([-edge for edge in found["auroc"].interval[::-1]])


def test_pairing_takes_out_what_both_find_hard():
    _, labels = draw("two classes", count=200)
    random = np.random.default_rng(0)
    shared = np.eye(2)[labels] + random.normal(size=(200, 2))
    near = shared + 0.05 * random.normal(size=(200, 2))
    found = compared(shared, near, labels)["auroc"]
    alone = bootstrap(shared, labels, "multiclass").intervals()["auroc"]
    assert found.interval[1] - found.interval[0] < (alone[1] - alone[0]) / 3


def test_p_values_are_even_where_there_is_nothing_to_find():
    """Two models that are equally good: about one test in twenty finds a difference, not one in three or none."""
    found = []
    for seed in range(120):
        random = np.random.default_rng(seed)
        labels = np.arange(80) % 2
        first, second = (np.eye(2)[labels] + random.normal(size=(80, 2)) for _ in range(2))
        pair = [bootstrap(logits, labels, "multiclass", resamples=200) for logits in (first, second)]
        values = [measure(logits, labels, "multiclass", names(2)) for logits in (first, second)]
        found.append(compare(*pair, tuple(values))["auroc"].p)
    assert 0.005 < np.mean(np.array(found) < 0.05) < 0.12
    assert 0.3 < np.median(found) < 0.7


def test_mcnemar_is_the_exact_binomial_of_the_disagreements():
    labels = np.zeros(20, np.int32)
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    first = np.array([right] * 12 + [wrong] * 8)
    second = np.array([right] * 4 + [wrong] * 14 + [right] * 2)
    found = mcnemar([first], [second], labels, "multiclass")
    assert (found.only_first, found.only_second) == (8, 2)
    assert found.p == pytest.approx(binomtest(8, 10).pvalue)
    assert mcnemar([first], [first], labels, "multiclass").p == 1
    labels[:8] = -1
    assert mcnemar([first], [second], labels, "multiclass").only_first == 4


def test_an_ensemble_decides_by_its_mean_probability():
    labels = np.array([0])
    sure, unsure = np.array([[5.0, 0.0]]), np.array([[0.0, 0.5]])
    assert mcnemar([sure, unsure], [unsure], labels, "multiclass").only_first == 1


def test_an_image_of_several_labels_is_right_if_all_known_ones_are():
    labels = np.array([[1, 255], [1, 0], [255, 255]], np.uint8)
    first, second = np.array([[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]]), np.array([[-2.0, 0.0], [2.0, -2.0], [0.0, 0.0]])
    found = mcnemar([first], [second], labels, "multilabel")
    assert (found.only_first, found.only_second) == (1, 1)
    assert confusion_matrix(first, labels, "multilabel")[0].tolist() == [[0, 0], [0, 2]]
