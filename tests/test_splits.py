"""Splits: drawn from content and seed alone, in proportion, and never through a patient or an image."""

import time

import numpy as np
import pytest
from draws import examples
from hypothesis import given
from hypothesis import strategies as st

from medal.cache.errors import DataError
from medal.pipeline.datasets import check_rare, draw_splits, rarest_class, sample_rows
from medal.pipeline.datasets.columns.dataset import Dataset
from medal.pipeline.datasets.columns.units import find_units
from medal.pipeline.datasets.kinds.arrays import ArrayImages


def make(label, split=None, group=None, classes=None):
    """A dataset of these columns; its images are not looked at."""
    label = np.asarray(label)
    count = len(label)
    multilabel = label.ndim == 2
    n_classes = label.shape[1] if multilabel else int(label.max(initial=0)) + 1
    return Dataset(
        name="made",
        task="multilabel" if multilabel else "multiclass",
        classes=classes or tuple(f"c{index}" for index in range(n_classes)),
        images=ArrayImages({"x": np.zeros((count, 1, 1), np.uint8)}, "made"),
        label=label.astype(np.uint8 if multilabel else np.int32),
        split=None if split is None else np.asarray(split, np.int8),
        domain=np.full(count, -1, np.int16),
        group=np.full(count, -1) if group is None else np.asarray(group, np.int64),
    )


def keys_of(numbers):
    """One key a number; not in the order of the numbers."""
    words = np.asarray(numbers, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.ascontiguousarray(np.stack([words, ~words], 1)).view(np.uint8)


@st.composite
def datasets(draw):
    """A dataset with repeated images, patients, unknown labels and some splits given, and its keys."""
    count = draw(st.integers(4, 60))
    numbers = draw(st.lists(st.integers(0, 50), min_size=count, max_size=count))
    group = draw(st.none() | st.lists(st.integers(-1, 12), min_size=count, max_size=count))
    split = draw(st.none() | st.lists(st.sampled_from([-1, 0, 0, 2]), min_size=count, max_size=count))
    if draw(st.booleans()):
        label = draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count))
    else:
        bits = st.tuples(*[st.sampled_from([0, 1, 255])] * 3)
        label = draw(st.lists(bits, min_size=count, max_size=count))
    return make(label, split, group, ("a", "b", "c", "d")[: 4 if np.ndim(label) == 1 else 3]), keys_of(numbers)


@examples(80)
@given(datasets(), st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_order_of_rows_never_matters(drawn, random, seed):
    dataset, keys = drawn
    split = draw_splits(dataset, keys, seed)
    order = np.array(random.sample(range(len(keys)), len(keys)))
    renamed = dataset.take(order)
    shuffled = draw_splits(renamed, keys[order], seed)
    np.testing.assert_array_equal(shuffled, split[order])


@examples(80)
@given(datasets(), st.integers(0, 3))
def test_what_is_drawn_tears_nothing_apart(drawn, seed):
    dataset, keys = drawn
    split = draw_splits(dataset, keys, seed)
    assert ((split >= 0) & (split <= 2)).all()
    unit = find_units(keys, dataset.group)
    given_split = np.full(len(keys), -1) if dataset.split is None else dataset.split
    for index in np.unique(unit):
        rows = unit == index
        # Only what the dataset itself has put apart is apart.
        if len(set(given_split[rows].tolist()) - {-1}) < 2:
            assert len(set(split[rows].tolist())) == 1
    kept = given_split == 2
    assert (split[kept] == 2).all()


def test_units_are_what_a_search_finds():
    random = np.random.default_rng(0)
    numbers, group = random.integers(0, 40, 80), random.integers(-1, 25, 80)
    unit = find_units(keys_of(numbers), group)
    same = numbers[:, None] == numbers
    same |= (group[:, None] == group) & (group >= 0)
    reach = same
    for _ in range(7):
        reach = (reach.astype(int) @ reach) > 0
    np.testing.assert_array_equal(unit[:, None] == unit, reach)


@pytest.mark.parametrize("counts", [(700, 200, 90, 10), (33, 33, 34), (5, 3, 2, 100), (2, 2), (7, 1)])
def test_stratified_by_class(counts):
    label = np.repeat(np.arange(len(counts)), counts)
    split = draw_splits(make(label), keys_of(range(len(label))), 7)
    for index, count in enumerate(counts):
        parts = np.bincount(split[label == index], minlength=3)
        assert (abs(parts - count * np.array([0.7, 0.15, 0.15])) <= 1.01).all()
        assert parts[0] >= min(count, 2)
        assert (parts[1:] > 0).all() or count < 4
    assert abs(np.bincount(split, minlength=3)[1:] - 0.15 * len(label)).max() <= 2


def test_stratified_by_label_and_patient():
    random = np.random.default_rng(1)
    bits = (random.random((2000, 4)) < (0.5, 0.2, 0.05, 0.01)).astype(np.uint8)
    group = random.integers(0, 800, 2000)
    split = draw_splits(make(bits, group=group), keys_of(range(2000)), 0)
    for index, share in enumerate((0.7, 0.15, 0.15)):
        positives = bits[split == index].sum(0)
        assert (abs(positives - bits.sum(0) * share) <= 2 + 0.05 * bits.sum(0)).all()
    assert all(len(set(split[group == patient])) == 1 for patient in np.unique(group))


def test_large_and_small_patients_are_in_every_split():
    sizes = np.repeat([1, 2, 6], 100)
    group = np.repeat(np.arange(300), sizes)
    split = draw_splits(make(group % 2, group=group), keys_of(range(len(group))), 0)
    _, first = np.unique(group, return_index=True)
    for size in (1, 2, 6):
        shares = np.bincount(split[first][sizes == size], minlength=3) / 100
        np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.08)


