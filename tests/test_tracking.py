"""`--track`: a tracker gets every epoch's row, and no training fails for want of one."""

import csv
import sys
from dataclasses import replace

import pytest
import student_squares

from medal.cache.errors import StudentError
from medal.cache.progress import Alert
from medal.student.distill import carry_out
from medal.student.training.tracking import TRACKERS, require_tracker, tracking

pytest.importorskip("tensorboard", reason="it is an extra of its own")


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """A dataset of noisy squares and its cache."""
    folder = tmp_path_factory.mktemp("squares")
    dataset = student_squares.hold(student_squares.draw_arrays())
    student_squares.seal(folder / "squares.zarr", dataset, student_squares.teach(dataset))
    student_squares.np.savez(folder / "squares.npz", **student_squares.draw_arrays())
    return folder


def test_tensorboard_gets_what_the_history_has(squares, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    asked = student_squares.ask_for(squares, tmp_path / "run", epochs=2)
    carry_out(replace(asked, track="tensorboard"), student_squares.silent, lambda _text: None)
    with (tmp_path / "run/history.csv").open() as file:
        history = list(csv.DictReader(file))
    events = EventAccumulator(str(tmp_path / "tracking/run")).Reload()
    for name in ("train_loss", "val_auroc", "val_accuracy"):
        seen = {event.step: event.value for event in events.Scalars(name)}
        assert seen == pytest.approx({int(row["epoch"]): float(row[name]) for row in history}, rel=1e-5)
    assert not [item for item in (tmp_path / "run").iterdir() if "event" in item.name]


def test_a_tracker_gets_the_epochs_in_which_alpha_was_chosen(squares, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    asked = student_squares.ask_for(squares, tmp_path / "run", epochs=4, alpha="auto")
    carry_out(replace(asked, track="tensorboard"), student_squares.silent, lambda _text: None)
    events = EventAccumulator(str(tmp_path / "tracking/run")).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_with_the_command(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(StudentError, match=rf"--track {name} needs .*medalmighty\[{name}\].*history.csv"):
        require_tracker(name)


def test_a_tracker_that_cannot_start_is_said_before_the_training(tmp_path):
    (tmp_path / "tracking").write_text("in the way")
    with (
        pytest.raises(StudentError, match=r"'tensorboard' could not be started: .*leave --track out"),
        tracking("tensorboard", tmp_path / "run", {}, print),
    ):
        pass


def test_a_tracker_that_fails_is_given_up_once_and_said(tmp_path):
    told = []
    with tracking("tensorboard", tmp_path / "run", {"lr": 0.1, "policy": {"hflip": True}}, told.append) as track:
        track({"epoch": 1, "val_loss": 0.5})
        track({"epoch": float("nan"), "val_loss": 0.5})
        track({"epoch": float("nan"), "val_loss": 0.5})
    assert len(told) == 1
    assert isinstance(told[0], Alert)
    assert told[0].startswith("the tracker 'tensorboard' failed and is not used any more")


def test_without_a_tracker_nothing_is_written(tmp_path):
    with tracking(None, tmp_path / "run", {}, print) as track:
        track({"epoch": 1})
    assert list(tmp_path.iterdir()) == []
