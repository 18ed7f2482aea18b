"""Stage two as a whole: runs, resuming, what is refused, and that no teacher is needed."""

import json
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from medal.cache.convert import convert_path
from medal.cache.errors import CacheMismatch, DataError, StudentError
from medal.cache.keys import array_key
from medal.cache.verify import count_repeats
from medal.cache.writer import write_cache
from medal.pipeline.datasets.dataset import SPLITS, Dataset, DatasetOptions
from medal.pipeline.preprocessing import Preprocessing
from medal.pipeline.rows import arrange_rows
from medal.pipeline.views import VIEW_PARAMETERS
from medal.student.checkpoint import Checkpoint
from medal.student.distill import ask, estimate, train_student
from medal.student.run import read_predictions
from medal.student.settings import StudentSettings

SIZES = (48, 24, 24)
CLASSES = ("0", "1", "2")
SETTINGS = {"student": "test_resnet", "epochs": 3, "batch_size": 16, "precision": "fp32", "image_size": 32}


class Arrays:
    """Images by hand, in memory."""

    def __init__(self, arrays: np.ndarray) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def key(self, row: int) -> bytes:
        return array_key(self.arrays[row])

    def read(self, row: int) -> np.ndarray:
        return self.arrays[row][:, :, None]

    def describe(self, row: int) -> str:
        return f"image {row}"


def _arrays(seed=0) -> dict[str, np.ndarray]:
    """A set in the MedMNIST layout: the class is how bright one quarter of a noisy square is."""
    random = np.random.default_rng(seed)
    found = {}
    for split, count in zip(SPLITS, SIZES, strict=True):
        labels = np.arange(count) % 3
        images = random.integers(0, 120, (count, 16, 16))
        images[:, :8, :8] += (labels * 50)[:, None, None]
        found |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels[:, None].astype(np.uint8)}
    return found


def _dataset(arrays) -> Dataset:
    images = np.concatenate([arrays[f"{split}_images"] for split in SPLITS])
    return Dataset(
        name="squares",
        task="multiclass",
        classes=CLASSES,
        images=Arrays(images),
        label=np.concatenate([arrays[f"{split}_labels"][:, 0] for split in SPLITS]).astype(np.int32),
        split=np.repeat(np.arange(3, dtype=np.int8), [len(arrays[f"{split}_images"]) for split in SPLITS]),
        domain=np.full(len(images), -1, np.int16),
        group=np.full(len(images), -1, np.int64),
    )


def _write_cache(path: Path, dataset: Dataset, teacher: np.ndarray) -> Path:
    """Seal a cache by hand, with these logits (N, C) in the dataset's order."""
    rows = arrange_rows(dataset, dataset.keys(), dataset.split)
    classes = len(dataset.classes)
    arrays = {"probe/weight": np.zeros((1, classes, 4), np.float32), "probe/bias": np.zeros((1, classes), np.float32)}
    for split, part in rows.items():
        count = len(part)
        arrays |= {
            f"{split}/key": part.key,
            f"{split}/label": part.label,
            f"{split}/logits": teacher[part.source][:, None].astype(np.float32),
            f"{split}/view": np.zeros((count, 1, len(VIEW_PARAMETERS)), np.float32),
            f"{split}/view_check": np.zeros((count, 1, 4), np.float32),
            f"{split}/domain": part.domain,
            f"{split}/group": part.group,
            f"{split}/fold": np.full(count, -1, np.int8),
        }
    manifest = {
        "format": 1,
        "medal": "0",
        "cache_id": "0" * 32,
        "dataset": {
            "name": dataset.name,
            "task": dataset.task,
            "classes": list(dataset.classes),
            "domains": [],
            "rows": {split: len(part) for split, part in rows.items()},
            "repeats": count_repeats({split: part.key for split, part in rows.items()}),
        },
        "teacher": {"name": "by hand", "feature_dim": 4},
        "preprocessing": Preprocessing().to_dict(),
        "views": {"count": 1, "policy": "none", "parameters": list(VIEW_PARAMETERS)},
        "probe": {"probes": 1},
        "features_kept": False,
        "seed": 0,
        "versions": {},
    }
    write_cache(path, arrays, manifest)
    return path


def _teacher(dataset: Dataset) -> np.ndarray:
    random = np.random.default_rng(9)
    return 3.0 * np.eye(3)[dataset.label] + random.normal(0, 1, (len(dataset), 3))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a dataset, its cache in both forms, and one finished run."""
    folder = tmp_path_factory.mktemp("student")
    arrays = _arrays()
    np.savez(folder / "squares.npz", **arrays)
    dataset = _dataset(arrays)
    _write_cache(folder / "squares.zarr", dataset, _teacher(dataset))
    convert_path(folder / "squares.zarr", folder / "squares.h5")
    _train(folder, folder / "run")
    return folder


@contextmanager
def _silent(_what, _total, _done):
    yield lambda _count: None


def _ask(place, run, dataset=None, cache="squares.zarr", overwrite=False, **changed):
    settings = StudentSettings(**{**SETTINGS, **changed})
    path = str(dataset or place / "squares.npz")
    return ask(str(place / cache), path, DatasetOptions(), settings, run, overwrite=overwrite)


def _train(place, run, report=lambda _text: None, **asked):
    return train_student(_ask(place, run, **asked), _silent, report)


def _same(one: Path, other: Path) -> bool:
    return all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in ("model.safetensors", "predictions.csv")
    )


def _images(split):
    """The student's input in the order of the predictions, made the plain way."""
    arrays = _arrays()[f"{split}_images"]
    order = np.argsort([array_key(image) for image in arrays])
    pixels = torch.from_numpy(arrays[order])[:, None].expand(-1, 3, -1, -1)
    enlarged = torch.nn.functional.interpolate(pixels, (32, 32), mode="bicubic", antialias=True)
    return (enlarged / 255 - 0.5) / 0.5


