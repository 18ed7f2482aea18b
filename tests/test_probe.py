"""The probe: what was seen by whom, the regression itself, and that nothing hangs on the order of rows."""

import json
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from medal.cache.errors import DataError, TeacherError
from medal.pipeline.logistic import LogisticFit
from medal.pipeline.metrics import fit_temperature, score
from medal.pipeline.probe import ProbeSettings, describe_probe, fit_probe, logits


def random_keys(n_rows, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n_rows, 16), dtype=np.uint8)


def random_features(labels, seed=0, width=12, signal=1.0):
    """float16 features that know something of the labels, of uneven means and scales as a teacher's are."""
    generator = np.random.default_rng(seed)
    columns = np.eye(labels.max() + 1)[labels] if labels.ndim == 1 else labels.astype(float)
    directions = np.random.default_rng(99).normal(size=(columns.shape[1], width)) * signal
    scale = np.geomspace(0.2, 5, width)
    return ((generator.normal(size=(len(labels), width)) + columns @ directions) * scale + 2).astype(np.float16)


class Case:
    """A small problem with all that can be odd about one: patients, repeats, unknown labels."""

    def __init__(self, task="multiclass", n_classes=3, seed=0, n_rows=150):
        generator = np.random.default_rng(seed)
        self.task, self.n_classes = task, n_classes
        self.keys = random_keys(n_rows, seed)
        self.keys[10:20] = self.keys[30:40]
        self.groups = np.where(generator.random(n_rows) < 0.5, generator.integers(0, 30, n_rows), -1)
        if task == "multiclass":
            draw = [generator.permutation(np.arange(n) % n_classes).astype(np.int32) for n in (n_rows, 60, 60)]
        else:
            draw = [(generator.random((n, n_classes)) < 0.4).astype(np.uint8) for n in (n_rows, 60, 60)]
        splits = ("train", "val", "test")
        # Copies of an image look alike, whatever their label.
        self.features = {name: random_features(draw[index], seed + index) for index, name in enumerate(splits)}
        self.features["train"][10:20] = self.features["train"][30:40]
        self.labels = dict(zip(splits, draw, strict=True))
        self.labels["train"][3] = -1 if task == "multiclass" else 255

    def fit(self, rows=None, **options):
        rows = np.arange(len(self.keys)) if rows is None else rows
        return fit_probe(
            self.features | {"train": self.features["train"][rows]},
            self.labels | {"train": self.labels["train"][rows]},
            keys=self.keys[rows],
            groups=self.groups[rows],
            task=self.task,
            n_classes=self.n_classes,
            settings=ProbeSettings(**options),
        )

    def train_logits(self, probe, rows=None):
        features = self.features["train"] if rows is None else self.features["train"][rows]
        found = [logits(row, probe.weight[k], probe.bias[k]) for row, k in zip(features, probe.fold, strict=True)]
        return np.array(found)


