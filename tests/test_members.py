"""Several seeds, baselines, and adding both to a run: nothing is trained twice, and a kill changes no bit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
from click import UsageError
from student_squares import ask_for, kill_at, same_bits, stopping_at, train

from medal.cache.errors import StudentError
from medal.pipeline.metrics import score
from medal.student.figures.comparing import compare_runs
from medal.student.figures.score import figures
from medal.student.figures.temperature import calibrate
from medal.student.members.telling import list_warnings
from medal.student.run.folder import RUN_KIND
from medal.student.run.predictions import read_predictions
from medal.student.training.checkpoint import Checkpoint
from medal.student.using.trained import open_run

QUICK = {"epochs": 2}


@pytest.fixture(scope="module")
def place(squares):
    """A folder with a dataset, its cache in both forms, and one finished run."""
    return squares


@pytest.fixture(scope="module")
def three(place, tmp_path_factory):
    """A run of two seeds with a baseline, and its result."""
    run = tmp_path_factory.mktemp("members") / "three"
    return run, train(place, run, seeds=2, baseline=True, **QUICK)


def members(run):
    """Every member of a run: (arm, seed) → its folder."""
    found = {}
    for path in run.rglob("member.json"):
        record = json.loads(path.read_text())
        found[record["arm"], record["seed"]] = path.parent
    return found


# ── Seeds and baseline ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_best_seed_on_val_lies_on_top_and_the_others_beside_it(three):
    run, result = three
    found = members(run)
    assert set(found) == {(arm, seed) for arm in ("student", "baseline") for seed in (0, 1)}
    for arm, top in (("student", run), ("baseline", run / "baseline")):
        merits = {seed: json.loads((found[arm, seed] / "member.json").read_text())["val_auroc"] for seed in (0, 1)}
        best = max(merits, key=merits.get)
        assert found[arm, best] == top
        assert found[arm, 1 - best] == top / f"seed-{1 - best}"
    for folder in found.values():
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert [one["seed"] for one in result["seeds"]] == [0, 1]
    assert RUN_KIND.is_part(run)
    assert not [path for path in run.rglob("*") if path.name in ("checkpoint.safetensors", "plan.json")]


def test_each_seed_is_the_run_of_that_seed_to_the_bit(three, place, tmp_path):
    run, _ = three
    for seed, alpha, arm in ((1, 0.5, "student"), (1, 0.0, "baseline")):
        train(place, tmp_path / arm, seed=seed, alpha=alpha, **QUICK)
        assert same_bits(tmp_path / arm, members(run)[arm, seed])


def test_figures_are_means_over_seeds_with_their_spread(three):
    run, result = three
    found = members(run)
    each = []
    for seed in (0, 1):
        part = read_predictions(found["student", seed])["test"]
        each.append(score(part.logits, part.label, "multiclass", ("0", "1", "2")).auroc)
    assert [one["test"]["auroc"] for one in result["seeds"]] == each
    assert result["test"]["auroc"] == pytest.approx(np.mean(each))
    assert result["test"]["spread"]["auroc"] == pytest.approx(np.std(each, ddof=1))
    difference = result["comparison"]["test"]["student_minus_baseline"]["auroc"]
    assert difference["difference"] == pytest.approx(result["test"]["auroc"] - result["baseline"]["test"]["auroc"])
    assert difference["ci95"][0] <= difference["ci95"][1]
    assert set(result["comparison"]["test"]["student_minus_baseline"]["mcnemar"]) == {"only_first", "only_second", "p"}
    assert "mean of 2 seeds" in result["verdict"]
    on_disk = json.loads((run / "metrics.json").read_text())
    assert on_disk["verdict"] == result["verdict"]
    assert on_disk["test"]["classes"]["0"]["sensitivity"] is not None
    assert on_disk["test"]["rarity"]["rare"]["classes"] == ["0"]


def test_copies_of_an_image_are_no_further_evidence(three, place, tmp_path):
    """A test set in which every image stands twice says no more than one in which each stands once."""
    run, _ = three
    targets = ask_for(place, tmp_path / "run").targets
    logits = read_predictions(run)["test"].logits
    twice = np.repeat(np.arange(len(logits)), 2)
    test = targets.splits["test"]
    doubled = replace(targets, splits={**targets.splits, "test": test.take(twice)})
    once, again = (
        figures([given], "test", asked, at_sensitivity=0.95)
        for given, asked in ((logits, targets), (logits[twice], doubled))
    )
    assert again.figures["n"] == 2 * once.figures["n"]
    assert again.figures["rests_on"] == once.figures["rests_on"] == {"units": 24, "rarest": 8}
    for name, pair in once.figures["ci95"].items():
        assert again.figures["ci95"][name] == pytest.approx(pair, abs=1e-6)


def test_without_a_baseline_the_verdict_asks_for_one(place):
    metrics = json.loads((place / "run/metrics.json").read_text())
    assert metrics["baseline"] is None
    assert metrics["gate"]["fires"] is None
    assert "--baseline" in metrics["verdict"]


def test_baseline_and_seeds_are_added_without_training_the_students_again(three, place, tmp_path):
    run, result = three
    train(place, tmp_path / "run", **QUICK)
    assert ask_for(place, tmp_path / "run", baseline=True, **QUICK).action == "extend"
    heard = []
    train(place, tmp_path / "run", heard.append, baseline=True, **QUICK)
    assert sum(text.startswith("epoch") for text in heard) == 2
    heard.clear()
    added = train(place, tmp_path / "run", heard.append, baseline=True, seeds=2, **QUICK)
    assert sum(text.startswith("epoch") for text in heard) == 4
    assert added["action"] == "extend"
    assert added["test"] == result["test"]
    assert added["verdict"] == result["verdict"]
    assert {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*")} == {
        str(path.relative_to(run)) for path in run.rglob("*")
    }
    assert all(same_bits(folder, members(tmp_path / "run")[name]) for name, folder in members(run).items())
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("asked", [{"seeds": 1}, {"baseline": False}, {}])
def test_nothing_is_to_do_where_a_finished_run_has_all_that_is_asked(three, place, asked):
    run, result = three
    found = train(place, run, **{"seeds": 2, "baseline": True, **QUICK, **asked})
    assert found["action"] == "reuse"
    assert found["test"] == result["test"]


def test_what_is_asked_with_other_settings_of_a_finished_run_is_refused(three, place):
    run, _ = three
    with pytest.raises(StudentError, match=r"holds a finished run.*--baseline or more --seeds add to it"):
        ask_for(place, run, **{"seeds": 2, "baseline": True, **QUICK, "alpha": 0.25})


def test_who_adds_to_a_run_with_another_setting_is_told_which(three, place):
    run, _ = three
    epochs = QUICK["epochs"] + 1
    with pytest.raises(StudentError, match=rf"finished run that differs in epochs \(\d, asked for: {epochs}\)\. Give"):
        ask_for(place, run, seeds=9, baseline=True, **{**QUICK, "epochs": epochs})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--alpha", "auto", "--temperature", "4"),
            "--alpha auto chooses T as well, so --temperature would have no effect",
        ),
        (("--no-distill", "--loss", "dkd"), "--no-distill leaves the soft targets out, so --loss would have no effect"),
        (("--no-distill", "--temperature", "1"), "so --temperature would have no effect"),
        (("--no-distill", "--alpha", "0.5"), "--no-distill is --alpha 0, so --alpha would have no effect"),
        (("--alpha", "atuo"), "'atuo' is neither a number from 0 to 1 nor auto nor per-class"),
    ],
)
def test_an_option_that_would_not_be_heard_is_refused(place, medal, tmp_path, words, said):
    with pytest.raises(UsageError, match=said):
        medal("train-student", place / "squares.zarr", place / "squares.npz", "--out", tmp_path / "run", *words)


def test_classes_that_a_split_lacks_are_named_before_the_training(place, tmp_path):
    asked = ask_for(place, tmp_path / "run", **QUICK)
    assert not any("known to be" in text for text in list_warnings(asked))
    names, splits = asked.targets.classes, dict(asked.targets.splits)
    splits["train"] = replace(splits["train"], label=np.where(splits["train"].label == 1, -1, splits["train"].label))
    splits["test"] = replace(splits["test"], label=np.zeros_like(splits["test"].label))
    poorer = replace(asked, targets=replace(asked.targets, splits=splits))
    said = list_warnings(poorer)
    assert f"no image in train is known to be '{names[1]}': the student cannot learn this class" in said
    assert any(text.startswith(f"no image in test is known to be '{names[1]}'") for text in said)


def test_files_of_ones_own_stop_the_adding(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    (tmp_path / "run/notes.md").write_text("mine")
    with pytest.raises(StudentError, match="files that medal did not write, which adding to it would lose"):
        ask_for(place, tmp_path / "run", baseline=True)


def test_a_baseline_of_labels_alone_is_its_student(place, tmp_path):
    heard = []
    result = train(place, tmp_path / "run", heard.append, alpha=0.0, baseline=True, **QUICK)
    assert sum(text.startswith("epoch") for text in heard) == 2
    assert result["comparison"]["test"]["student_minus_baseline"]["auroc"]["p"] == 1
    assert "The student was trained on the labels alone" in result["verdict"]
    assert result["verdict"].startswith("The student reaches AUROC")


@pytest.fixture
def eager(monkeypatch):
    """Checkpoints after every epoch, however quick."""
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))


# ── Killed ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("eager")
def test_a_killed_run_goes_on_at_its_seed_and_epoch(three, place, tmp_path):
    run, result = three
    said = kill_at(place, tmp_path / "run", "student of seed 1", seeds=2, baseline=True, **QUICK)
    assert "epoch 2/2" in said
    heard = []

    def stop(text):
        heard.append(text)
        if text.startswith("epoch 1/2") and any(one.startswith("baseline of seed 0") for one in heard):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(place, tmp_path / "run", stop, seeds=2, baseline=True, **QUICK)
    assert "student of seed 0 is trained: best epoch" in " ".join(heard)
    heard.clear()
    again = train(place, tmp_path / "run", heard.append, seeds=2, baseline=True, **QUICK)
    assert "resuming after epoch 1 of 2" in heard
    assert sum(text.startswith("epoch") for text in heard) == 3
    assert again["test"] == result["test"]
    assert all(same_bits(folder, members(tmp_path / "run")[name]) for name, folder in members(run).items())


def test_killed_while_adding_the_old_run_stays_and_nothing_is_trained_twice(three, place, tmp_path):
    run, _ = three
    train(place, tmp_path / "run", **QUICK)
    kill_at(place, tmp_path / "run", "baseline of seed 0", baseline=True, seeds=2, **QUICK)
    assert same_bits(tmp_path / "run", members(run)["student", 0])
    heard = []
    result = train(place, tmp_path / "run", heard.append, baseline=True, seeds=2, **QUICK)
    assert result["action"] == "resume"
    assert sum(text.startswith("epoch") for text in heard) == 4
    assert all(same_bits(folder, members(tmp_path / "run")[name]) for name, folder in members(run).items())


@pytest.mark.usefixtures("eager")
def test_more_seeds_may_be_asked_of_an_unfinished_run(three, place, tmp_path):
    run, _ = three
    with pytest.raises(KeyboardInterrupt):
        train(place, tmp_path / "run", stopping_at("epoch 1/2"), **QUICK)
    heard = []
    result = train(place, tmp_path / "run", heard.append, baseline=True, seeds=2, **QUICK)
    assert "resuming after epoch 1 of 2" in heard
    assert result["action"] == "resume"
    assert all(same_bits(folder, members(tmp_path / "run")[name]) for name, folder in members(run).items())


@pytest.mark.parametrize("after", range(6))
def test_killed_while_the_best_seed_is_moved_up(three, tmp_path, after):
    """Whichever of its files have gone up when the kill comes, the next try finds each seed whole again."""
    from medal.student.members import train as rooms

    run, _ = three
    shutil.copytree(run, tmp_path / "work")
    rooms.spread(tmp_path / "work", (0, 1))
    torn = tmp_path / "work/seed-1"
    for name in rooms._FILES[1:after]:
        (torn / name).replace(tmp_path / "work" / name)
    rooms.spread(tmp_path / "work", (0, 1))
    for seed in (0, 1):
        assert same_bits(tmp_path / f"work/seed-{seed}", members(run)["student", seed])
        assert json.loads((tmp_path / f"work/seed-{seed}/member.json").read_text())["seed"] == seed


# ── Members in use ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_member_is_used_by_its_folder(three, medal, place, tmp_path, monkeypatch):
    """What stands above it, in run.json, is said of it as well; what is its own comes from member.json."""
    run, result = three
    other = next(path.name for path in run.glob("seed-*"))
    for folder in (run / "baseline", run / other, next(run.glob("baseline/seed-*"))):
        trained = open_run(folder, "cpu")
        record = json.loads((folder / "member.json").read_text())
        assert trained.description["alpha"] == record["alpha"]
        assert trained.description["target"] == ("none" if record["arm"] == "baseline" else "canonical view")
        assert trained.classes == ("0", "1", "2")
        own = calibrate(read_predictions(folder), "multiclass")
        assert trained.temperature == own
    found = medal("evaluate", run / "baseline", place / "squares.npz", "--split", "test")
    best = next(one for one in result["baseline"]["seeds"] if one["folder"] == "baseline")
    assert found["student"]["auroc"] == pytest.approx(best["test"]["auroc"], abs=1e-6)
    monkeypatch.chdir(run)
    assert open_run(Path(other), "cpu").description["cache"] == open_run(run, "cpu").description["cache"]
    with pytest.raises(StudentError, match="is not a finished run of medal"):
        open_run(place, "cpu")
    shutil.copytree(run / "baseline", tmp_path / "alone")
    with pytest.raises(StudentError, match="is not a finished run of medal"):
        open_run(tmp_path / "alone", "cpu")


def test_seeds_of_a_baseline_are_compared(three):
    run, _ = three
    other = next(run.glob("baseline/seed-*"))
    found = compare_runs([other, run], "test", lambda _text: None)
    assert found.seeds == (1, 2)
