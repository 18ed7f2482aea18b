"""`medal compare` on runs of real chest X-rays: paired, joined by content, drawn and refused."""

import csv
import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest

from medal.cache.errors import StudentError
from medal.pipeline.metrics import bootstrap
from medal.student.run.predictions import read_predictions

QUICK = ("--student", "test_resnet", "--image-size", 32, "--epochs", 2, "--precision", "fp32")
squares = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "student_squares.py")))


@pytest.fixture(scope="module")
def runs(medal, small_cache, small_npz, tmp_path_factory):
    """A run with two seeds and a baseline, and one of another learning rate."""
    folder = tmp_path_factory.mktemp("runs")
    made = medal("train-student", small_cache, small_npz, "--out", folder / "one", *QUICK, "--seeds", 2, "--baseline")
    medal("train-student", small_cache, small_npz, "--out", folder / "two", *QUICK, "--lr", 0.01)
    return folder, made


def test_a_run_against_its_baseline_is_what_the_run_said(runs, medal):
    folder, made = runs
    found = medal("compare", folder / "one/baseline", folder / "one")
    (difference,) = found["differences"]
    expected = made["comparison"]["test"]["student_minus_baseline"]
    assert difference["auroc"] == expected["auroc"]
    assert difference["mcnemar"] == expected["mcnemar"]
    assert found["images"] == 60
    assert [one["seeds"] for one in found["runs"]] == [2, 2]
    assert found["runs"][1]["auroc"] == made["test"]["auroc"]


def test_a_table_a_sentence_and_a_plot(runs, shell, tmp_path):
    folder, _ = runs
    said = shell("compare", "one", "two", "one/baseline", "--out", tmp_path / "forest.svg", cwd=folder)
    assert said.returncode == 0, said.stderr
    assert "AUROC (95 %)" in said.stdout
    assert said.stdout.count("minus the first") == 2
    assert "'two' " in said.stdout
    assert "McNemar" in said.stdout
    assert "<svg" in (tmp_path / "forest.svg").read_text()
    assert "intervals treat images as independent" in said.stderr


def test_the_order_of_recorded_rows_does_not_matter(runs, medal, tmp_path):
    folder, _ = runs
    shutil.copytree(folder / "two", tmp_path / "two")
    path = tmp_path / "two/predictions.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *rows[::-1]]) + "\n")
    assert (
        medal("compare", folder / "one", tmp_path / "two")["differences"][0]["auroc"]
        == medal("compare", folder / "one", folder / "two")["differences"][0]["auroc"]
    )


def test_patients_are_drawn_whole_where_they_are_known(runs, medal, tmp_path):
    folder, _ = runs
    grouped = []
    for name in ("one", "two"):
        shutil.copytree(folder / name, tmp_path / name)
        for path in (tmp_path / name).rglob("predictions.csv"):
            with path.open(newline="") as file:
                header, *rows = csv.reader(file)
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([[*header[:2], "group", *header[2:]]])
                csv.writer(file).writerows([[*row[:2], int(row[0][0], 16), *row[2:]] for row in rows])
        grouped.append(read_predictions(tmp_path / name)["test"])
    found = medal("compare", tmp_path / "two", tmp_path / "one")
    part = grouped[1]
    expected = bootstrap(part.logits, part.label, "multiclass", groups=part.group).intervals()
    order = np.lexsort(part.key.T[::-1])
    assert np.array_equal(order, np.arange(len(order)))  # recorded in order, so the draws are the same
    assert found["runs"][0]["ci95"]["auroc"] == pytest.approx(expected["auroc"])


def test_other_test_images_are_refused_in_one_sentence(runs, medal, tmp_path):
    folder, _ = runs
    shutil.copytree(folder / "two", tmp_path / "two")
    path = tmp_path / "two/predictions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for index, line in enumerate(lines) if index != len(lines) - 1) + "\n")
    with pytest.raises(
        StudentError, match=r"they have 60 and 59 test images, and share 59\. Give runs with the same test set"
    ):
        medal("compare", folder / "one", tmp_path / "two")
    squares.furnish(tmp_path)
    with pytest.raises(StudentError, match="their classes are"):
        medal("compare", folder / "one", tmp_path / "run")


def test_what_is_no_run_is_refused(runs, medal, tmp_path):
    folder, _ = runs
    with pytest.raises(StudentError, match="is not a finished run"):
        medal("compare", folder / "one", tmp_path)
    with pytest.raises(StudentError, match=r"must end in .*\.svg"):
        medal("compare", folder / "one", folder / "two", "--out", tmp_path / "x.gif")
    with pytest.raises(click.UsageError, match="two runs or more"):
        medal("compare", folder / "one")


def test_the_human_output_is_a_table_and_a_verdict(shell, small_cache, small_npz, tmp_path):
    said = shell("train-student", small_cache, small_npz, "--out", tmp_path / "run", *QUICK, "--alpha", "per-class")
    assert said.returncode == 0, said.stderr
    assert "the teacher's probe: val AUROC" in said.stderr
    assert "Whether distilling helped is not known" in said.stdout
    lines = said.stdout.splitlines()
    assert any(line.startswith("test") and "teacher" in line for line in lines)
    recall = json.loads((tmp_path / "run/member.json").read_text())["alpha"]
    assert len(recall) == 2
    assert all(0 < one <= 0.9 for one in recall)
