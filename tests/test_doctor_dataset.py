"""`medal doctor DATASET`: what was understood of it, before a teacher is asked."""

import json

import numpy as np
import pytest
from layout_cases import CLASSES, draw, save_classes, save_flat, write_table
from PIL import Image

from medal.pipeline.teacher.demo import tiny_teacher


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_teacher(tmp_path_factory.mktemp("tiny"))


def test_it_says_what_it_understood(terminal, tiny, tmp_path):
    scans = save_classes(tmp_path / "scans/train", 6).parent
    save_classes(scans / "test", 4)
    (scans / "notes.txt").write_text("x")
    words = ("doctor", scans, "--teacher", tiny, "--image-size", 28)
    asked = terminal(*words, "--html", tmp_path / "page.html")
    assert asked.returncode == 0, asked.stderr
    assert "class      benign     train 6, test 4" in asked.stdout
    assert "reading    30 images, multiclass, 3 classes; 0 with an unknown label" in asked.stdout
    assert "the dataset has no val: 15 % of train are drawn by class" in asked.stdout
    assert "31 files found, 30 used, 1 left out (documents 1, for instance 'notes.txt')" in asked.stdout
    assert "pixels of 24 images: 16x16 to 16x16 px; grey " in asked.stdout
    page = (tmp_path / "page.html").read_text()
    assert all(name in page for name in CLASSES)
    assert "data:image" not in page
    asked = terminal(*words, "--html", tmp_path / "page.html", "--with-images", "--json")
    understood = json.loads(asked.stdout.splitlines()[-1])["understood"]
    assert understood["classes"]["normal"] == {"train": 6, "test": 4}
    assert understood["files"]["left_out"] == {"documents": 1}
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") == 24


def test_what_it_would_ask_is_a_problem(terminal, tiny, tmp_path):
    rows = [
        (f"img/{stem}.png", {"benign": "0", "malignant": "0.0", "normal": "1"}[name])
        for stem, name in save_flat(tmp_path / "img")
    ]
    table = write_table(tmp_path / "labels.csv", "file,label", rows)
    asked = terminal("doctor", table, "--teacher", tiny, "--image-size", 28, "--html", tmp_path / "page.html")
    assert asked.returncode == 1
    assert "--rename-class 0.0=0 makes one of them" in asked.stdout
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("teacher", [True, False])
def test_it_reads_images_as_stage_one_will(terminal, tiny, tmp_path, teacher):
    for name in CLASSES:
        (tmp_path / "deep" / name).mkdir(parents=True)
        (tmp_path / "dark" / name).mkdir(parents=True)
        for index in range(10):
            grey = np.asarray(draw(name, index))
            Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / "deep" / name / f"{index}.png")
            Image.fromarray(grey // 32).save(tmp_path / "dark" / name / f"{index}.png")
    words = ("--teacher", tiny, "--image-size", 28) if teacher else ("--teacher", tmp_path / "none")
    asked = terminal("doctor", tmp_path / "deep", *words)
    assert "which is 12 bits of the more that they declare" in asked.stdout
    assert "the flattest image spans 2" in asked.stdout  # of 255 greys, and not of the 16 that 12 bits are of 16
    asked = terminal("doctor", tmp_path / "dark", *words)
    assert asked.returncode == 1
    assert "span fewer than 24 of 255 greys" in asked.stdout
    assert "They have 8 bits, with 0 as black and 255 as white: use --intensity minmax" in asked.stdout
    assert "class      benign" in asked.stdout


def test_a_page_without_a_dataset_is_refused(terminal, tmp_path):
    asked = terminal("doctor", "--html", tmp_path / "page.html")
    assert (asked.returncode, "--html needs a DATASET." in asked.stderr) == (2, True)
