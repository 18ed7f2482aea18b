"""Which images an epoch takes its steps on, where few of them have labels."""

from types import SimpleNamespace

import numpy as np
import pytest

from medal.student.settings import StudentSettings
from medal.student.training.drawing import draw_epoch

ROWS, LABELLED, EPOCHS = 103, 10, 8
RANDOM = np.random.default_rng(0)
KEY = np.sort(RANDOM.integers(0, 256, (ROWS, 16), np.uint8).view("V16"), axis=0).view(np.uint8).reshape(ROWS, 16)
KNOWN = np.isin(np.arange(ROWS), RANDOM.permutation(ROWS)[:LABELLED])
CLASS = RANDOM.integers(0, 2, ROWS)


class Part(SimpleNamespace):
    def __len__(self):
        return len(self.key)


def draw(key=KEY, known=KNOWN, epochs=EPOCHS, **settings):
    """Return the batches of some epochs, and how often each stood in its epoch before."""
    part = Part(key=key, label=np.where(known, CLASS, -1).astype(np.int32))
    asked = StudentSettings(batch_size=16, **{"labelled_share": 0.0, **settings})
    return [draw_epoch(part, asked, epoch) for epoch in range(epochs)]


def times(epochs):
    return np.bincount(np.concatenate([rows for batches in epochs for rows, _ in batches]), minlength=ROWS)


def sizes(epochs):
    return [[len(rows) for rows, _ in batches] for batches in epochs]


def test_as_they_come_every_row_stands_once_an_epoch():
    epochs = draw()
    assert times(epochs).tolist() == [EPOCHS] * ROWS
    assert all(not before.any() for batches in epochs for _, before in batches)
    orders = {tuple(np.concatenate([rows for rows, _ in batches])) for batches in epochs}
    assert len(orders) == EPOCHS


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_share_of_every_batch_has_labels(share):
    epochs = draw(labelled_share=share)
    assert sizes(epochs) == sizes(draw())
    for rows, _ in (batch for batches in epochs for batch in batches):
        assert abs(KNOWN[rows].sum() - share * len(rows)) <= 1
    seen = times(epochs)
    # Both kinds take turns, over the ends of epochs too.
    assert np.ptp(seen[KNOWN]) <= 1
    assert np.ptp(seen[~KNOWN]) <= 1
    assert seen[KNOWN].sum() == EPOCHS * round(share * ROWS)


@pytest.mark.parametrize("known", [KNOWN, ~KNOWN], ids=["few", "most"])
def test_a_share_that_is_there_anyhow_changes_nothing(known):
    share = known.mean() - 0.01
    for one, other in zip(draw(known=known, labelled_share=share), draw(known=known), strict=True):
        for (rows, _), (others, _) in zip(one, other, strict=True):
            assert rows.tolist() == others.tolist()


@pytest.mark.parametrize(
    "settings", [{"alpha": 0.0}, {"alpha": 0.0, "labelled_share": 0.3}, {"labelled_share": 1.0}], ids=str
)
def test_without_a_teacher_or_with_the_whole_share_rows_without_a_label_are_not_drawn(settings):
    """The baseline of few labels: as many steps, all of them of use."""
    epochs = draw(**settings)
    assert sizes(epochs) == sizes(draw())
    seen = times(epochs)
    assert seen[~KNOWN].max() == 0
    assert np.ptp(seen[KNOWN]) <= 1


def test_without_any_label_a_share_of_them_is_no_error():
    assert times(draw(known=np.zeros(ROWS, bool), labelled_share=0.5)).tolist() == [EPOCHS] * ROWS


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
def test_a_row_that_stands_again_says_how_often_it_stood(sampler):
    for batches in draw(labelled_share=0.5, sampler=sampler):
        rows, before = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        for row in np.unique(rows):
            assert before[rows == row].tolist() == list(range((rows == row).sum()))


def test_with_the_balanced_sampler_labelled_rows_are_balanced_within_their_share():
    epochs = draw(labelled_share=0.5, sampler="balanced")
    seen = times(epochs)
    of_class = [seen[KNOWN & (name == CLASS)].sum() for name in (0, 1)]
    assert abs(of_class[0] - of_class[1]) <= 2 * EPOCHS
    assert sum(of_class) == EPOCHS * round(0.5 * ROWS)


def test_the_order_depends_on_keys_and_not_on_places():
    moved = RANDOM.permutation(ROWS)
    key, known = KEY[moved], KNOWN[moved]
    for one, other in zip(draw(labelled_share=0.5), draw(key=key, known=known, labelled_share=0.5), strict=True):
        for (rows, before), (others, others_before) in zip(one, other, strict=True):
            assert KEY[rows].tolist() == key[others].tolist()
            assert before.tolist() == others_before.tolist()
