"""A dataset beside its cache: what the user leaves out comes from the cache, and what does not fit it is refused."""

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medal.cache.errors import CacheCorrupt, CacheMismatch, DataError
from medal.cache.format.digest import canonical_json
from medal.cache.format.manifest import parse_manifest
from medal.cache.reader import open_cache
from medal.pipeline.datasets.columns.dataset import DatasetOptions
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.datasets.recorded import recorded_options

squares = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "student_squares.py")))

MADE = {
    "usual": DatasetOptions(),
    "finding": DatasetOptions(label_column="finding", exclude_classes=("rare",)),
    "several": DatasetOptions(label_columns=("edema", "mass", "cyst"), exclude_classes=("cyst",)),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a table that can be read in three ways, and a cache made in each of them."""
    folder = tmp_path_factory.mktemp("recorded")
    lines = ["file,split,label,finding,edema,mass,cyst"]
    for row in range(30):
        (folder / f"{row}.png").write_text(f"image {row}")
        split = ("train", "val", "test")[row % 3]
        lines.append(f"{row}.png,{split},{row % 2},{('mass', 'none', 'rare')[row % 5 % 3]},{row % 2},{row // 3 % 2},1")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    for name, options in MADE.items():
        dataset = open_dataset(folder / "labels.csv", options)
        squares.seal(folder / f"{name}.zarr", dataset, np.zeros((len(dataset), len(dataset.classes))))
    return folder


def recorded(place, name, options=MADE["usual"], spec=None):
    return recorded_options(options, open_cache(place / f"{name}.zarr").manifest, str(spec or place / "labels.csv"))


@pytest.mark.parametrize("name", MADE)
def test_the_same_labels_are_read_again_without_a_word(place, name):
    manifest = open_cache(place / f"{name}.zarr").manifest
    table = place / "labels.csv"
    again, made = open_dataset(table, recorded(place, name), manifest.classes), open_dataset(table, MADE[name])
    assert again.classes == made.classes
    np.testing.assert_array_equal(again.label, made.label)


def test_what_the_user_says_goes_first(place):
    asked = DatasetOptions(label_column="label", exclude_classes=("rare",), intensity="minmax", group_column="patient")
    assert recorded(place, "finding", asked) == replace(asked, known_classes=("mass", "none", "rare"))
    asked = DatasetOptions(label_columns=("mass", "edema"), exclude_classes=("cyst",))
    as_recorded = {"known_classes": ("edema", "mass", "cyst"), "intensity": "declared", "several_labels": True}
    assert recorded(place, "several", asked) == replace(asked, **as_recorded)


def test_a_class_that_neither_cache_nor_dataset_has_is_said(place):
    manifest = open_cache(place / "finding.zarr").manifest
    asked = recorded(place, "finding", DatasetOptions(exclude_classes=("rrae",)))
    with pytest.raises(DataError, match="has no class 'rrae' to leave out; its classes are 'mass', 'none', 'rare'"):
        open_dataset(place / "labels.csv", asked, manifest.classes)


def test_a_class_that_the_cache_never_had_can_be_left_out_as_the_error_advises(place):
    manifest = open_cache(place / "finding.zarr").manifest
    rows = (place / "labels.csv").read_text().replace("rare", "odd").splitlines()
    table = place / "more.csv"
    table.write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"has the class 'odd'; expected only .* with --exclude-class odd"):
        open_dataset(table, recorded(place, "finding", DatasetOptions(), table), manifest.classes)
    made = open_dataset(
        table, recorded(place, "finding", DatasetOptions(exclude_classes=("odd",)), table), manifest.classes
    )
    assert made.classes == ("mass", "none")
    assert len(made) == sum("odd" not in row for row in rows[1:])
    # The cache leaves 'rare' out, and nothing of it is here: naming it does no harm.
    both = recorded(place, "finding", DatasetOptions(exclude_classes=("odd", "rare")), table)
    assert len(open_dataset(table, both, manifest.classes)) == len(made)


def test_a_dataset_of_other_classes_altogether_is_asked_after(place):
    asked = recorded(place, "finding", DatasetOptions(label_column="label"))
    classes = open_cache(place / "finding.zarr").manifest.classes
    with pytest.raises(DataError, match=r"'0', '1', and none of those of the cache, .*: is it the dataset that the"):
        open_dataset(place / "labels.csv", asked, classes)


def test_what_has_no_columns_gets_none(place):
    assert recorded(place, "several", spec=place).label_columns == ()
    assert recorded(place, "finding", spec="scans.npz").label_column is None


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        (
            "usual",
            DatasetOptions(label_columns=("edema", "mass")),
            "--label-columns edema,mass names 0/1 columns, but the cache is multi-class, made from the column 'label'; "
            "leave --label-columns out, or name a column of classes with --label-column.",
        ),
        (
            "several",
            DatasetOptions(label_column="finding"),
            "--label-column finding names a column of classes, but the cache is multi-label, made from the columns "
            "'edema', 'mass', 'cyst'; leave --label-column out, or name 0/1 columns with --label-columns.",
        ),
    ],
)
def test_columns_of_the_other_task_are_refused(place, name, asked, said):
    with pytest.raises(CacheMismatch) as error:
        recorded(place, name, asked)
    assert str(error.value) == said


def test_a_cache_that_was_not_made_from_a_table_says_so(place):
    raw = dict(open_cache(place / "usual.zarr").manifest.raw)
    raw["dataset"] = raw["dataset"] | {"label_columns": []}
    manifest = parse_manifest(canonical_json(raw))
    with pytest.raises(CacheMismatch, match="multi-class, not made from a table;"):
        recorded_options(DatasetOptions(label_columns=("a",)), manifest, "labels.csv")
    raw["dataset"] = raw["dataset"] | {"label_columns": 7}
    with pytest.raises(CacheCorrupt, match=r"'dataset.label_columns' should be a list of names"):
        parse_manifest(canonical_json(raw))


@pytest.mark.parametrize(
    ("name", "dataset", "words", "said"),
    [
        ("finding", "labels.csv", ("--label-columns", "edema,mass"), "the cache is multi-class, made from the column"),
        ("several", "labels.csv", ("--label-column", "finding"), "the cache is multi-label, made from the columns"),
        ("several", "x.npz", ("--label-columns", "edema,mass"), "is an .npz file and has no columns"),
    ],
)
def test_stage_two_says_so(place, medal, tmp_path, name, dataset, words, said):
    with pytest.raises((CacheMismatch, DataError), match=said):
        medal("train-student", place / f"{name}.zarr", place / dataset, "--out", tmp_path / "run", *words)
    assert list(tmp_path.iterdir()) == []
