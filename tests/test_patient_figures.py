"""One answer a patient: the same as a slow reading of its definition, in every command that speaks of patients."""

import csv
import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from teaching_cases import train

from medal.cache.errors import DataError
from medal.pipeline.datasets.columns.aggregate import PatientRule
from medal.pipeline.metrics import bootstrap, by_patient, measure, probabilities
from medal.student.figures.patients import measure_patients
from medal.student.run.predictions import read_predictions

HOWS = ("mean", "max", "noisy-or", "top3")


def slow_pool(p, how):
    """The definition of one patient's answer, class by class and image by image."""
    found = []
    for one in range(p.shape[1]):
        values = sorted((float(value) for value in p[:, one]), reverse=True)
        nothing = 1.0
        for value in values:
            nothing *= 1 - value
        top = values[:3]
        found.append(
            {"mean": sum(values) / len(values), "max": values[0], "noisy-or": 1 - nothing, "top3": sum(top) / len(top)}[
                how
            ]
        )
    return found


def slow_patients(logits, labels, groups, how, finding=()):
    """Answers that sum to 1, labels with None for what has none, in the order of the groups' numbers."""
    answers, truth = [], []
    for one in sorted(set(groups.tolist())):
        rows = [row for row in range(len(groups)) if groups[row] == one]
        exponents = [[np.exp(np.float64(value)) for value in logits[row]] for row in rows]
        p = np.array([[value / sum(each) for value in each] for each in exponents])
        pooled = slow_pool(p, how)
        answers.append([value / sum(pooled) for value in pooled])
        there = {int(labels[row]) for row in rows if labels[row] >= 0}
        named = [kind for kind in finding if kind in there]
        truth.append(there.pop() if len(there) == 1 else named[0] if named else None)
    return np.array(answers), truth


def slow_auroc(answers, truth):
    """The chance that a patient of a class is put above one of another, mean over classes; of two, the second's."""
    found = []
    classes = range(answers.shape[1]) if answers.shape[1] > 2 else [1]
    for kind in classes:
        high = [a[kind] for a, t in zip(answers, truth, strict=True) if t == kind]
        low = [a[kind] for a, t in zip(answers, truth, strict=True) if t is not None and t != kind]
        if high and low:
            found.append(np.mean([(one > other) + (one == other) / 2 for one in high for other in low]))
    return float(np.mean(found)) if found else None


def read_table(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["label"] for row in rows})
    codes = {name: number for number, name in enumerate(dict.fromkeys(row["group"] for row in rows))}
    label = np.array([classes.index(row["label"]) for row in rows], np.int32)
    return classes, label, np.array([codes[row["group"]] for row in rows])


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("name", "finding", "mixed"),
    [("pocus_lus", (), 2), ("ham10000", (), 0), ("malaria_50", ("parasitized",), 0), ("malaria_50", (), 150)],
)
def test_figures_of_real_tables_are_those_of_a_slow_reading(shared, name, finding, mixed, how):
    classes, label, group = read_table(shared / "data" / name / "labels.csv")
    random = np.random.default_rng(5)
    logits = (random.normal(0, 1.5, (len(label), len(classes))) + np.eye(len(classes))[label]).astype(np.float32)
    rule = PatientRule(how, finding)
    found, _ = measure_patients([logits], label, group, "multiclass", classes, rule)
    answers, truth = slow_patients(logits, label, group, how, [classes.index(one) for one in finding])
    labelled = [(a, t) for a, t in zip(answers, truth, strict=True) if t is not None]
    assert (found["n"], found["mixed"], found["aggregate"]) == (len(labelled), mixed, how)
    if how != "noisy-or":  # of many images it is 1 in floating point, and what is more than that depends on the order
        assert found["auroc"] == (None if (expected := slow_auroc(answers, truth)) is None else pytest.approx(expected))
        assert found["accuracy"] == pytest.approx(np.mean([np.argmax(a) == t for a, t in labelled]))
    pooled = by_patient(logits, label, group, "multiclass", classes, rule)
    np.testing.assert_allclose(probabilities(pooled.logits, "multiclass"), answers, atol=1e-9)
    # The images' own figures stay what they are.
    whole = measure(logits, label, "multiclass", classes)
    assert whole["auroc"] == pytest.approx(slow_auroc(probabilities(logits, "multiclass"), label.tolist()))


def test_intervals_draw_patients_and_seeds_are_averaged():
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 5)
    label = np.repeat(random.integers(0, 2, 40), 5).astype(np.int32)
    logits = [random.normal(size=(200, 2)) + np.eye(2)[label] for _ in range(2)]
    found, drawn = measure_patients(logits, label, group, "multiclass", ("a", "b"), PatientRule())
    each = [by_patient(one, label, group, "multiclass", ("a", "b"), PatientRule()) for one in logits]
    expected = np.mean([bootstrap(one.logits, one.label, "multiclass").auroc for one in each], 0)
    np.testing.assert_array_equal(drawn.auroc, expected)
    assert found["rests_on"]["units"] == 40
    assert found["auroc"] == pytest.approx(np.mean([slow_auroc(o.logits, o.label.tolist()) for o in each]))


def test_labels_of_a_patient_are_those_that_an_image_has():
    label = np.array([[0, 1, 0], [0, 0, 255], [255, 1, 1]], np.uint8)
    logits = np.array([[0.0, 2, -1], [1, 1, 1], [0, 0, 0]])
    found = by_patient(logits, label, np.array([4, 4, 7]), "multilabel", ("a", "b", "c"), PatientRule("max"))
    assert found.label.tolist() == [[0, 1, 255], [255, 1, 1]]
    np.testing.assert_allclose(found.logits, [[1, 2, 1], [0, 0, 0]], atol=1e-9)