CASES = [("multiclass", 2), ("multiclass", 3), ("multilabel", 3)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def fitted(request):
    case = Case(*request.param)
    return case, case.fit()


# --- what the probes have seen ---------------------------------------------------------------------------------------


def test_a_rows_probe_is_what_a_fit_without_its_relatives_gives(fitted):
    case, probe = fitted
    for index in range(probe.folds):
        rows = np.flatnonzero(probe.fold != index)
        rows = rows[np.lexsort((*case.labels["train"].reshape(150, -1)[rows].T[::-1], *case.keys[rows].T[::-1]))]
        alone = LogisticFit(
            case.features["train"][rows], np.arange(len(rows)), case.labels["train"][rows],
            task=case.task, n_classes=case.n_classes, max_iter=1000, tolerance=1e-4,
        ).fit(probe.C)  # fmt: skip
        np.testing.assert_allclose(alone.weight, probe.weight[index], atol=1e-6)
        related = np.isin(case.groups, case.groups[rows][case.groups[rows] >= 0])
        assert not (related & (probe.fold == index)).any()


def test_changing_the_rows_of_a_fold_changes_no_bit_of_its_probe(fitted):
    case, probe = fitted
    other = Case(case.task, case.n_classes)
    mine = probe.fold == 1
    other.features["train"][mine] = other.features["train"][mine][::-1] * np.float16(1.5)
    changed = other.fit(grid=(probe.C,))
    np.testing.assert_array_equal(changed.fold, probe.fold)
    np.testing.assert_array_equal(changed.weight[1], probe.weight[1])
    assert (changed.weight[0] != probe.weight[0]).any()


def test_out_of_fold_logits_of_random_labels_know_nothing():
    generator = np.random.default_rng(0)
    case = Case("multiclass", 2, n_rows=200)
    case.features["train"] = generator.normal(size=(200, 400)).astype(np.float16)
    case.features["val"] = generator.normal(size=(60, 400)).astype(np.float16)
    out_of_fold = case.fit(grid=(1.0,))
    assert out_of_fold.folds == 5
    names = ("a", "b")
    unseen = score(case.train_logits(out_of_fold), case.labels["train"], "multiclass", names).auroc
    assert abs(unseen - 0.5) < 0.12
    in_sample = case.fit(grid=(1.0,), folds=0)
    assert in_sample.folds == 0
    assert (in_sample.fold == -1).all()
    assert score(case.train_logits(in_sample), case.labels["train"], "multiclass", names).auroc > 0.99


def test_the_full_probe_does_not_depend_on_the_folds(fitted):
    case, probe = fitted
    np.testing.assert_array_equal(case.fit(folds=0).weight[-1], probe.weight[-1])


# --- order, bytes, convention ----------------------------------------------------------------------------------------


def test_permuted_rows_give_permuted_results_to_the_bit(fitted):
    case, probe = fitted
    order = np.random.default_rng(4).permutation(150)
    again = case.fit(order)
    np.testing.assert_array_equal(again.fold, probe.fold[order])
    np.testing.assert_array_equal(again.weight, probe.weight)
    np.testing.assert_array_equal(again.bias, probe.bias)
    assert again.temperature == probe.temperature
    np.testing.assert_array_equal(case.train_logits(again, order), case.train_logits(probe)[order])


def test_the_number_of_threads_changes_no_bit():
    from threadpoolctl import threadpool_limits

    case = Case(n_rows=1000)  # large enough for BLAS to share it out
    case.features = {name: random_features(labels, width=400, signal=0.05) for name, labels in case.labels.items()}
    with threadpool_limits(2):
        two = case.fit(folds=2, grid=(0.01, 0.1))
    with threadpool_limits(1):
        one = case.fit(folds=2, grid=(0.01, 0.1))
    np.testing.assert_array_equal(one.weight, two.weight)
    assert one.temperature == two.temperature


def test_multiclass_logits_have_zero_mean_over_classes(fitted):
    case, probe = fitted
    if case.task == "multiclass":
        np.testing.assert_allclose(case.train_logits(probe).mean(1), 0, atol=1e-5)
        np.testing.assert_allclose(probe.weight.mean(1), 0, atol=1e-6)


def test_logits_are_features_times_weight_plus_bias(fitted):
    case, probe = fitted
    features = case.features["test"].astype(np.float32)
    expected = features @ probe.weight[-1].T + probe.bias[-1]
    found = logits(case.features["test"], probe.weight[-1], probe.bias[-1])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    views = np.stack([case.features["test"]] * 2, 1)  # (N, V, F)
    np.testing.assert_array_equal(logits(views, probe.weight[-1], probe.bias[-1])[:, 1], found)


# --- the regression itself -------------------------------------------------------------------------------------------


def test_the_full_probe_is_scikit_learns_regression(fitted):
    case, _ = fitted
    probe = case.fit(grid=(0.1,), tolerance=1e-7)
    labels = case.labels["train"]
    columns = [labels] if case.task == "multiclass" else list(labels.T)
    scaler = StandardScaler()
    given = labels >= 0 if case.task == "multiclass" else (labels != 255).any(1)
    matrix = scaler.fit_transform(case.features["train"][given].astype(np.float64))
    test = scaler.transform(case.features["test"].astype(np.float64))
    models = [LogisticRegression(C=0.1, tol=1e-9, max_iter=5000).fit(matrix, column[given]) for column in columns]
    expected = np.stack([model.decision_function(test) for model in models], 1)
    if case.task == "multiclass":
        expected = expected[:, 0]
        if case.n_classes == 2:
            expected = np.stack([-expected, expected], 1) / 2
        expected = expected - expected.mean(1, keepdims=True)
    np.testing.assert_allclose(logits(case.features["test"], probe.weight[-1], probe.bias[-1]), expected, atol=2e-3)


def test_unknown_bits_are_left_out_label_by_label():
    case = Case("multilabel", 2)
    case.labels["train"][:60, 1] = 255
    rows = np.arange(60, 150)
    probe = case.fit(grid=(0.1,), tolerance=1e-7)
    # Standardised over all rows, but fitted on those where the label is known.
    matrix = case.features["train"].astype(np.float64)
    fitting = np.setdiff1d(np.arange(150), 3)
    mean, deviation = matrix[fitting].mean(0), matrix[fitting].std(0)
    model = LogisticRegression(C=0.1, tol=1e-9, max_iter=5000)
    model.fit(((matrix - mean) / deviation)[rows], case.labels["train"][rows, 1])
    np.testing.assert_allclose(probe.weight[-1][1] * deviation, model.coef_[0], atol=2e-3)


def test_a_constant_label_gets_its_log_prior_odds():
    case = Case("multilabel", 3)
    case.labels["train"][:, 1] = 1
    case.labels["train"][3] = 255
    probe = case.fit()
    assert not probe.weight[:, 1].any()
    assert probe.bias[-1, 1] == pytest.approx(math.log(149.5 / 0.5), rel=1e-6)
    case.labels["train"][:, 1] = 255
    assert case.fit().bias[-1, 1] == 0


def test_a_class_of_one_patient_alone_is_unlikely_where_it_is_unseen():
    case = Case("multiclass", 3)
    rare = np.flatnonzero(case.labels["train"] == 2)
    case.groups[rare] = 77
    probe = case.fit()
    index = probe.fold[rare[0]]
    unseen = logits(case.features["train"][probe.fold == index], probe.weight[index], probe.bias[index])
    assert probe.folds >= 2
    assert np.isfinite(unseen).all()
    assert (unseen.argmax(1) != 2).all()
    np.testing.assert_allclose(unseen.mean(1), 0, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 37.0])
