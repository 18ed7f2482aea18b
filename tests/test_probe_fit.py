"""How a probe is fitted: the regression itself, how its strength is chosen, and what is refused."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from medal.cache.errors import DataError, TeacherError
from medal.pipeline.metrics import fit_temperature
from medal.pipeline.probe.fit import ProbeSettings, fit_probe, logits

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "probe_cases.py")))
Case = cases.Case


@pytest.fixture(scope="module", params=cases.CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def fitted(request):
    case = Case(*request.param)
    return case, case.fit()


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
        case.features,
        case.labels,
        keys=case.keys,
        groups=case.groups,
        task="multiclass",
        n_classes=3,
        settings=ProbeSettings(),
    )
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
    assert (probe.temperature.images == 0) == (folds == 0)


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
        case.features,
        case.labels,
        keys=case.keys,
        groups=case.groups,
        task="multiclass",
        n_classes=3,
        settings=ProbeSettings(),
        tell=told.append,
    )
    assert len(told) == 1 + probe.folds + 1  # the choice of C is one line, however many were tried


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
