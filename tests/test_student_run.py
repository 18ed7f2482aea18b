"""The run folder: killed and resumed, replaced, and all that is refused before it or in it."""

import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import student_squares
import torch
from student_squares import SETTINGS, ask_for, draw_arrays, same_bits, silent, stopping_at, train

from medal.cache.errors import CacheMismatch, DataError, StudentError
from medal.student.distill import carry_out
from medal.student.members.telling import list_warnings
from medal.student.run.folder import working
from medal.student.training.checkpoint import Checkpoint

SQUARES = student_squares.__file__


@pytest.fixture(scope="module")
def place(squares):
    """A folder with a dataset, its cache in both forms, and one finished run."""
    return squares


# ── Killed and resumed ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def eager(monkeypatch):
    """Checkpoints after every epoch, however quick."""
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))


@pytest.mark.usefixtures("eager")
def test_interrupted_equals_uninterrupted_to_the_bit(place, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(place, tmp_path / "run", stopping_at("epoch 2/"))
    assert not (tmp_path / "run").exists()
    assert ask_for(place, tmp_path / "run").action == "resume"
    heard = []
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # a resume goes by the threads that the training began with
    result = train(place, tmp_path / "run", heard.append)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    assert result["action"] == "resume"
    assert "resuming after epoch 2 of 3" in heard
    assert same_bits(place / "run", tmp_path / "run")


def test_killed_equals_unkilled_to_the_bit(place, tmp_path):
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        from contextlib import contextmanager
        from pathlib import Path
        import medal.student.training.checkpoint as checkpoint
        checkpoint.Checkpoint.__init__.__defaults__ = (0.0,)
        from medal.pipeline.datasets.columns.dataset import DatasetOptions
        from medal.student.distill import carry_out
        from medal.student.members.plan import ask
        from medal.student.settings import StudentSettings

        @contextmanager
        def silent(*_):
            yield lambda _: None

        def report(text):
            if text.startswith("epoch 1/"):
                os.kill(os.getpid(), signal.SIGKILL)

        asked = ask({str(place / "squares.zarr")!r}, {str(place / "squares.npz")!r}, DatasetOptions(),
                    StudentSettings(**{SETTINGS!r}), Path({str(tmp_path / "run")!r}), overwrite=False)
        carry_out(asked, silent, report)
        """
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    train(place, tmp_path / "run")
    assert same_bits(place / "run", tmp_path / "run")


@pytest.fixture(scope="module")
def torn(place, tmp_path_factory):
    """Where a real process died between the two renames that replace a finished run by a new one."""
    folder = tmp_path_factory.mktemp("torn")
    shutil.copytree(place / "run", folder / "run")
    script = textwrap.dedent(
        f"""
        import os, runpy, signal
        from pathlib import Path

        rename = Path.rename

        def die_instead(path, target):
            if path.name == "run.unfinished":
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)

        Path.rename = die_instead
        train = runpy.run_path({SQUARES!r})["train"]
        train(Path({str(place)!r}), Path({str(folder / "run")!r}), epochs=1, seed=3, overwrite=True)
        """
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {item.name for item in folder.iterdir()} == {".run.medal-replaced", ".run.lock", "run.unfinished"}
    return folder


def test_killed_between_two_renames_the_new_run_is_finished_without_training(place, torn, tmp_path):
    shutil.copytree(torn, tmp_path, dirs_exist_ok=True)
    heard = []

    def report(text):
        heard.append(text)
        if text.startswith("student of seed 3 is trained"):
            assert same_bits(place / "run", tmp_path / "run")  # the old one is there until the new one is

    result = train(place, tmp_path / "run", report, epochs=1, seed=3, overwrite=True)
    assert result["action"] == "resume"
    assert "student of seed 3 is trained: best epoch 1 of 1" in heard
    assert not any(text.startswith("epoch") for text in heard)
    assert (tmp_path / "run/model.safetensors").read_bytes() == (torn / "run.unfinished/model.safetensors").read_bytes()
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


def test_killed_between_two_renames_the_old_run_comes_back(place, torn, tmp_path):
    shutil.copytree(torn, tmp_path, dirs_exist_ok=True)
    with pytest.raises(StudentError, match=r"holds a finished run.*--overwrite"):
        train(place, tmp_path / "run", epochs=1, seed=3)
    assert same_bits(place / "run", tmp_path / "run")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["run", "run.unfinished"]


def test_an_old_run_comes_back_where_a_script_made_its_folder_again(tmp_path):
    (tmp_path / ".run.medal-replaced").mkdir()
    (tmp_path / ".run.medal-replaced/run.json").write_text("{}")
    (tmp_path / "run").mkdir()
    with working(tmp_path / "run", print):
        assert (tmp_path / "run/run.json").read_text() == "{}"


@pytest.mark.usefixtures("eager")
def test_unfinished_work_of_other_settings_is_not_thrown_away(place, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(place, tmp_path / "run", stopping_at("epoch 1/"))
    with pytest.raises(StudentError, match=r"unfinished run that differs in alpha \(0\.5, asked for: 0\.25\)"):
        ask_for(place, tmp_path / "run", alpha=0.25)
    assert ask_for(place, tmp_path / "run", alpha=0.25, overwrite=True).action == "create"


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_finished_run_is_found_and_replaced_only_when_asked(place, tmp_path):
    made = train(place, tmp_path / "run", epochs=1)
    before = (tmp_path / "run/model.safetensors").read_bytes()
    heard = []
    again = train(place, tmp_path / "run", heard.append, epochs=1)
    assert again == {**made, "action": "reuse"}
    assert heard == []
    assert (tmp_path / "run/model.safetensors").read_bytes() == before
    with pytest.raises(StudentError, match=r"holds a finished run that differs in alpha.*--overwrite"):
        ask_for(place, tmp_path / "run", epochs=1, alpha=0.25)
    train(place, tmp_path / "run", epochs=1, seed=3, overwrite=True)
    assert (tmp_path / "run/model.safetensors").read_bytes() != before
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_touched(place, tmp_path, overwrite):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").write_text("years of work")
    with pytest.raises(StudentError, match="is not a run of medal"):
        ask_for(place, tmp_path / "run", overwrite=overwrite)
    (tmp_path / "other.unfinished").mkdir()
    (tmp_path / "other.unfinished/thesis.txt").write_text("years of work")
    with pytest.raises(StudentError, match="holds something else"):
        ask_for(place, tmp_path / "other", overwrite=overwrite)


def test_two_processes_do_not_train_one_run(place, tmp_path):
    asked = ask_for(place, tmp_path / "run", epochs=1)

    def second(text):
        if text.startswith("epoch 1/"):
            with pytest.raises(StudentError, match=r"is being made by process .*; nothing was touched"):
                carry_out(asked, silent, lambda _: None)

    carry_out(asked, silent, second)


@pytest.fixture
def altered(tmp_path):
    """The dataset with five images changed: two of train, three of test."""
    arrays = draw_arrays()
    arrays["train_images"][:2, 0, 0] ^= 1
    arrays["test_images"][:3, 0, 0] ^= 1
    np.savez(tmp_path / "altered.npz", **arrays)
    return tmp_path / "altered.npz"


def test_other_images_are_refused_with_the_count(place, tmp_path, altered):
    with pytest.raises(CacheMismatch, match=r"91 of 96 match, 5 are not in the cache.*--on-missing drop"):
        ask_for(place, tmp_path / "run", dataset=altered)
    asked = ask_for(place, tmp_path / "run", dataset=altered, on_missing="drop")
    assert asked.rows == {"train": 46, "val": 24, "test": 21}
    assert len(list_warnings(asked)) == 2


def test_a_cache_of_images_without_contrast_warns_again(place, tmp_path):
    asked = ask_for(place, tmp_path / "run")
    assert list_warnings(asked) == ()
    described = {**asked.cache.manifest.dataset, "contrast": {"looked_at": 64, "flat": 64}}
    flat = SimpleNamespace(manifest=SimpleNamespace(dataset=described))
    assert "almost one shade of grey" in list_warnings(replace(asked, cache=flat))[0]


def test_a_wholly_other_dataset_cannot_be_dropped(place, tmp_path):
    np.savez(tmp_path / "other.npz", **draw_arrays(seed=1))
    for on_missing in ("refuse", "drop"):
        with pytest.raises(CacheMismatch, match=r"0 of 96 match, 96 are not in the cache"):
            ask_for(place, tmp_path / "run", dataset=tmp_path / "other.npz", on_missing=on_missing)


def test_labels_that_disagree(place, tmp_path):
    arrays = draw_arrays()
    arrays["train_labels"][:4] = (arrays["train_labels"][:4] + 1) % 3
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(
        CacheMismatch, match=r"4 of 96 images have different labels.*--labels cache or --labels dataset"
    ):
        ask_for(place, tmp_path / "run", dataset=tmp_path / "other.npz")
    theirs = ask_for(place, tmp_path / "run", dataset=tmp_path / "other.npz", labels="cache").targets.splits["train"]
    ours = ask_for(place, tmp_path / "run", dataset=tmp_path / "other.npz", labels="dataset").targets.splits["train"]
    assert np.array_equal(theirs.key, ours.key)
    assert (theirs.label != ours.label).sum() == 4


@pytest.mark.parametrize(
    ("changed", "error"),
    [({"student": "resnet_18"}, StudentError), ({"loss": "dk"}, StudentError), ({"augment": "nonsense"}, DataError)],
)
def test_bad_settings_are_refused_before_anything_is_made(place, tmp_path, changed, error):
    with pytest.raises(error):
        ask_for(place, tmp_path / "run", **changed)
    assert not list(tmp_path.iterdir())


def test_a_rate_that_explodes_is_one_sentence(place, tmp_path):
    with pytest.raises(StudentError, match=r"training loss became .* smaller --lr"):
        train(place, tmp_path / "run", lr=1e30)
    assert not list(tmp_path.iterdir())
