"""Folds: relatives stay together, classes are spread, and the order of rows changes nothing."""

import numpy as np
import pytest
from draws import examples
from hypothesis import given
from hypothesis import strategies as st

from medal.pipeline.datasets.columns.units import find_units
from medal.pipeline.probe.folds import assign_folds


def random_keys(n_rows):
    return np.random.default_rng(0).integers(0, 256, (n_rows, 16), dtype=np.uint8)


row = st.tuples(st.integers(0, 9), st.integers(-1, 5), st.integers(-1, 2))


def folds_of(rows, folds=3, seed=0, order=None):
    order = np.arange(len(rows)) if order is None else order
    keys = np.array([[image * 25] * 16 for image, _, _ in rows], np.uint8).reshape(-1, 16)[order]
    groups, labels = (np.array([item[place] for item in rows])[order] for place in (1, 2))
    fold = assign_folds(keys, groups, labels, task="multiclass", n_classes=3, folds=folds, seed=seed)
    return keys, groups, fold


@examples(200)
@given(rows=st.lists(row, min_size=1, max_size=30), seed=st.integers(0, 3), data=st.data())
def test_folds_keep_patients_and_copies_together_in_any_order(rows, seed, data):
    keys, groups, fold = folds_of(rows, seed=seed)
    for name in (keys[:, 0], groups):
        for value in np.unique(name[name >= 0] if name is groups else name):
            assert len(np.unique(fold[name == value])) == 1
    order = np.array(data.draw(st.permutations(range(len(rows)))), np.int64)
    np.testing.assert_array_equal(folds_of(rows, seed=seed, order=order)[2], fold[order])
    assert set(fold.tolist()) == (set(range(fold.max() + 1)) if fold.max() >= 0 else {-1})


@examples(100)
@given(rows=st.lists(row, min_size=1, max_size=20))
def test_units_are_the_connected_components(rows):
    keys, groups, _ = folds_of(rows)
    unit = list(range(len(rows)))
    for _ in rows:  # slow and obvious: spread the smaller number until nothing changes
        for a in range(len(rows)):
            for b in range(len(rows)):
                if (keys[a] == keys[b]).all() or (groups[a] == groups[b] >= 0):
                    unit[a] = unit[b] = min(unit[a], unit[b])
    found = find_units(keys, groups)
    np.testing.assert_array_equal(found[:, None] == found, np.array(unit)[:, None] == unit)


def test_folds_change_with_the_seed_but_not_with_group_numbers():
    keys, labels = random_keys(200), np.arange(200) % 3
    groups = np.random.default_rng(0).integers(-1, 40, 200)
    options = {"task": "multiclass", "n_classes": 3, "folds": 5}
    fold = assign_folds(keys, groups, labels, seed=0, **options)
    renamed = np.where(groups >= 0, 1000 - groups, -1)
    np.testing.assert_array_equal(assign_folds(keys, renamed, labels, seed=0, **options), fold)
    assert (assign_folds(keys, groups, labels, seed=1, **options) != fold).any()


def test_folds_are_stratified():
    labels = np.random.default_rng(0).choice(4, 500, p=[0.7, 0.2, 0.08, 0.02])
    fold = assign_folds(random_keys(500), np.full(500, -1), labels, task="multiclass", n_classes=4, folds=5, seed=0)
    counts = np.array([np.bincount(labels[fold == k], minlength=4) for k in range(5)])
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.ptp(np.bincount(fold)) <= 3


def test_multilabel_folds_are_stratified_by_each_label():
    labels = (np.random.default_rng(0).random((400, 5)) < [0.5, 0.3, 0.1, 0.05, 0.9]).astype(np.uint8)
    labels[:7] = 255
    fold = assign_folds(random_keys(400), np.full(400, -1), labels, task="multilabel", n_classes=5, folds=5, seed=0)
    counts = np.array([(labels[fold == k] == 1).sum(0) for k in range(5)])
    assert (np.ptp(counts, axis=0) <= 5).all()
    assert np.ptp(np.bincount(fold)) <= 12


@pytest.mark.parametrize(("rare_rows", "patients", "expected"), [(3, 3, 3), (2, 2, 2), (9, 4, 4), (9, 1, 5), (1, 1, 5)])
def test_a_rare_class_shrinks_the_folds_by_its_patients(rare_rows, patients, expected):
    labels = np.array([0] * 40 + [1] * rare_rows)
    groups = np.where(labels == 1, np.arange(len(labels)) % patients, -1)
    fold = assign_folds(random_keys(len(labels)), groups, labels, task="multiclass", n_classes=2, folds=5, seed=0)
    assert fold.max() + 1 == expected
    if patients > 1:  # every probe sees the class
        assert all((labels[fold != k] == 1).any() for k in range(expected))
