"""Order, batches, learning rate and settings of a training."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medal.cache.errors import StudentError
from medal.student.settings import StudentSettings, default_epochs
from medal.student.training.drawing import epoch_order, learning_rate, split_batches


def _keys(count):
    return np.random.default_rng(3).integers(0, 256, (count, 16), dtype=np.uint8)


def test_order_is_a_function_of_the_keys_alone():
    key = _keys(50)
    moved = np.random.default_rng(4).permutation(50)
    assert np.array_equal(key[epoch_order(key, 1, 2)], key[moved][epoch_order(key[moved], 1, 2)])
    assert sorted(epoch_order(key, 1, 2)) == list(range(50))


def test_order_differs_by_epoch_and_seed():
    key = _keys(50)
    orders = {tuple(epoch_order(key, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@given(rows=st.integers(2, 400), size=st.integers(2, 80))
def test_batches_hold_every_row_and_never_one_alone(rows, size):
    batches = split_batches(np.arange(rows), size)
    assert np.array_equal(np.concatenate(batches), np.arange(rows))
    lengths = {len(batch) for batch in batches}
    assert min(lengths) >= 2
    assert max(lengths) <= size + 1
    assert max(lengths) - min(lengths) <= 1


def test_learning_rate_warms_up_then_falls_to_nothing():
    rates = [learning_rate(step, 100, 10, 1.0) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[-1] < 0.001
    assert learning_rate(0, 1, 0, 1.0) == 1.0


def test_default_epochs_fall_with_size():
    epochs = [default_epochs(rows, 112, trained=False) for rows in (1, 200, 4708, 100_000)]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-1] >= 5
    assert epochs[2] > default_epochs(4708, 224, trained=False)
    assert default_epochs(300, 224, trained=False) > default_epochs(300, 224, trained=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("temperature", 0.0),
        ("alpha", 1.5),
        ("image_size", 0),
        ("average", 1.5),
    ],
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(StudentError, match=r"must be .*, got"):
        StudentSettings(**{field: value})