# ── A run ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_has_its_files_and_nothing_of_its_making(place):
    names = {item.name for item in (place / "run").iterdir()}
    assert names == {
        "config.json", "model.safetensors", "run.json", "metrics.json", "history.csv", "predictions.csv",
        "curves.png", "confusion.png", "roc.png", "reliability.png",
    }  # fmt: skip
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
    _train(place, tmp_path / "run", cache="squares.h5")
    assert _same(place / "run", tmp_path / "run")


def test_the_order_of_the_dataset_does_not_matter(place, tmp_path):
    arrays, random = _arrays(), np.random.default_rng(5)
    for split in SPLITS:
        order = random.permutation(len(arrays[f"{split}_images"]))
        for kind in ("images", "labels"):
            arrays[f"{split}_{kind}"] = arrays[f"{split}_{kind}"][order]
    np.savez(tmp_path / "squares.npz", **arrays)
    _train(place, tmp_path / "run", dataset=tmp_path / "squares.npz")
    assert _same(place / "run", tmp_path / "run")


def test_another_seed_and_no_distillation_give_other_weights(place, tmp_path):
    for name, changed in {"seed": {"seed": 1}, "alpha": {"alpha": 0.0}}.items():
        _train(place, tmp_path / name, epochs=1, **changed)
    _train(place, tmp_path / "one", epochs=1)
    weights = {(tmp_path / name / "model.safetensors").read_bytes() for name in ("seed", "alpha", "one")}
    assert len(weights) == 3
    assert json.loads((tmp_path / "alpha/run.json").read_text())["target"] == "none"


def test_a_student_learns(place, tmp_path):
    result = _train(place, tmp_path / "run", epochs=25, lr=3e-3, augment="none")
    assert result["test"]["auroc"] > 0.9


def test_multilabel_with_unknown_labels(tmp_path):
    arrays = _arrays()
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
    from medal.pipeline.datasets import open_dataset

    options = DatasetOptions(label_columns=("bright", "any", "always"))
    dataset = open_dataset(str(tmp_path / "labels.csv"), options)
    _write_cache(tmp_path / "m.zarr", dataset, np.where(dataset.label == 1, 2.0, -2.0))
    result = _train(tmp_path, tmp_path / "run", dataset=tmp_path / "labels.csv", cache="m.zarr")
    assert result["test"]["absent"] == ["always"]
    assert 0 <= result["test"]["auroc"] <= 1
    found = read_predictions(tmp_path / "run")["test"]
    assert found.label.shape == (24, 3)
    assert (found.label == 255).any()


# ── Killed and resumed ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def eager(monkeypatch):
    """Checkpoints after every epoch, however quick."""
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))


@pytest.mark.usefixtures("eager")
def test_interrupted_equals_uninterrupted_to_the_bit(place, tmp_path):
    def stop(text):
        if text.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(place, tmp_path / "run", stop)
    assert not (tmp_path / "run").exists()
    assert _ask(place, tmp_path / "run").action == "resume"
    heard = []
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # a resume goes by the threads that the training began with
    result = _train(place, tmp_path / "run", heard.append)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    assert result["action"] == "resume"
    assert "resuming after epoch 2 of 3" in heard
    assert _same(place / "run", tmp_path / "run")


