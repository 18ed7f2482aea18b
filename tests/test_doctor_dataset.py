"""`medal doctor DATASET`: what was understood of it, before a teacher is asked."""

import json

import pytest
from layout_cases import CLASSES, save_classes, save_flat, write_table

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
    assert (tmp_path / "page.html").read_text().count("data:image/png") == 24


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


def test_a_page_without_a_dataset_is_refused(terminal, tmp_path):
    asked = terminal("doctor", "--html", tmp_path / "page.html")
    assert (asked.returncode, "--html is about a DATASET; name one." in asked.stderr) == (2, True)
