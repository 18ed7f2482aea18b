"""Stage two as a whole: what a run is, what it depends on and what it does not, and that no teacher is needed."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from medal.cache.keys import array_key
from medal.pipeline.datasets.columns.dataset import SPLITS, DatasetOptions
from medal.student.distill import estimate
from medal.student.run.predictions import read_predictions

squares = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "student_squares.py")))
SIZES, draw_arrays, seal = squares.SIZES, squares.draw_arrays, squares.seal
ask_for, train, same_bits = squares.ask_for, squares.train, squares.same_bits


@pytest.fixture(scope="module")
def place(squares):
    """A folder with a dataset, its cache in both forms, and one finished run."""
    return squares


def _images(split):
    """The student's input in the order of the predictions, made the plain way."""
    arrays = draw_arrays()[f"{split}_images"]
    order = np.argsort([array_key(image) for image in arrays])
    pixels = torch.from_numpy(arrays[order])[:, None].expand(-1, 3, -1, -1)
    enlarged = torch.nn.functional.interpolate(pixels, (32, 32), mode="bicubic", antialias=True)
    return (enlarged / 255 - 0.5) / 0.5


# ── A run ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_has_its_files_and_nothing_of_its_making(place):
    names = {item.name for item in (place / "run").iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "run.json",
        "metrics.json",
        "member.json",
        "likeness.safetensors",
        "history.csv",
        "predictions.csv",
        "teacher.csv",
        "README.md",
        "curves.png",
        "confusion.png",
        "roc.png",
        "reliability.png",
    }
    assert not (place / "run.unfinished").exists()
    assert all((place / "run" / name).read_bytes()[:4] == b"\x89PNG" for name in names if name.endswith(".png"))
    assert str(place) not in (place / "run/run.json").read_text()


@pytest.mark.parametrize("split", ["val", "test"])
def test_timm_gives_the_recorded_logits(place, split):
    model = timm.create_model(f"local-dir:{place / 'run'}", pretrained=True).eval()
    with torch.inference_mode():
        logits = model(_images(split)).numpy()
    np.testing.assert_allclose(logits, read_predictions(place / "run")[split].logits, atol=1e-5)


def test_the_result_scores_student_and_teacher(place):
    metrics = json.loads((place / "run/metrics.json").read_text())
    for scores in (metrics["val"], metrics["test"], metrics["teacher"]["val"], metrics["teacher"]["test"]):
        low, high = scores["ci95"]["auroc"]
        assert low <= scores["auroc"] <= high
        assert 0 <= scores["accuracy"] <= 1
    assert metrics["teacher"]["test"]["auroc"] > 0.9
    assert metrics["baseline"] is None


def test_the_history_names_the_epoch_that_was_kept(place):
    lines = (place / "run/history.csv").read_text().splitlines()
    metrics = json.loads((place / "run/metrics.json").read_text())
    rows = [dict(zip(lines[0].split(","), map(float, line.split(",")), strict=True)) for line in lines[1:]]
    assert len(rows) == 3
    best = max(rows, key=lambda row: (row["val_auroc"], -row["val_loss"]))
    assert best["epoch"] == metrics["best_epoch"]
    assert best["val_auroc"] == pytest.approx(metrics["val"]["auroc"])


def test_the_same_command_gives_the_same_bits_from_hdf5(place, tmp_path):
    train(place, tmp_path / "run", cache="squares.h5")
    assert same_bits(place / "run", tmp_path / "run")


def test_the_order_of_the_dataset_does_not_matter(place, tmp_path):
    arrays, random = draw_arrays(), np.random.default_rng(5)
    for split in SPLITS:
        order = random.permutation(len(arrays[f"{split}_images"]))
        for kind in ("images", "labels"):
            arrays[f"{split}_{kind}"] = arrays[f"{split}_{kind}"][order]
    np.savez(tmp_path / "squares.npz", **arrays)
    train(place, tmp_path / "run", dataset=tmp_path / "squares.npz")
    assert same_bits(place / "run", tmp_path / "run")


