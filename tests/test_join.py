"""The join by content, against a slow and obvious one."""

from collections import Counter
from pathlib import Path

import numpy as np
from draws import examples
from hypothesis import given
from hypothesis import strategies as st

from medal.cache.format.layout import SPLITS
from medal.cache.join import join


class TwoColumns:
    """As much of a cache as the join looks at."""

    path = Path("made.zarr")

    def __init__(self, rows):
        self.rows = {name: [row for row in rows if row[2] == index] for index, name in enumerate(SPLITS)}
        self.splits = tuple(name for name in SPLITS if self.rows[name])

    def read(self, split, name):
        return column_key(self.rows[split]) if name == "key" else column_label(self.rows[split])


def column_key(rows):
    return np.array([[image] * 16 for image, _, _ in rows], np.uint8).reshape(-1, 16)


def column_label(rows):
    return np.array([label for _, label, _ in rows], np.int32)


row = st.tuples(st.integers(0, 4), st.integers(-1, 1), st.integers(0, 2))


@examples(300)
@given(cached=st.lists(row, min_size=1, max_size=12), data=st.lists(row, max_size=12), has_splits=st.booleans())
def test_every_row_finds_the_best_partner_there_is(cached, data, has_splits):
    split = np.array([row[2] for row in data], np.int8) if has_splits else None
    cache = TwoColumns(cached)
    found = join(cache, column_key(data), column_label(data), split)
    pairs = [
        (cache.rows[name][index], data[int(row)])
        for name in cache.splits
        for index, row in enumerate(found.rows[name])
        if row >= 0
    ]
    assert all(theirs[0] == ours[0] for theirs, ours in pairs)
    used = [int(row) for name in cache.splits for row in found.rows[name] if row >= 0]
    assert len(used) == len(set(used)) == found.matched == len(data) - len(found.missing)
    assert sorted([*used, *found.missing.tolist()]) == list(range(len(data)))
    assert found.extra == len(cached) - len(used)

    def most(part):
        return sum((Counter(map(part, cached)) & Counter(map(part, data))).values())

    # As many rows are matched as there can be, and as many of them as can be with their own label and split.
    assert found.matched == most(lambda row: row[0])
    assert sum(theirs[:2] == ours[:2] for theirs, ours in pairs) >= most(lambda row: row[:2]) - len(found.disagree)
    if has_splits:
        assert sum(theirs == ours for theirs, ours in pairs) == most(lambda row: row)
    assert sorted(found.disagree.tolist()) == sorted(
        int(row)
        for name in cache.splits
        for index, row in enumerate(found.rows[name])
        if row >= 0 and cache.rows[name][index][1] != data[int(row)][1]
    )


def test_a_million_rows_are_quick_enough_to_join():
    random = np.random.default_rng(0)
    count = 1_000_000
    key, label = random.integers(0, 256, (count, 16), np.uint8), random.integers(0, 14, count, np.int32)

    class Million:
        splits = ("train",)

        def read(self, _split, name):
            return key if name == "key" else label

    order = random.permutation(count)
    found = join(Million(), key[order], label[order])
    assert found.matched == count
    np.testing.assert_array_equal(order[found.rows["train"]], np.arange(count))