def test_seeds_differ_and_are_kept():
    dataset, keys = make(np.arange(200) % 2), keys_of(range(200))
    first, again, other = (draw_splits(dataset, keys, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.dtype == np.int8


def test_without_val_fifteen_percent_of_train():
    label = np.arange(400) % 4
    given_split = np.where(np.arange(400) < 300, 0, 2)
    split = draw_splits(make(label, given_split), keys_of(range(400)), 0)
    assert (split[300:] == 2).all()
    assert np.bincount(split[:300]).tolist() == [256, 44]
    assert np.bincount(label[split == 1]).min() >= 11
    only_train = draw_splits(make(label, np.zeros(400)), keys_of(range(400)), 0)
    assert np.bincount(only_train).tolist() == [340, 60]


def test_given_splits_stay():
    given_split = np.array([0, 0, 0, 1, 2, 2])
    dataset = make([0, 1, 0, 1, 0, 1], given_split)
    np.testing.assert_array_equal(draw_splits(dataset, keys_of([0] * 6), 0), given_split)
    tests_only = make([0, 1, 0], [2, 2, 2])
    assert draw_splits(tests_only, keys_of(range(3)), 0).tolist() == [2, 2, 2]


def test_rows_without_a_split_join_train_or_their_patient():
    given_split = [0, 0, 0, 0, 1, 2, -1, -1, -1, -1]
    group = [-1, -1, -1, -1, 1, 2, 1, 2, -1, 3]
    numbers = [0, 1, 2, 3, 4, 5, 6, 7, 5, 9]
    split = draw_splits(make([0, 1] * 5, given_split, group), keys_of(numbers), 0)
    assert split.tolist() == [0, 0, 0, 0, 1, 2, 1, 2, 2, 0]


def test_val_is_never_drawn_from_what_test_shares():
    group = np.repeat(np.arange(50), 4)
    given_split = np.where(np.arange(200) % 4 == 0, np.where(group < 10, 2, 0), 0)
    split = draw_splits(make(np.arange(200) % 2, given_split, group), keys_of(range(200)), 0)
    assert (group[split == 1] >= 10).all()
    assert (split == 1).sum() == pytest.approx(0.15 * 160, abs=4)


def test_a_hundred_thousand_rows():
    random = np.random.default_rng(0)
    dataset = make(random.integers(0, 9, 100_000), group=random.integers(0, 40_000, 100_000))
    begun = time.monotonic()
    split = draw_splits(dataset, keys_of(range(100_000)), 0)
    assert time.monotonic() - begun < 8
    np.testing.assert_allclose(np.bincount(split) / 1e5, [0.7, 0.15, 0.15], atol=0.001)


def test_rare_classes_are_refused_together():
    dataset = make([0, 0, 0, 1, 1, 2, 2, 2], classes=("clear", "old scar", "mass"))
    split = np.array([0, 0, 0, 0, 1, 0, 2, 2], np.int8)
    with pytest.raises(DataError) as error:
        check_rare(dataset, split)
    assert str(error.value) == (
        "dataset 'made' has too few train samples of the classes 'old scar' (1), 'mass' (1); expected two or more: "
        "leave them out with --exclude-class 'old scar' --exclude-class mass."
    )
    with pytest.raises(DataError, match=r"has no train rows"):
        check_rare(dataset, np.full(8, 2, np.int8))


def test_absent_classes_are_named():
    dataset = make([0, 0, 1, 1, 0, 1, 0, -1])
    assert check_rare(dataset, np.array([0, 0, 0, 0, 1, 1, 2, 0])) == (
        "test has no sample of the class 'c1': left out of the mean over classes.",
    )
    assert check_rare(dataset, np.array([0, 0, 0, 0, 1, 1, 0, 0])) == ()  # no test at all: nothing is absent
    bits = make([[0, 1], [1, 0], [1, 1], [0, 0], [1, 1], [0, 255]])
    assert check_rare(bits, np.array([0, 0, 0, 0, 1, 1])) == (
        "val has no sample of the class 'c1': left out of the mean over classes.",
    )
    with pytest.raises(DataError, match=r"'c0' \(1\)"):
        check_rare(bits, np.array([0, 2, 0, 0, 1, 1]))


def test_the_rarest_class_is_named():
    dataset = make([0, 0, 0, 1, 1, 1, 1, -1], classes=("clear", "mass"))
    assert rarest_class(dataset, np.array([0, 0, 2, 0, 0, 0, 0, 0], np.int8)) == ("clear", 2)
    assert rarest_class(dataset, np.array([0, 0, 0, 0, 1, 2, 2, 0], np.int8)) == ("mass", 1)
    # Of a label, the fewer of its zeros and ones, unknown ones apart; of equals, the first.
    bits = make([[0, 1], [1, 1], [1, 1], [0, 0], [1, 255]], classes=("edema", "mass"))
    assert rarest_class(bits, np.zeros(5, np.int8)) == ("mass", 1)
    assert rarest_class(bits, np.array([0, 0, 0, 2, 0], np.int8)) == ("mass", 0)
    assert rarest_class(bits, np.array([0, 2, 2, 0, 0], np.int8)) == ("edema", 1)


def test_classes_rarer_than_the_folds_are_no_matter_of_the_splits():
    dataset = make([0] * 6 + [1, 1] * 3)
    assert check_rare(dataset, np.repeat([0, 1, 2, 0, 1, 2], 2).astype(np.int8)) == ()


def test_a_sample_has_every_class_in_its_share_whatever_the_order():
    label = np.array([0] * 60 + [1] * 30 + [2] * 6 + [-1] * 4)
    dataset = make(label)
    key = np.random.default_rng(0).integers(0, 256, (100, 16), np.uint8)
    split = np.where(np.arange(100) % 3 == 0, 2, 0).astype(np.int8)
    rows = sample_rows(dataset, key, split, 20)
    assert np.bincount(split[rows]).tolist() == [20, 0, 20]
    assert np.bincount(label[rows][split[rows] == 0] + 1).tolist() == [1, 11, 6, 2]
    order = np.random.default_rng(1).permutation(100)
    again = order[sample_rows(dataset.take(order), key[order], split[order], 20)]
    assert sorted(again.tolist()) == rows.tolist()
    assert sample_rows(dataset, key, split, 100).tolist() == list(range(100))
    with pytest.raises(
        DataError, match=r"--limit 4 has no room for 2 train images of each of the 3 classes .*--limit 6"
    ):
        sample_rows(dataset, key, split, 4)


def test_a_sample_of_several_labels_has_the_rarest():
    bits = np.zeros((40, 2), np.uint8)
    bits[:30, 0] = 1
    bits[28:30, 1] = 1
    dataset = make(bits.tolist(), classes=("edema", "mass"))
    key = np.random.default_rng(0).integers(0, 256, (40, 16), np.uint8)
    rows = sample_rows(dataset, key, np.zeros(40, np.int8), 10)
    assert (len(rows), bits[rows][:, 1].sum()) == (10, 2)
