"""Temperatures: how far the images that they were fitted on bear them, and where that is said."""

import json

import numpy as np
import pytest
import student_squares
from probe_cases import Case

from medal.cache.progress import Alert
from medal.pipeline.metrics import fit_temperature, log_loss, probabilities
from medal.pipeline.probe.fit import describe_probe, logits
from medal.student.figures.tables import NO_WIDTH, Table, write_difference, write_figure
from medal.student.outcome.card import write_card


def draw(count, seed=0, classes=3, spread=2.0):
    """Logits that are calibrated as they are, and labels drawn by them."""
    random = np.random.default_rng(seed)
    given = random.normal(0, spread, (count, classes))
    return given, (random.random((count, 1)) > probabilities(given, "multiclass").cumsum(1)).sum(1).astype(np.int32)


def separable(count):
    """Two classes that are apart, probabilities of about .7; and images from outside, of which three in ten differ."""
    random = np.random.default_rng(1)
    labels = np.arange(count, dtype=np.int32) % 2
    half = np.where(labels == 1, 0.45, -0.45) + random.normal(0, 0.1, count)
    outside = np.where(np.arange(count) % 10 < 3, 1 - labels, labels)
    return np.stack([-half, half], 1), labels, outside.astype(np.int32)


@pytest.mark.parametrize("count", [20, 400])
def test_a_few_images_that_are_all_right_do_not_make_certain(count):
    given, labels, outside = separable(count)
    found = fit_temperature(given, labels, "multiclass")
    assert found.value == 1
    assert found.fitted < 0.5
    assert f"all {count} images are decided rightly" in found.warning
    before, after = (log_loss(given, outside, "multiclass", value) for value in (1, found.value))
    assert after <= before + 0.01
    # Smoothed targets alone keep it from certainty: of n images of a class all right, about (n + 1) / (n + 2).
    assert probabilities(given, "multiclass", found.fitted).max(1).mean() < (count / 2 + 1) / (count / 2 + 2) + 0.01


def test_probabilities_are_sharpened_where_enough_images_say_so():
    given, labels = draw(400)
    found = fit_temperature(given / 2, labels, "multiclass")
    assert found.value == found.fitted == pytest.approx(0.5, abs=0.12)
    assert found.interval[1] < 1
    assert found.warning == ""
    few = fit_temperature(given[:29] / 3, labels[:29], "multiclass")
    assert few.interval[1] < 1 == few.value
    assert "29 images are too little evidence" in few.warning
    assert fit_temperature(given[:60] / 3, labels[:60], "multiclass").value < 1


def test_patients_are_drawn_whole():
    given, labels = draw(60)
    patients = np.arange(60) // 6
    assert fit_temperature(given / 3, labels, "multiclass").value < 1
    assert fit_temperature(given / 3, labels, "multiclass", patients).value == 1


def test_an_interval_that_holds_1_keeps_probabilities_as_trained():
    given, labels = draw(400, seed=3)
    found = fit_temperature(given / 0.98, labels, "multiclass")
    assert found.interval[0] < 1 < found.interval[1]
    assert found.value == max(1, found.fitted)
    assert found.warning == ""


def test_over_sure_probabilities_are_softened_on_few_images_too():
    given, labels = draw(40)
    found = fit_temperature(given * 4, labels, "multiclass")
    assert 2 < found.value == found.fitted < 8
    assert found.images == 40
    assert found.wrong == int((given.argmax(1) != labels).sum())


def test_a_bound_is_warned_of():
    given, labels, _ = separable(40)
    assert "at its bound, 20 on 40 images" in fit_temperature(given, 1 - labels, "multiclass").warning
    given, labels = draw(400)
    assert "at its bound, 0.05 on 400 images" in fit_temperature(given / 100, labels, "multiclass").warning


def test_labels_are_smoothed_each_by_itself():
    random = np.random.default_rng(2)
    given = random.normal(0, 2, (500, 3))
    labels = (random.random((500, 3)) < probabilities(given, "multilabel")).astype(np.uint8)
    labels[::7, 1] = 255
    found = fit_temperature(given * 3, labels, "multilabel")
    assert found.value == pytest.approx(3, abs=0.6)
    assert found.interval[0] < 3 < found.interval[1]


def test_the_interval_is_that_of_refits():
    given, labels = draw(80)
    found = fit_temperature(given, labels, "multiclass")
    random = np.random.default_rng(5)
    drawn = [random.integers(0, 80, 80) for _ in range(100)]
    refits = [fit_temperature(given[rows], labels[rows], "multiclass").fitted for rows in drawn]
    np.testing.assert_allclose(np.log(found.interval), np.log(np.percentile(refits, (2.5, 97.5))), atol=0.15)


def test_the_probe_says_what_its_temperature_rests_on():
    case, said = Case(), []
    case.labels["val"] = (case.labels["val"] + 1) % 3  # whatever the probe says, it is something else
    probe = case.fit(tell=said.append)
    given = {split: logits(case.features[split], probe.weight[-1], probe.bias[-1]) for split in case.features}
    told = describe_probe(probe, given, case.labels, case.task, [str(number) for number in range(case.n_classes)])
    assert told["temperature"] == told["calibration"]["value"] == probe.temperature.value
    assert told["calibration"]["images"] == int((case.labels["val"] != -1).sum())
    assert probe.temperature.warning
    assert [one for one in said if isinstance(one, Alert)] == [f"the teacher's probe: {probe.temperature.warning}"]


def test_the_probe_counts_patients_of_val_and_not_images():
    case = Case()
    few = case.fit(val_units=np.arange(len(case.labels["val"])) % 6).temperature
    assert few.images == case.fit().temperature.images
    assert np.diff(few.interval) > np.diff(case.fit().temperature.interval)


def test_a_run_says_what_its_temperature_rests_on(squares, tmp_path):
    recorded = json.loads((squares / "run/run.json").read_text())["calibration"]
    assert recorded["images"] == student_squares.SIZES[1]
    assert len(recorded["ci95"]) == 2
    description = json.loads((squares / "run/run.json").read_text())
    description["calibration"] |= {"warning": "too little for it"}
    write_card(tmp_path, "run", description, json.loads((squares / "run/metrics.json").read_text()))
    line = next(line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("* temperature"))
    assert "fitted on 24 val predictions" in line
    assert "95 %" in line
    assert line.endswith("; too little for it")


def test_an_interval_without_width_has_its_caveat_where_it_is_printed():
    certain = {"auroc": 1.0, "ci95": {"auroc": [1.0, 1.0]}}
    usual = {"auroc": 0.9, "ci95": {"auroc": [0.8, 0.95]}}
    marked, plain = write_figure(certain, "auroc"), write_figure(usual, "auroc")
    assert marked == "1.000 (1.000–1.000)†"
    assert plain == ".900 (.800–.950)"
    shown, silent = Table("", ["", "AUROC"], [["a", marked]]), Table("", ["", "AUROC"], [["a", plain]])
    for text in (shown.text(), shown.markdown()):
        assert text.endswith(NO_WIDTH)
    assert NO_WIDTH not in silent.text() + silent.markdown()
    assert write_difference(None) == "undefined"
