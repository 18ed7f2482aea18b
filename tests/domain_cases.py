"""Images from two sites, their cache, and students of all sites but one."""

import csv
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from medal.pipeline.teacher.demo import tiny_teacher
from medal.student.distill import carry_out
from medal.student.members.plan import ask
from medal.student.settings import StudentSettings

SQUARES = str(Path(__file__).parent / "student_squares.py")
squares = SimpleNamespace(**runpy.run_path(SQUARES))
QUICK = {"student": "test_resnet", "image_size": 32, "precision": "fp32", "batch_size": 16}
SITES = ("north", "south/2")
ROWS = 108


def furnish(medal, folder):
    """Draw the images, and make their table and its cache."""
    random = np.random.default_rng(3)
    rows = []
    for row in range(ROWS):
        kind, site = row % 3, row // 3 % 2
        picture = random.integers(0, 120, (16, 16))
        picture[:8, :8] += kind * 50
        Image.fromarray(picture.astype(np.uint8) + 10 * np.uint8(site)).save(folder / f"{row}.png")
        split = "train" if row < 60 else "val" if row < 84 else "test"
        rows.append([f"{row}.png", "abc"[kind], split, SITES[site], f"p{row}"])
    rows[6][3] = rows[70][3] = ""  # of train and val: from nobody knows where
    rows[1][4] = rows[105][4] = "p1"  # a patient of the first site in train, of the second in test
    (folder / "107.png").write_bytes((folder / "12.png").read_bytes())  # likewise an image
    rows[107][1] = rows[12][1]
    write(folder / "all.csv", rows)
    tiny_teacher(folder).rename(folder / "teacher")
    medal(
        "cache-teacher",
        folder / "all.csv",
        folder / "all.h5",
        "--teacher",
        folder / "teacher",
        "--image-size",
        28,
        "--precision",
        "fp32",
        "--batch-size",
        32,
    )
    return folder


def write(path, rows, columns=("file", "label", "split", "domain", "group")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def prepare(place, run, cache="all.h5", dataset="all.csv", overwrite=False, also=(), **changed):
    settings = StudentSettings(**{**QUICK, "epochs": 2, "leave_one_domain_out": True, **changed})
    path, table = str(place / cache), str(place / dataset)
    return ask(path, table, squares.DatasetOptions(), settings, run, overwrite=overwrite, also=also)


def train(place, run, report=lambda _text: None, **changed):
    return carry_out(prepare(place, run, **changed), squares.silent, report)
