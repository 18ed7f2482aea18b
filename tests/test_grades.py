"""Grades, classes in an order: figures as scikit-learn has them, in every command, and epochs chosen by kappa."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

from medal.cache.errors import DataError, StudentError
from medal.pipeline.metrics import bootstrap, measure, measure_grades
from medal.pipeline.metrics.bootstrap import draw_weights
from medal.pipeline.teacher.demo import tiny_teacher
from medal.student.run.predictions import read_predictions

GRADES = 5
QUICK = ("--student", "test_resnet", "--image-size", 32, "--epochs", 3, "--precision", "fp32", "--batch-size", 16)


def by_sklearn(logits, label):
    known = label >= 0
    true, said = label[known], logits[known].argmax(1)
    kappa = cohen_kappa_score(true, said, weights="quadratic", labels=range(logits.shape[1]))
    return {"kappa": kappa, "mae": mean_absolute_error(true, said)}


@given(arrays(np.int32, 40, elements=st.integers(-1, GRADES - 1)), st.integers(0, 2**31))
def test_figures_are_those_of_scikit_learn(label, seed):
    label[:2] = 0, 4
    logits = np.random.default_rng(seed).normal(size=(40, GRADES))
    expected = by_sklearn(logits, label)
    found = measure(logits, label, "multiclass", tuple("01234"), ordinal=True)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert "kappa" not in measure(logits, label, "multiclass", tuple("01234"))


def test_what_labels_cannot_define_is_none():
    alike = np.eye(GRADES)[[2, 2, 2]]
    found = measure(alike, np.array([2, 2, 2]), "multiclass", tuple("01234"), ordinal=True)
    assert (found["kappa"], found["mae"]) == (None, 0.0)
    assert np.isnan(list(measure_grades(alike, np.full(3, -1)).values())).all()


def test_every_resample_is_what_scikit_learn_says_of_it():
    random = np.random.default_rng(1)
    label = random.integers(-1, GRADES, 60).astype(np.int32)
    logits = random.normal(size=(60, GRADES))
    drawn = bootstrap(logits, label, "multiclass", resamples=20, seed=4, ordinal=True)
    known = np.flatnonzero(label >= 0)
    weights = np.concatenate(list(draw_weights(len(known), None, 4, 20)), axis=1)  # (N, 20)
    for column, times in enumerate(weights.T):
        rows = np.repeat(known, times.astype(int))
        expected = by_sklearn(logits[rows], label[rows])
        assert drawn.values["kappa"][column] == pytest.approx(expected["kappa"])
        assert drawn.values["mae"][column] == pytest.approx(expected["mae"])


# ── In the commands ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def retina(medal, tmp_path_factory):
    """Five grades of brightness, two images of each of a hundred and sixty patients, through both commands."""
    folder = tmp_path_factory.mktemp("retina")
    random = np.random.default_rng(2)
    rows = []
    for row in range(320):
        grade = row // 2 % GRADES
        picture = random.integers(0, 90, (16, 16)) + 35 * min(grade + row % 2, 4)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{row}.png")
        split = ("train", "val", "val", "test")[row // 2 // GRADES % 4]
        rows.append([f"{row}.png", min(grade + row % 2, 4), split, f"p{row // 2}"])
    with (folder / "eyes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "label", "split", "group"], *rows])
    teacher = tiny_teacher(folder)
    request = ("--teacher", teacher, "--image-size", 28, "--precision", "fp32", "--batch-size", 32)
    medal("cache-teacher", folder / "eyes.csv", folder / "eyes.zarr", *request)
    words = ("train-student", folder / "eyes.zarr", folder / "eyes.csv", *QUICK, "--ordinal")
    made = medal(*words, "--out", folder / "run", "--select", "kappa", "--baseline", "--seeds", 2)
    return folder, made


def test_a_run_has_them_for_every_arm_with_intervals_and_differences(retina):
    folder, made = retina
    top = read_predictions(folder / "run")["test"]
    other = read_predictions(next((folder / "run").glob("seed-*")))["test"]
    both = [by_sklearn(one.logits, one.label) for one in (top, other)]
    for name in ("kappa", "mae"):
        value = np.mean([one[name] for one in both])
        assert made["test"][name] == pytest.approx(value)
        low, high = made["test"]["ci95"][name]
        assert low <= made["test"][name] <= high
        assert made["comparison"]["test"]["student_minus_baseline"][name]["difference"] == pytest.approx(
            value - made["baseline"]["test"][name]
        )
    assert made["teacher"]["test"]["kappa"] is not None


def test_the_probe_is_shown_with_its_kappa(retina, terminal):
    folder, made = retina
    words = ("train-student", folder / "eyes.zarr", folder / "eyes.csv", *QUICK, "--epochs", 1, "--no-baseline")
    said = terminal(*words, "--ordinal", "--out", folder / "shown").stderr
    assert f"kappa {made['teacher']['test']['kappa']:.4f}" in said
    assert "kappa" not in terminal(*words, "--out", folder / "unordered").stderr


def test_a_patients_grade_is_the_highest_of_the_images(retina):
    folder, made = retina
    part = read_predictions(folder / "run")["test"]
    grades = [part.label[part.group == one].max() for one in np.unique(part.group)]
    assert made["test"]["patients"]["mixed"] == 0
    assert np.sum(made["test"]["patients"]["confusion"], axis=1).tolist() == np.bincount(grades, minlength=5).tolist()


def test_the_epoch_and_the_seed_on_top_are_the_best_by_kappa(retina):
    folder, _ = retina
    bests = []
    for place in (folder / "run", next((folder / "run").glob("seed-*"))):
        with (place / "history.csv").open(newline="") as file:
            kappas = [float(row["val_kappa"]) for row in csv.DictReader(file)]
        record = json.loads((place / "member.json").read_text())
        assert kappas[record["best_epoch"] - 1] == max(kappas) == pytest.approx(record["val_kappa"])
        val = read_predictions(place)["val"]
        assert by_sklearn(val.logits, val.label)["kappa"] == pytest.approx(record["val_kappa"])
        bests.append(record["val_kappa"])
    assert bests[0] >= bests[1]


def test_evaluate_compare_and_report_give_them_too(retina, medal, terminal, tmp_path):
    folder, made = retina
    found = medal("evaluate", folder / "run/baseline", folder / "eyes.csv")["student"]
    part = read_predictions(folder / "run/baseline")["test"]
    assert found["kappa"] == pytest.approx(by_sklearn(part.logits, part.label)["kappa"])
    assert "kappa" in found["patients"]
    assert "kappa 0." in terminal("evaluate", folder / "run", folder / "eyes.csv").stdout
    compared = medal("compare", folder / "run/baseline", folder / "run")
    assert compared["differences"][0]["kappa"] == made["comparison"]["test"]["student_minus_baseline"]["kappa"]
    assert "weighted kappa (95 %)" in terminal("compare", folder / "run/baseline", folder / "run").stdout
    medal("report", folder / "run", "--out", tmp_path / "page.html")
    assert "mean grade error" in (tmp_path / "page.html").read_text()


def test_what_is_no_grade_is_refused_before_anything_is_trained(retina, medal):
    folder, _ = retina
    words = ("train-student", folder / "eyes.zarr", folder / "eyes.csv", "--out", folder / "other", *QUICK)
    with pytest.raises(StudentError, match="--select kappa needs grades; give --ordinal too"):
        medal(*words, "--select", "kappa")
    with pytest.raises(DataError, match="--finding '9' is no class; expected one of 0, 1, 2, 3, 4"):
        medal(*words, "--finding", 9)
    assert not (folder / "other").exists()


def test_two_classes_are_no_grades(medal, small_cache, small_npz, tmp_path):
    with pytest.raises(DataError, match=r"--ordinal takes classes as grades .* of 3 classes or more, got"):
        medal("train-student", small_cache, small_npz, "--out", tmp_path / "run", *QUICK, "--ordinal")