def test_a_constant_feature_gets_no_weight(constant):
    case = Case()
    case.features["train"][:, 4] = constant
    probe = case.fit()
    assert not probe.weight[:, :, 4].any()


def test_features_are_read_by_slice_only():
    class Sliced:
        def __init__(self, array):
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            return self.array[rows]

    case = Case()
    plain = case.fit()
    case.features = {name: Sliced(array) for name, array in case.features.items()}
    sliced = fit_probe(
        case.features, case.labels, keys=case.keys, groups=case.groups,
        task="multiclass", n_classes=3, settings=ProbeSettings(),
    )  # fmt: skip
    np.testing.assert_array_equal(sliced.weight, plain.weight)


def test_features_that_are_not_finite_are_refused():
    case = Case()
    case.features["train"][5, 2] = np.nan
    case.features["train"][6, 3] = np.inf
    with pytest.raises(TeacherError, match="2 of 12 features"):
        case.fit()


# --- choosing --------------------------------------------------------------------------------------------------------


def test_the_walk_stops_when_val_has_worsened_twice(fitted):
    _, probe = fitted
    losses = [trial.log_loss for trial in probe.tried]
    best = int(np.argmin(losses))
    assert probe.C == probe.tried[best].C
    assert probe.chosen_on == "val"
    assert [trial.C for trial in probe.tried] == list(ProbeSettings().grid[: len(losses)])
    assert len(losses) - best - 1 == 2 or len(losses) == len(ProbeSettings().grid)