def test_another_seed_and_no_distillation_give_other_weights(place, tmp_path):
    for name, changed in {"seed": {"seed": 1}, "alpha": {"alpha": 0.0}}.items():
        train(place, tmp_path / name, epochs=1, **changed)
    train(place, tmp_path / "one", epochs=1)
    weights = {(tmp_path / name / "model.safetensors").read_bytes() for name in ("seed", "alpha", "one")}
    assert len(weights) == 3
    assert json.loads((tmp_path / "alpha/run.json").read_text())["target"] == "none"


def test_a_student_learns(place, tmp_path):
    result = train(place, tmp_path / "run", epochs=25, lr=3e-3, augment="none")
    assert result["test"]["auroc"] > 0.9


def test_multilabel_with_unknown_labels(tmp_path):
    arrays = draw_arrays()
    label = np.concatenate([arrays[f"{split}_labels"] for split in SPLITS])
    bits = np.concatenate([label == 2, label > 0, np.ones_like(label)], 1).astype(np.uint8)
    bits[::7, 1] = 255
    folder = tmp_path / "images"
    folder.mkdir()
    from PIL import Image

    lines = ["file,split,bright,any,always"]
    images = np.concatenate([arrays[f"{split}_images"] for split in SPLITS])
    for row, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{row}.png")
        split = SPLITS[np.searchsorted(np.cumsum(SIZES), row, "right")]
        lines.append(",".join([f"images/{row}.png", split, *("" if bit == 255 else str(bit) for bit in bits[row])]))
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    from medal.pipeline.datasets.opening import open_dataset

    options = DatasetOptions(label_columns=("bright", "any", "always"))
    dataset = open_dataset(str(tmp_path / "labels.csv"), options)
    seal(tmp_path / "m.zarr", dataset, np.where(dataset.label == 1, 2.0, -2.0))
    result = train(tmp_path, tmp_path / "run", dataset=tmp_path / "labels.csv", cache="m.zarr")
    assert result["test"]["absent"] == ["always"]
    assert 0 <= result["test"]["auroc"] <= 1
    found = read_predictions(tmp_path / "run")["test"]
    assert found.label.shape == (24, 3)
    assert (found.label == 255).any()


def test_the_estimate_is_of_the_right_size(place, tmp_path):
    size, seconds = estimate(ask_for(place, tmp_path / "run"))
    written = (place / "run/model.safetensors").stat().st_size
    assert size == pytest.approx(written, rel=0.05)
    assert 0 < seconds < 60
    assert not list(tmp_path.iterdir())


# ── As a command ─────────────────────────────────────────────────────────────────────────────────────────────────

WITHOUT_TRANSFORMERS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "transformers":
            raise ImportError("there is no transformers here")

sys.meta_path.insert(0, Blocked())
import medal.student.distill
assert "transformers" not in sys.modules
from medal.cli import main
main()
"""


def test_the_command_works_without_transformers(place, tmp_path):
    words = [
        "train-student",
        place / "squares.zarr",
        place / "squares.npz",
        "--out",
        tmp_path / "run",
        "--student",
        "test_resnet",
        "--epochs",
        1,
        "--image-size",
        32,
        "--precision",
        "fp32",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRANSFORMERS, *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {"run", "val", "test", "teacher", "baseline", "seconds", "images_per_second"} <= set(result)
    assert result["baseline"] is None
    again = subprocess.run(
        [sys.executable, "-m", "medal", *map(str, words)], check=False, capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 0  # nothing to do
    assert json.loads(again.stdout)["test"] == result["test"]
    other = subprocess.run(
        [sys.executable, "-m", "medal", *map(str, words), "--lr", "0.01"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert other.returncode == 1
    assert "--overwrite" in other.stderr
    assert "Traceback" not in other.stderr
