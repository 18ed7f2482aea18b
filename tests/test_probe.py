"""What a probe is: what was seen by whom, and that nothing hangs on the order of rows."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medal.pipeline.metrics import score
from medal.pipeline.probe.fit import describe_probe, logits
from medal.pipeline.probe.logistic import LogisticFit

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "probe_cases.py")))
Case, random_features = cases.Case, cases.random_features


@pytest.fixture(scope="module", params=cases.CASES, ids=lambda case: f"{case[0]}-{case[1]}")
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
            case.features["train"][rows],
            np.arange(len(rows)),
            case.labels["train"][rows],
            task=case.task,
            n_classes=case.n_classes,
            max_iter=1000,
            tolerance=1e-4,
        ).fit(probe.C)
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