def test_an_unknown_finding_is_refused():
    with pytest.raises(DataError, match="--finding 'c' is no class; expected one of a, b"):
        by_patient(np.zeros((2, 2)), np.zeros(2), np.zeros(2), "multiclass", ("a", "b"), PatientRule(finding=("c",)))


# ── In the commands ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def runs(teaching, medal, tmp_path_factory):
    """A run of images of patients with a baseline, and the same by the maximum."""
    folder = tmp_path_factory.mktemp("runs")
    mean = train(medal, teaching, folder / "mean", "--baseline")
    train(medal, teaching, folder / "max", "--aggregate", "max", "--finding", "c", "--finding", "b")
    return folder, mean


def expected_of(run, how="mean", finding=()):
    part = read_predictions(run)["test"]
    units = np.where(part.group >= 0, part.group, 10_000 + np.arange(len(part.group)))
    answers, truth = slow_patients(part.logits, part.label, units, how, finding)
    return slow_auroc(answers, truth), sum(one is not None for one in truth)


def test_a_run_has_figures_of_images_and_of_patients(runs):
    folder, made = runs
    found = made["test"]["patients"]
    auroc, known = expected_of(folder / "mean")
    assert found["auroc"] == pytest.approx(auroc)
    assert found["n"] == known < made["test"]["n"]
    assert made["comparison"]["test"]["student_minus_baseline"]["patients"]["auroc"]["difference"] == pytest.approx(
        found["auroc"] - made["baseline"]["test"]["patients"]["auroc"]
    )
    assert made["teacher"]["test"]["patients"]["n"] == found["n"]
    said = made["verdict"]
    assert "test images, one seed)" in said
    assert f"These figures count images. By patient (mean of probabilities, {found['n']} patients" in said
    assert "the labels alone (AUROC" in said[said.index("By patient") :]


def test_the_rule_of_a_run_is_its_own_and_is_recorded(runs):
    folder, _ = runs
    made = json.loads((folder / "max/metrics.json").read_text())["test"]["patients"]
    assert made["auroc"] == pytest.approx(expected_of(folder / "max", "max", (2, 1))[0])
    assert made["mixed"] < json.loads((folder / "mean/metrics.json").read_text())["test"]["patients"]["mixed"]
    request = json.loads((folder / "max/run.json").read_text())["request"]
    assert (request["aggregate"], request["finding"]) == ("max", ["c", "b"])
    assert "aggregate" not in json.loads((folder / "mean/run.json").read_text())["request"]


def test_evaluate_says_what_the_run_said(runs, teaching, medal, terminal):
    folder, made = runs
    found = medal("evaluate", folder / "mean", teaching / "all.csv", "--split", "test")
    for name in ("auroc", "accuracy", "n", "mixed", "aggregate"):
        assert found["student"]["patients"][name] == pytest.approx(made["test"]["patients"][name])
    other = medal("evaluate", folder / "mean", teaching / "all.csv", "--split", "test", "--aggregate", "top3")
    assert other["student"]["patients"]["aggregate"] == "top3"
    said = terminal("evaluate", folder / "mean", teaching / "all.csv", "--split", "test").stdout
    assert f"by patient ({made['test']['patients']['n']} labelled, mean of probabilities" in said


def test_compare_and_report_speak_of_both(runs, medal, terminal, tmp_path):
    folder, made = runs
    found = medal("compare", folder / "mean/baseline", folder / "mean")
    (difference,) = found["differences"]
    expected = made["comparison"]["test"]["student_minus_baseline"]
    assert difference["auroc"] == expected["auroc"]
    assert difference["patients"]["auroc"] == expected["patients"]["auroc"]
    said = terminal("compare", folder / "mean/baseline", folder / "mean", "--aggregate", "max").stdout
    assert "By patient (max of probabilities" in said
    medal("report", folder / "mean", "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "student, by patient" in page
    assert "By patient (mean of probabilities" in page


def test_predict_answers_for_patients(runs, teaching, medal, terminal, tmp_path):
    folder, _ = runs
    for patient, rows in (("p1", (0, 1)), ("p2", (2, 3, 4)), ("alone", (6,))):
        (tmp_path / "new" / patient).mkdir(parents=True)
        for row in rows:
            shutil.copy(teaching / f"{row}.png", tmp_path / "new" / patient)
    words = ("predict", folder / "mean", tmp_path / "new", "--by", "group", "--group-pattern", r"/(p\d)/")
    found = medal(*words, "--aggregate", "max", "--out", tmp_path / "patients.csv")
    assert [(one["group"], one["images"]) for one in found["patients"][1:]] == [("p1", 2), ("p2", 3)]
    assert found["patients"][0]["group"].endswith("alone/6.png")
    images = [list(one["probability"].values()) for one in found["predictions"]]
    for patient, (start, end) in zip(found["patients"], pairwise((0, 1, 3, 6)), strict=True):
        pooled = np.array(slow_pool(np.array(images[start:end]), "max"))
        np.testing.assert_allclose(list(patient["probability"].values()), pooled / pooled.sum(), atol=1e-9)
        assert patient["prediction"] == max(patient["probability"], key=patient["probability"].get)
    with (tmp_path / "patients.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["group"] for row in table] == [one["group"] for one in found["patients"]]
    assert "p2 (3 images)" in terminal(*words).stdout
    with pytest.raises(DataError, match="not known which images belong to one patient"):
        medal("predict", folder / "mean", tmp_path / "new", "--by", "group")
