"""What a finished run is good for: predict, evaluate, and the card that explains it."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import student_squares
from PIL import Image

from medal.cache.errors import DataError, StudentError
from medal.cli import group
from medal.pipeline.datasets.columns.dataset import DatasetOptions
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.metrics import fit_temperature, probabilities
from medal.pipeline.teacher.demo import tiny_teacher
from medal.student.api import predict
from medal.student.run.predictions import read_predictions
from medal.student.using.prediction import Answers

QUICK = ("--student", "test_resnet", "--epochs", 1, "--precision", "fp32", "--image-size", 32, "--batch-size", 16)


@pytest.fixture(scope="module")
def pictures(squares, tmp_path_factory):
    """The images that the run recorded, as PNG files called by their key in hex, by split."""
    folder = tmp_path_factory.mktemp("pictures")
    student_squares.lay_out_pictures(squares / "run", folder)
    return folder


def say(*words):
    """Run a command in this process, for what it prints to people."""
    group.main([*map(str, words)], prog_name="medal", standalone_mode=False)


# ── predict ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_predict_gives_the_logits_that_the_run_recorded(squares, pictures, medal, tmp_path):
    told = medal("predict", squares / "run", pictures / "val", pictures / "test", "--out", tmp_path / "preds.csv")
    expected = student_squares.recorded(squares / "run")
    assert told["images"] == len(expected) == 48
    for row in told["predictions"]:
        np.testing.assert_allclose(list(row["logits"].values()), expected[Path(row["file"]).stem], atol=1e-5)
    with (tmp_path / "preds.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["file"] for row in table] == [row["file"] for row in told["predictions"]]
    for row, said in zip(table, told["predictions"], strict=True):
        assert row["prediction"] == said["prediction"] == max(said["logits"], key=said["logits"].get)
        assert [np.float32(row[f"logit:{name}"]) for name in "012"] == list(map(np.float32, said["logits"].values()))
        assert float(row["probability:1"]) == pytest.approx(said["probability"]["1"], rel=1e-5)


def test_probabilities_are_calibrated_on_val_and_say_so(squares, pictures, medal):
    told = medal("predict", squares / "run", pictures / "test")
    val = read_predictions(squares / "run")["val"]
    temperature = told["temperature"]
    assert temperature["value"] == fit_temperature(val.logits, val.label, "multiclass").value
    assert temperature["images"] == 24
    assert "val" in temperature["fitted_on"]
    assert json.loads((squares / "run/run.json").read_text())["calibration"] == temperature
    logits = np.array([list(row["logits"].values()) for row in told["predictions"]])
    probability = [list(row["probability"].values()) for row in told["predictions"]]
    np.testing.assert_allclose(probability, probabilities(logits, "multiclass", temperature["value"]), atol=1e-6)


def test_bad_images_are_all_listed_and_the_good_ones_written(squares, pictures, shell, tmp_path):
    good = sorted((pictures / "test").iterdir())[:2]
    (tmp_path / "new/deeper").mkdir(parents=True)
    shutil.copy(good[0], tmp_path / "new/deeper")
    (tmp_path / "new/broken.png").write_bytes(good[1].read_bytes()[:60])
    (tmp_path / "new/notes.txt").write_text("no image")
    words = ("predict", squares / "run", "new", good[1], "gone.png", "--out", "preds.csv")
    done = shell(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "2 of 4 images cannot be used; the other 2 are in 'preds.csv'" in done.stderr
    assert "broken.png" in done.stderr
    assert "gone.png" in done.stderr
    assert "Traceback" not in done.stderr
    assert "1 file in these folders is no image" in done.stderr
    assert [row.split(",")[0] for row in (tmp_path / "preds.csv").read_text().splitlines()[1:]] == [
        f"new/deeper/{good[0].name}",
        str(good[1]),
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_pages_that_are_not_read_are_said(squares, pictures, capsys, tmp_path):
    first, second = (Image.open(path) for path in sorted((pictures / "test").iterdir())[:2])
    first.save(tmp_path / "several.tif", save_all=True, append_images=[second])
    said = "1 file holds several pages or frames, 'several.tif' for one, and the first of each is read alone"
    said = said.replace("several.tif", str(tmp_path / "several.tif"))
    say("predict", squares / "run", tmp_path)
    assert said in " ".join(capsys.readouterr().err.split())
    told = []
    assert len(predict(squares / "run", tmp_path, tell=told.append).places) == 1
    assert told[0].startswith(said)


def test_predict_shows_a_table(squares, pictures, capsys):
    say("predict", squares / "run", next((pictures / "test").iterdir()))
    header, row, temperature = capsys.readouterr().out.splitlines()
    assert header.split() == ["image", "prediction", "0", "1", "2", "distance"]
    assert sum(map(float, row.split()[2:5])) == pytest.approx(1, abs=2e-4)
    assert "not a medical device" in temperature


def test_what_is_no_run_is_refused_with_the_remedy(squares, pictures, medal, tmp_path):
    with pytest.raises(StudentError, match="is not there; expected the folder that train-student made"):
        medal("predict", tmp_path / "nothing", pictures)
    (tmp_path / "half.unfinished").mkdir()
    with pytest.raises(StudentError, match=r"not finished yet.*finish it with the same train-student command"):
        medal("predict", tmp_path / "half", pictures)
    with pytest.raises(DataError, match="There is no image in"):
        medal("predict", squares / "run", tmp_path)
    with pytest.raises(StudentError, match="There is no folder"):
        medal("predict", squares / "run", pictures, "--out", tmp_path / "no/where.csv")
    (tmp_path / "labels.csv").write_text("not to be lost")
    for command, what in (("predict", pictures), ("evaluate", squares / "squares.npz")):
        with pytest.raises(StudentError, match="is there already; give --overwrite"):
            medal(command, squares / "run", what, "--out", tmp_path / "labels.csv")
    assert (tmp_path / "labels.csv").read_text() == "not to be lost"


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("run.json", "[]", "not the JSON object"),
        ("run.json", "{}", "are not as medal writes them"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("model.safetensors", "x", "cannot be read"),
        ("config.json", '{"architecture": "no_such"}', "are not as medal writes them"),
    ],
)
def test_a_damaged_run_is_refused(squares, pictures, medal, tmp_path, file, content, sentence):
    run = shutil.copytree(squares / "run", tmp_path / "run")
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_text(content)
    with pytest.raises(StudentError, match=sentence):
        medal("predict", run, pictures / "test")


def test_several_labels_an_image_are_all_named():
    logits = np.array([[2, -1, 3], [-1, -2, -3]], np.float32)
    answers = Answers("multilabel", ("a", "b", "c"), (), logits, probabilities(logits, "multilabel"), ())
    assert answers.decisions == ["a;c", ""]


def test_dry_run_says_what_would_be_done_and_does_nothing(squares, pictures, medal, tmp_path, capsys):
    out = tmp_path / "out.csv"
    told = medal("predict", squares / "run", pictures, "--out", out, "--dry-run")
    assert (told["images"], told["out"]) == (48, str(out))
    assert medal("evaluate", squares / "run", squares / "squares.npz", "--out", out, "--dry-run")["images"] == 24
    words = ("export", squares / "run", "--format", "exported-program", "--out", tmp_path / "student.pt2", "--dry-run")
    assert medal(*words)["bytes"] == pytest.approx((squares / "run/model.safetensors").stat().st_size, rel=0.05)
    say("predict", squares / "run", pictures, "--dry-run")
    assert "Would answer 48 images with" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


# ── DICOM and deep images, without splits of their own ───────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def scans(medal, tmp_path_factory):
    """A folder of CLASS/file, half 16-bit PNG and half DICOM of two frames; and a run on it, shown in one window."""
    dicom = pytest.importorskip("dicom_files")
    place, random = tmp_path_factory.mktemp("scans"), np.random.default_rng(3)
    for name, level in (("air", -300), ("water", 0)):
        (place / "scans" / name).mkdir(parents=True)
        for number in range(12):
            frames = (level + random.integers(-80, 80, (2, 24, 20))).astype(np.int16)
            dicom.save(
                dicom.make(frames, frames=True, RescaleIntercept=0, RescaleSlope=1),
                place / f"scans/{name}/{number:02}.dcm",
            )
            deep = (20_000 + 30 * frames[0].astype(np.int32)).astype(np.uint16)
            Image.fromarray(deep).save(place / f"scans/{name}/{number:02}.png")
    asked = ("--teacher", tiny_teacher(place), "--image-size", 28, "--folds", 2, "--window", "-100,600")
    medal("cache-teacher", place / "scans", place / "scans.zarr", *asked)
    medal("train-student", place / "scans.zarr", place / "scans", "--out", place / "run", *QUICK)
    return place


def test_scans_are_shown_to_the_student_as_in_training(scans, medal):
    dataset = open_dataset(str(scans / "scans"), DatasetOptions(window=(-100, 600)))
    keys = {
        (str(scans / "scans" / dataset.images.locate(row).file), dataset.images.locate(row).frame): row
        for row in range(len(dataset))
    }
    expected = student_squares.recorded(scans / "run")
    told = medal("predict", scans / "run", scans / "scans")
    assert {row["frame"] for row in told["predictions"]} == {None, 1, 2}
    compared = 0
    for row in told["predictions"]:
        key = dataset.images.key(keys[row["file"], row["frame"]]).hex()
        if key in expected:
            np.testing.assert_allclose(list(row["logits"].values()), expected[key], atol=1e-5)
            compared += 1
    assert compared == len(expected) > 10


def test_splits_that_stage_one_drew_are_found_again(scans, medal):
    told = medal("evaluate", scans / "run", scans / "scans")
    metrics = json.loads((scans / "run/metrics.json").read_text())
    assert told["split"] == "test"
    for name in ("auroc", "accuracy"):
        assert told["student"][name] == pytest.approx(metrics["test"][name], abs=1e-6)
        # Frames of one file are one patient's here as in training.
        assert told["student"]["ci95"][name] == pytest.approx(metrics["test"]["ci95"][name], abs=1e-6)
    assert told["images"] == len(read_predictions(scans / "run")["test"].key)
    with pytest.raises(DataError, match="has no rows in 'train'; it has val, test"):
        medal("evaluate", scans / "run", scans / "scans", "--split", "train")
    everything = medal("evaluate", scans / "run", scans / "scans", "--split", "all")
    assert any("how well it remembers" in warning for warning in everything["warnings"])
    assert any("chose its epoch" in warning for warning in everything["warnings"])


# ── evaluate ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_evaluating_a_run_on_its_own_splits_gives_its_own_figures(squares, medal, tmp_path):
    metrics = json.loads((squares / "run/metrics.json").read_text())
    shuffled = student_squares.draw_arrays()
    for split in ("val", "test"):
        order = np.random.default_rng(5).permutation(24)
        shuffled |= {f"{split}_{kind}": shuffled[f"{split}_{kind}"][order] for kind in ("images", "labels")}
    np.savez(tmp_path / "shuffled.npz", **shuffled)
    for split in ("val", "test"):
        out = tmp_path / f"{split}.csv"
        told = medal("evaluate", squares / "run", tmp_path / "shuffled.npz", "--split", split, "--out", out)
        for name in ("auroc", "accuracy", "calibration_error"):
            assert told["student"][name] == pytest.approx(metrics[split][name], abs=1e-6)
        for name, pair in metrics[split]["ci95"].items():
            assert told["student"]["ci95"][name] == pytest.approx(pair, abs=1e-6)
        assert any("chose its epoch" in said for said in told["warnings"]) == (split == "val")
        (tmp_path / split).mkdir()
        shutil.copy(out, tmp_path / split / "predictions.csv")
        written, own = read_predictions(tmp_path / split)[split], read_predictions(squares / "run")[split]
        assert (written.key == own.key).all()
        assert (written.label == own.label).all()
        np.testing.assert_allclose(written.logits, own.logits, atol=1e-5)


@pytest.fixture
def table(pictures, tmp_path):
    """The test images as a table from elsewhere: with two scanners, and two images of each patient."""
    dataset = student_squares.hold(student_squares.draw_arrays())
    label = {dataset.images.key(row).hex(): int(dataset.label[row]) for row in range(len(dataset))}
    rows = ["file,label,domain,group"]
    for number, path in enumerate(sorted((pictures / "test").iterdir())):
        rows.append(f"{path},{label[path.stem]},scanner {'AB'[number % 2]},patient {number // 2}")
    (tmp_path / "elsewhere.csv").write_text("\n".join(rows))
    return tmp_path / "elsewhere.csv"


def test_a_set_from_elsewhere_is_measured_whole_and_by_domain(squares, table, medal):
    told = medal("evaluate", squares / "run", table)
    metrics = json.loads((squares / "run/metrics.json").read_text())["test"]
    assert (told["split"], told["images"]) == ("all", 24)
    assert told["student"]["auroc"] == pytest.approx(metrics["auroc"], abs=1e-6)
    # Patients are drawn whole, so the interval is another one than over images.
    assert told["student"]["ci95"] != metrics["ci95"]
    assert {name: figures["n"] for name, figures in told["domains"].items()} == {"scanner A": 12, "scanner B": 12}
    assert told["student"]["rests_on"]["units"] == 12
    (warning,) = told["warnings"]
    assert "they are based on 12 patients" in warning


def test_other_classes_are_refused_and_absent_ones_named(squares, table, medal):
    rows = table.read_text().splitlines()
    few = table.with_name("few.csv")
    few.write_text("\n".join([rows[0], *(row for row in rows[1:] if ",2,scanner" not in row)]))
    assert medal("evaluate", squares / "run", few)["student"]["absent"] == ["2"]
    strange = table.with_name("strange.csv")
    strange.write_text("\n".join(row.replace(",2,scanner", ",cyst,scanner") for row in rows))
    with pytest.raises(DataError, match=r"has the class 'cyst'; expected only '0', '1', '2', the classes of the run"):
        medal("evaluate", squares / "run", strange)
    assert medal("evaluate", squares / "run", strange, "--exclude-class", "cyst")["images"] == 16
    bits = table.with_name("bits.csv")
    bits.write_text("\n".join(["file,0,1,2", *(f"{row.split(',')[0]},0,1,0" for row in rows[1:])]))
    with pytest.raises(DataError, match=r"is multilabel and the run .* is multiclass"):
        medal("evaluate", squares / "run", bits, "--label-columns", "0,1,2")


def test_evaluate_speaks_to_people(squares, table, capsys):
    say("evaluate", squares / "run", table)
    told = capsys.readouterr().out
    assert re.search(r"student: auroc 0\.\d{4} \(95 % ", told)
    assert "in 'scanner A' (12 labelled): auroc" in told


# ── Several labels an image ──────────────────────────────────────────────────────────────────────────────────────


def test_a_student_of_several_labels_is_used_alike(medal, pictures, tmp_path):
    arrays, random = student_squares.draw_arrays(), np.random.default_rng(1)
    for split in ("train", "val", "test"):
        bits = random.integers(0, 2, (len(arrays[f"{split}_labels"]), 2))
        arrays[f"{split}_labels"] = bits.astype(np.uint8)
    np.savez(tmp_path / "bits.npz", **arrays)
    dataset = open_dataset(str(tmp_path / "bits.npz"))
    assert dataset.task == "multilabel"
    student_squares.seal(tmp_path / "bits.zarr", dataset, 4.0 * dataset.label - 2)
    run = tmp_path / "run"
    medal("train-student", tmp_path / "bits.zarr", tmp_path / "bits.npz", "--out", run, *QUICK)
    told = medal("predict", run, pictures / "test")
    expected = student_squares.recorded(run)
    for row in told["predictions"]:
        np.testing.assert_allclose(list(row["logits"].values()), expected[Path(row["file"]).stem], atol=1e-5)
        assert row["prediction"] == ";".join(name for name, logit in row["logits"].items() if logit > 0)
    measured = medal("evaluate", run, tmp_path / "bits.npz")["student"]
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    assert measured["auroc"] == pytest.approx(metrics["auroc"], abs=1e-6)
    card = (run / "README.md").read_text()
    assert "several per image" in card
    assert "sigmoid()" in card