def test_the_temperature_is_that_of_val(fitted):
    case, probe = fitted
    given = logits(case.features["val"], probe.weight[-1], probe.bias[-1])
    assert probe.temperature == fit_temperature(given, case.labels["val"], case.task)
    assert probe.calibrated_on == "val"


def test_the_choice_looks_at_the_first_rows_by_key_only():
    case = Case()
    by_key = np.lexsort(case.keys.T[::-1])
    tried = case.fit(choice_rows=40).tried
    case.features["train"][by_key[60:]] *= np.float16(0.5)  # past every tie of the 40th key
    case.features["val"][40:] *= np.float16(0.5)
    assert case.fit(choice_rows=40).tried == tried
    assert case.fit(choice_rows=70).tried != tried


@pytest.mark.parametrize("fate", ["absent", "one class", "unknown"])
@pytest.mark.parametrize("folds", [0, 5])
def test_without_a_useful_val_a_fold_of_train_is_held_out(fate, folds):
    case = Case()
    if fate == "absent":
        del case.features["val"], case.labels["val"]
    else:
        case.labels["val"][:] = 1 if fate == "one class" else -1
    probe = case.fit(folds=folds)
    assert probe.chosen_on == "train hold-out"
    assert len(probe.tried) > 3
    assert probe.calibrated_on == ("train out-of-fold" if folds else "none")
    assert (probe.temperature == 1.0) == (folds == 0)


def test_one_patient_alone_has_in_sample_logits():
    case = Case()
    case.groups[:] = 8
    probe = case.fit()
    assert probe.folds == 0
    assert (probe.fold == -1).all()


def test_not_converging_is_recorded_and_warns_nobody():
    probe = Case().fit(max_iter=1)
    assert not probe.converged
    assert not probe.tried[0].converged


def test_every_fit_is_told():
    case = Case()
    told = []
    probe = fit_probe(
        case.features, case.labels, keys=case.keys, groups=case.groups,
        task="multiclass", n_classes=3, settings=ProbeSettings(), tell=told.append,
    )  # fmt: skip
    assert len(told) == len(probe.tried) + probe.folds + 1


def test_one_class_or_no_label_is_refused():
    case = Case()
    case.labels["train"][:] = 2
    with pytest.raises(DataError, match="All 150 labelled images of train are of class number 2"):
        case.fit()
    case.labels["train"][:] = -1
    with pytest.raises(DataError, match="No image of train has a known label"):
        case.fit()


@pytest.mark.parametrize("folds", [-1, 1, 127])
def test_impossible_folds_are_refused(folds):
    with pytest.raises(DataError, match=f"got {folds}"):
        ProbeSettings(folds=folds)


@pytest.mark.parametrize("grid", [(), (1.0, 0.1), (0.0, 1.0), tuple(range(1, 14))])
def test_an_impossible_grid_is_refused(grid):
    with pytest.raises(DataError, match="grid"):
        ProbeSettings(grid=grid)


def test_the_description_is_json(fitted):
    case, probe = fitted
    names = tuple(f"class {index}" for index in range(case.n_classes))
    given = {split: logits(case.features[split], probe.weight[-1], probe.bias[-1]) for split in ("val", "test")}
    found = describe_probe(probe, given, case.labels, case.task, names)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["folds"] == 5
    assert found["settings"]["folds"] == 5
    assert found["C"] in found["settings"]["grid"]
    assert set(found["metrics"]) == {"val", "test"}
    assert found["metrics"]["test"]["auroc"] == score(given["test"], case.labels["test"], case.task, names).auroc