def test_killed_equals_unkilled_to_the_bit(place, tmp_path):
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        from contextlib import contextmanager
        from pathlib import Path
        import medal.student.checkpoint as checkpoint
        checkpoint.Checkpoint.__init__.__defaults__ = (0.0,)
        from medal.pipeline.datasets.dataset import DatasetOptions
        from medal.student.distill import ask, train_student
        from medal.student.settings import StudentSettings

        @contextmanager
        def silent(*_):
            yield lambda _: None

        def report(text):
            if text.startswith("epoch 1/"):
                os.kill(os.getpid(), signal.SIGKILL)

        asked = ask({str(place / "squares.zarr")!r}, {str(place / "squares.npz")!r}, DatasetOptions(),
                    StudentSettings(**{SETTINGS!r}), Path({str(tmp_path / "run")!r}), overwrite=False)
        train_student(asked, silent, report)
        """
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    _train(place, tmp_path / "run")
    assert _same(place / "run", tmp_path / "run")


@pytest.mark.usefixtures("eager")
def test_unfinished_work_of_other_settings_is_not_thrown_away(place, tmp_path):
    def stop(text):
        if text.startswith("epoch 1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(place, tmp_path / "run", stop)
    with pytest.raises(StudentError, match=r"unfinished run that differs in alpha \(0\.5, asked for: 0\.25\)"):
        _ask(place, tmp_path / "run", alpha=0.25)
    assert _ask(place, tmp_path / "run", alpha=0.25, overwrite=True).action == "create"


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_finished_run_is_refused_and_replaced_only_when_asked(place, tmp_path):
    _train(place, tmp_path / "run", epochs=1)
    before = (tmp_path / "run/model.safetensors").read_bytes()
    with pytest.raises(StudentError, match=r"holds a finished run.*--overwrite"):
        _ask(place, tmp_path / "run", epochs=1)
    _train(place, tmp_path / "run", epochs=1, seed=3, overwrite=True)
    assert (tmp_path / "run/model.safetensors").read_bytes() != before
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_touched(place, tmp_path, overwrite):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").write_text("years of work")
    with pytest.raises(StudentError, match="holds something that is no run of medal"):
        _ask(place, tmp_path / "run", overwrite=overwrite)
    (tmp_path / "other.unfinished").mkdir()
    (tmp_path / "other.unfinished/thesis.txt").write_text("years of work")
    with pytest.raises(StudentError, match="holds something else"):
        _ask(place, tmp_path / "other", overwrite=overwrite)


def test_two_processes_do_not_train_one_run(place, tmp_path):
    asked = _ask(place, tmp_path / "run", epochs=1)

    def second(text):
        if text.startswith("epoch 1/"):
            with pytest.raises(StudentError, match=r"is being made by process .*; nothing was touched"):
                train_student(asked, _silent, lambda _: None)

    train_student(asked, _silent, second)


@pytest.fixture
def altered(tmp_path):
    """The dataset with five images changed: two of train, three of test."""
    arrays = _arrays()
    arrays["train_images"][:2, 0, 0] ^= 1
    arrays["test_images"][:3, 0, 0] ^= 1
    np.savez(tmp_path / "altered.npz", **arrays)
    return tmp_path / "altered.npz"


def test_other_images_are_refused_with_the_count(place, tmp_path, altered):
    with pytest.raises(CacheMismatch, match=r"91 of 96 match, 5 are not in the cache.*--on-missing drop"):
        _ask(place, tmp_path / "run", dataset=altered)
    asked = _ask(place, tmp_path / "run", dataset=altered, on_missing="drop")
    assert asked.rows == {"train": 46, "val": 24, "test": 21}
    assert len(asked.warnings) == 2


def test_a_wholly_other_dataset_cannot_be_dropped(place, tmp_path):
    np.savez(tmp_path / "other.npz", **_arrays(seed=1))
    for on_missing in ("refuse", "drop"):
        with pytest.raises(CacheMismatch, match=r"0 of 96 match, 96 are not in the cache"):
            _ask(place, tmp_path / "run", dataset=tmp_path / "other.npz", on_missing=on_missing)


def test_labels_that_disagree(place, tmp_path):
    arrays = _arrays()
    arrays["train_labels"][:4] = (arrays["train_labels"][:4] + 1) % 3
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(CacheMismatch, match=r"4 of 96 images have another label.*--labels cache or --labels dataset"):
        _ask(place, tmp_path / "run", dataset=tmp_path / "other.npz")
    theirs = _ask(place, tmp_path / "run", dataset=tmp_path / "other.npz", labels="cache").targets.splits["train"]
    ours = _ask(place, tmp_path / "run", dataset=tmp_path / "other.npz", labels="dataset").targets.splits["train"]
    assert np.array_equal(theirs.key, ours.key)
    assert (theirs.label != ours.label).sum() == 4


@pytest.mark.parametrize(
    ("changed", "error"),
    [({"student": "resnet_18"}, StudentError), ({"loss": "dk"}, StudentError), ({"augment": "nonsense"}, DataError)],
)
def test_bad_settings_are_refused_before_anything_is_made(place, tmp_path, changed, error):
    with pytest.raises(error):
        _ask(place, tmp_path / "run", **changed)
    assert not list(tmp_path.iterdir())


def test_a_rate_that_explodes_is_one_sentence(place, tmp_path):
    with pytest.raises(StudentError, match=r"training loss became .* smaller --lr"):
        _train(place, tmp_path / "run", lr=1e30)
    assert not list(tmp_path.iterdir())


def test_the_estimate_is_of_the_right_size(place, tmp_path):
    size, seconds = estimate(_ask(place, tmp_path / "run"))
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
    words = ["train-student", place / "squares.zarr", place / "squares.npz", "--out", tmp_path / "run", "--student",
             "test_resnet", "--epochs", 1, "--image-size", 32, "--precision", "fp32", "--json"]  # fmt: skip
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
    assert again.returncode == 1
    assert "--overwrite" in again.stderr
    assert "Traceback" not in again.stderr
