"""Alpha chosen on val: what it costs, that it is trained as if it had been given, when the teacher is not heeded."""

import json

import numpy as np
import pytest
import student_squares as squares
from student_squares import ask_for, kill_at, same_bits, stopping_at, train

from medal.cache.errors import CacheMismatch, StudentError
from medal.cache.progress import Alert
from medal.student.members.choice import GRID, plan_rungs
from medal.student.training.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def place(squares):
    """A folder with a dataset, its cache in both forms, and one finished run."""
    return squares


@pytest.fixture
def eager(monkeypatch):
    """Checkpoints after every epoch, however quick."""
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))


@pytest.mark.parametrize("epochs", [*range(1, 40), 60, 100])
def test_choosing_alpha_costs_at_most_two_full_runs(epochs):
    rungs = plan_rungs(epochs)
    assert 2 <= rungs.settings <= len(GRID)
    assert rungs.settings * rungs.first + 2 * (rungs.last - rungs.first) + epochs - rungs.last <= 2 * epochs
    assert GRID[0][0] == 0


@pytest.fixture(scope="module")
def chosen(place):
    heard = []
    result = train(place, place / "chosen", heard.append, alpha="auto", epochs=4)
    return place / "chosen", result, heard


def test_the_chosen_alpha_is_trained_as_if_it_had_been_given(chosen, place, tmp_path):
    run, result, heard = chosen
    choice = result["choice"]
    assert choice == json.loads((run / "choice.json").read_text())
    assert choice["full_runs"] <= 2
    assert [(row["alpha"], row["temperature"]) for row in choice["tried"][:2]] == list(GRID[:2])
    assert "resuming after epoch 3 of 4" in heard
    assert not (run / "choice").exists()
    train(place, tmp_path / "run", alpha=choice["alpha"], temperature=choice["temperature"], epochs=4)
    assert same_bits(run, tmp_path / "run")


@pytest.mark.parametrize("how", ["stopped", pytest.param("killed", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("eager")
def test_a_choice_that_was_interrupted_is_the_same_choice(chosen, place, tmp_path, how):
    run, result, _ = chosen
    if how == "killed":
        kill_at(place, tmp_path / "run", "tried alpha 0.5, T 2", alpha="auto", epochs=4)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(place, tmp_path / "run", stopping_at("tried alpha 0.5, T 2"), alpha="auto", epochs=4)
    heard = []
    again = train(place, tmp_path / "run", heard.append, alpha="auto", epochs=4)
    assert not any(text.startswith("tried alpha 0, T 2 for 1 ") for text in heard)
    assert again["choice"] == result["choice"]
    assert same_bits(run, tmp_path / "run")


def test_a_teacher_that_knows_nothing_is_not_heeded(place, tmp_path):
    """Logits of shuffled rows, loud ones: the gate fires, and --alpha auto leaves them alone."""
    dataset = squares.hold(squares.draw_arrays())
    shuffled = squares.teach(dataset)[np.random.default_rng(0).permutation(len(dataset))]
    squares.seal(tmp_path / "bad.zarr", dataset, shuffled * 3)
    heard = []
    asked = {"cache": str(tmp_path / "bad.zarr"), "epochs": 6, "alpha": "auto", "baseline": True, "lr": 3e-3}
    result = train(place, tmp_path / "run", heard.append, **asked)
    assert result["gate"]["fires"]
    assert any(isinstance(text, Alert) and text.startswith("The teacher is significantly worse") for text in heard)
    assert any("not clearly better than chance" in text for text in heard)
    assert result["alpha"] == 0
    assert "Distillation did not help here" in result["verdict"]


def test_alpha_per_class_is_refused_where_recall_would_be_in_sample(place, tmp_path):
    with pytest.raises(CacheMismatch, match=r"out-of-fold recall.*--folds 0"):
        ask_for(place, tmp_path / "run", alpha="per-class")


@pytest.mark.parametrize("changed", [{"alpha": 1.5}, {"alpha": "some"}, {"seeds": 0}, {"at_sensitivity": 0.0}])
def test_settings_out_of_range_are_refused(place, tmp_path, changed):
    with pytest.raises(StudentError, match=r"must be|expected a number"):
        ask_for(place, tmp_path / "run", **changed)
