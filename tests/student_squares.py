"""A small set with its cache, made by hand, and students trained on it in moments: run by the tests of stage two."""

import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from medal.cache.convert import convert_path
from medal.cache.keys import array_key
from medal.cache.making.writer import write_cache
from medal.cache.verify import count_repeats
from medal.pipeline.datasets.columns.dataset import SPLITS, Dataset, DatasetOptions
from medal.pipeline.planning.rows import arrange_rows
from medal.pipeline.views.preprocessing import Preprocessing
from medal.pipeline.views.transforms import VIEW_PARAMETERS
from medal.student.distill import carry_out
from medal.student.members.plan import ask
from medal.student.run.predictions import read_predictions
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

    @contextmanager
    def remembering(self):
        yield self

    def read(self, row: int) -> np.ndarray:
        return self.arrays[row][:, :, None]

    def describe(self, row: int) -> str:
        return f"image {row}"


def draw_arrays(seed=0) -> dict[str, np.ndarray]:
    """A set in the MedMNIST layout: the class is how bright one quarter of a noisy square is."""
    random = np.random.default_rng(seed)
    found = {}
    for split, count in zip(SPLITS, SIZES, strict=True):
        labels = np.arange(count) % 3
        images = random.integers(0, 120, (count, 16, 16))
        images[:, :8, :8] += (labels * 50)[:, None, None]
        found |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels[:, None].astype(np.uint8)}
    return found


def hold(arrays) -> Dataset:
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


def seal(path: Path, dataset: Dataset, teacher: np.ndarray) -> Path:
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
            "excluded_classes": list(dataset.excluded),
            "label_columns": list(dataset.label_columns),
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


def teach(dataset: Dataset) -> np.ndarray:
    random = np.random.default_rng(9)
    return 3.0 * np.eye(3)[dataset.label] + random.normal(0, 1, (len(dataset), 3))


@contextmanager
def silent(_what, _total, _done):
    yield lambda _count: None


def ask_for(place, run, dataset=None, cache="squares.zarr", overwrite=False, also=(), **changed):
    settings = StudentSettings(**{**SETTINGS, **changed})
    path = str(dataset or place / "squares.npz")
    return ask(str(place / cache), path, DatasetOptions(), settings, run, overwrite=overwrite, also=also)


def train(place, run, report=lambda _text: None, **asked):
    return carry_out(ask_for(place, run, **asked), silent, report)


def same_bits(one: Path, other: Path) -> bool:
    return all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in ("model.safetensors", "predictions.csv")
    )


def furnish(folder: Path) -> Path:
    """Fill a folder with a dataset, its cache in both forms, and one finished run."""
    arrays = draw_arrays()
    np.savez(folder / "squares.npz", **arrays)
    dataset = hold(arrays)
    seal(folder / "squares.zarr", dataset, teach(dataset))
    convert_path(folder / "squares.zarr", folder / "squares.h5")
    train(folder, folder / "run")
    return folder


def lay_out_pictures(run: Path, folder: Path) -> None:
    """Write the images that a run recorded as PNG files called by their key in hex, by split."""
    dataset = hold(draw_arrays())
    for split in ("val", "test"):
        (folder / split).mkdir()
        for key in read_predictions(run)[split].key:
            row = next(row for row in range(len(dataset)) if dataset.images.key(row) == key.tobytes())
            Image.fromarray(dataset.images.arrays[row]).save(folder / split / f"{key.tobytes().hex()}.png")


def recorded(run):
    """The logits that a run recorded, by key in hex."""
    return {
        key.tobytes().hex(): logits
        for part in read_predictions(run).values()
        for key, logits in zip(part.key, part.logits, strict=True)
    }


def stopping_at(start):
    """A listener that presses Ctrl-C at the first sentence with this start."""

    def stop(text):
        if text.startswith(start):
            raise KeyboardInterrupt

    return stop


def kill_at(place, run, sentence, **settings):
    """Train in a process that is killed when it says a sentence with this start; return what it had said."""
    script = textwrap.dedent(
        f"""
        import os, runpy, signal
        from pathlib import Path
        import medal.student.training.checkpoint as checkpoint
        checkpoint.Checkpoint.__init__.__defaults__ = (0.0,)
        train = runpy.run_path({__file__!r})["train"]

        def report(text):
            print(text, flush=True)
            if text.startswith({sentence!r}):
                os.kill(os.getpid(), signal.SIGKILL)

        train(Path({str(place)!r}), Path({str(run)!r}), report, **{settings!r})
        """
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout
