"""A small set with caches of its own, and students that are taught in other ways."""

import csv
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from medal.pipeline.teacher.demo import tiny_teacher
from medal.student.members.plan import ask
from medal.student.network.images import StudentImages, load_images
from medal.student.network.model import build_model
from medal.student.network.speed import Plan
from medal.student.settings import StudentSettings
from medal.student.training.checkpoint import Checkpoint
from medal.student.training.loop import Recipe, TrainingData, begin
from medal.student.training.loop import train as train_on

squares = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "student_squares.py")))
QUICK = ("--student", "test_resnet", "--image-size", 32, "--epochs", 1, "--precision", "fp32", "--batch-size", 16)
COLUMNS = ("file", "label", "split", "group")
ROWS = 120


def furnish(medal, folder):
    """Draw squares of three uneven classes, of patients, some labels unknown in every split; make their caches."""
    random = np.random.default_rng(3)
    rows = []
    for row in range(ROWS):
        kind = [0, 0, 0, 1, 0, 1, 2][row % 7]
        picture = random.integers(0, 150, (16, 16))
        picture[:8, :8] += kind * 45
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{row}.png")
        split = "train" if row < 72 else "val" if row < 96 else "test"
        rows.append([f"{row}.png", "" if row % 11 == 5 else "abc"[kind], split, f"p{row // 2}" if row % 5 else ""])
    write(folder / "all.csv", rows)
    teacher = tiny_teacher(folder)
    request = ("--teacher", teacher, "--image-size", 28, "--precision", "fp32", "--batch-size", 32)
    medal("cache-teacher", folder / "all.csv", folder / "all.h5", *request, "--views", 2, "--augment", "small")
    medal("cache-teacher", folder / "all.csv", folder / "other.h5", *request, "--image-size", 42)
    medal("cache-teacher", folder / "all.csv", folder / "lean.h5", *request, "--no-features")
    return folder


def write(path, rows, columns=COLUMNS):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def prepare(place, run, cache="all.h5", also=(), dataset="all.csv", options=None, **changed):
    quick = {"student": "test_resnet", "image_size": 32, "epochs": 1, "precision": "fp32", "batch_size": 16}
    settings = StudentSettings(**{**quick, **changed})
    path, table = str(place / cache), str(place / dataset)
    return ask(path, table, options or squares.DatasetOptions(), settings, run, overwrite=False, also=also)


def train(medal, place, run, *options, cache="all.h5"):
    return medal("train-student", place / cache, place / "all.csv", "--out", run, *QUICK, *options)


def fit(asked, checkpoint, report=lambda _row: None, sees=None):
    """Train without the run folder around it, going on from a checkpoint that is there; return the state.

    Where `sees` is a list, the rows of each batch of train are added to it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.settings.seed)
        model = build_model(asked.spec, "random", len(asked.targets.classes), asked.image_size)
    plan = Plan(precision="fp32", channels_last=False)
    recipe = Recipe(settings=asked.settings, epochs=asked.epochs, policy=asked.policy, plan=plan, device="cpu")
    images = StudentImages(asked.dataset.images, asked.image_size, asked.preprocessing.resize)
    state = begin(model, recipe, asked.targets.feature_dim)
    kept = Checkpoint(checkpoint, seconds=0)
    kept.load(state)
    with load_images(images, {name: part.row for name, part in asked.targets.splits.items()}) as pixels:
        if sees is not None:
            pixels["train"] = Watched(pixels["train"], sees)
        data = TrainingData(targets=asked.targets, pixels=pixels, mean=asked.spec.mean, std=asked.spec.std)
        train_on(state, data, recipe, checkpoint=kept, report=report, advance=lambda _: None)
    return state


class Watched:
    """Pixels of which it is known who was looked at."""

    def __init__(self, source, seen):
        self.source, self.seen = source, seen

    def batches(self, batches):
        self.seen += batches
        return self.source.batches(batches)


def same(one, other):
    """Compare the models of two states, and what is averaged of them, to the bit."""
    return all(
        torch.equal(value, other.tensors()[name])
        for name, value in one.tensors().items()
        if name.startswith(("model.", "best."))
    )
