"""What stage one says of a dataset before it begins: repeats, drawn splits, names that cannot be kept."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from medal.cache.errors import DataError
from medal.pipeline.datasets import describe_drawing, draw_splits
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.planning.rows import arrange_rows, repeat_warnings
from medal.pipeline.teacher.demo import tiny_teacher


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_teacher(tmp_path_factory.mktemp("tiny"))


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 20), np.uint8)).save(path)


def test_the_real_repeats_of_busi_are_said(shared):
    dataset = open_dataset(str(shared / "data/busi_256/labels.csv"))
    keys = dataset.keys()
    (told,) = repeat_warnings(arrange_rows(dataset, keys, draw_splits(dataset, keys, 0)))
    assert told == "1 image is in the dataset several times with different labels"


def test_repeats_across_splits_are_said_before_anything_is_computed(terminal, tiny, tmp_path):
    for index in range(24):
        draw(tmp_path / "scans" / ("train", "val", "test")[index % 3] / "ab"[index % 2] / f"{index}.png", index)
    draw(tmp_path / "scans/val/a/again.png", 0)  # in train/a as well
    draw(tmp_path / "scans/test/b/again.png", 3)  # in train/b as well
    draw(tmp_path / "scans/train/b/contrary.png", 6)  # in train/a as well
    asked = terminal("cache-teacher", tmp_path / "scans", "--teacher", tiny, "--image-size", 28, "--dry-run")
    assert asked.returncode == 0, asked.stderr
    assert "warning: 2 images are in more than one split" in asked.stderr
    assert "warning: 1 image is in the dataset several times with different labels" in asked.stderr
    assert "drawn" not in asked.stderr


def test_drawn_splits_are_said(terminal, tiny, tmp_path):
    for index in range(40):
        draw(tmp_path / "scans" / "ab"[index % 2] / f"{index}.png", index)
    asked = terminal(
        "cache-teacher", tmp_path / "scans", "--teacher", tiny, "--image-size", 28, "--seed", 3, "--dry-run"
    )
    told = "the dataset has no splits: 70/15/15 % are drawn by class with seed 3; now 28 train, 6 val, 6 test"
    assert told in asked.stderr.splitlines()


@pytest.mark.parametrize(
    ("split", "told"),
    [
        (None, "the dataset has no splits: 70/15/15 % are drawn by class with seed 5"),
        ([-1, -1, -1], "the dataset has no splits: 70/15/15 % are drawn by class with seed 5"),
        ([0, -1, 2], "the dataset has no val: 15 % of train are drawn by class, seed 5"),
        ([0, 0, 2], "the dataset has no val: 15 % of train are drawn by class, seed 5"),
        ([0, 1, -1], "1 rows have no split: they join train, or the split of their patient or copy"),
        ([0, 1, 2], None),
    ],
)
def test_what_is_drawn_is_told_from_what_is_given(split, told):
    assert describe_drawing(None if split is None else np.array(split, np.int8), 5) == told


@pytest.mark.parametrize("name", [b"b\xff", b"b\x1b[31m", b"\n", b" "])
def test_names_that_no_manifest_can_hold_are_refused(name, tmp_path):
    draw(tmp_path / "scans/a/1.png", 1)
    folder = os.path.join(os.fsencode(tmp_path), b"scans", name)  # noqa: PTH118 (bytes)
    os.mkdir(folder)  # noqa: PTH102
    (tmp_path / "scans/a/1.png").rename(os.fsdecode(os.path.join(folder, b"1.png")))  # noqa: PTH118
    draw(tmp_path / "scans/a/2.png", 2)
    with pytest.raises(DataError, match=r"has a class named '.*'; expected a name of printable characters"):
        open_dataset(str(tmp_path / "scans"))


def test_the_name_of_a_dataset_is_escaped(tmp_path):
    for name in "ab":
        draw(tmp_path / f"scans{name}" / name / "1.png", ord(name))
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/s\xff\x1b")
    (tmp_path / "scansa").rename(folder)
    (tmp_path / "scansb/b").rename(os.path.join(folder, "b"))  # noqa: PTH118 (not UTF-8)
    assert open_dataset(folder).name == "s\\udcff\\x1b"


def test_a_teacher_whose_name_no_manifest_can_hold_is_refused_at_once(tiny, tmp_path, terminal):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/t\xff")
    shutil.copytree(tiny, folder)
    refused = terminal("cache-teacher", "phantom", tmp_path / "x.zarr", "--teacher", folder)
    assert refused.returncode == 1
    assert refused.stderr.startswith("medal: Teacher 't\\udcff' has a name that a cache cannot store")
