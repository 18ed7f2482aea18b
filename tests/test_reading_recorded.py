"""How a dataset was read is written into its cache and its runs, so that nobody has to say it again."""

import json

import pytest
from layout_cases import save, write_table

from medal.cache.errors import CacheMismatch
from medal.cache.format.digest import canonical_json
from medal.cache.format.manifest import parse_manifest
from medal.cache.reader import open_cache
from medal.pipeline.datasets import DatasetOptions
from medal.pipeline.datasets.recorded import recorded_options
from medal.pipeline.teacher.demo import tiny_teacher

SHORT = ("--student", "test_resnet", "--epochs", 1, "--image-size", 32)


@pytest.fixture(scope="module")
def made(tmp_path_factory, medal):
    """A set as NIH publishes it, and its cache from a tiny teacher."""
    folder = tmp_path_factory.mktemp("reading")
    rows = []
    for index in range(36):
        save(folder / f"images/part{index % 3}/{index:03d}.png", "x", index)
        rows.append(
            [f"{index:03d}", ("clear", "edema", "edema|mass", "mass")[index % 4], ("train", "val", "test")[index % 3]]
        )
    table = write_table(folder / "entries.csv", "Image Index,Finding Labels,split", rows)
    words = ("--file-column", "Image Index", "--label-column", "Finding Labels", "--label-separator", "|")
    where = ("--images", folder / "images")
    cache = folder / "set.zarr"
    medal(
        "cache-teacher",
        table,
        cache,
        "--teacher",
        tiny_teacher(folder),
        "--image-size",
        28,
        "--folds",
        2,
        *words,
        *where,
    )
    return table, cache, where


def test_the_cache_says_how_it_was_read(made):
    _, cache, _ = made
    dataset = open_cache(cache).manifest.dataset
    assert dataset["reading"] == {"file_column": "Image Index", "label_separator": "|"}
    assert dataset["label_columns"] == ["Finding Labels"]


def test_stage_two_and_what_follows_need_only_the_paths(made, medal, tmp_path):
    table, cache, where = made
    shown = medal("show", cache, table, *where)
    assert shown["fit"]["fits"]
    medal("train-student", cache, table, "--out", tmp_path / "run", *SHORT, *where)
    request = json.loads((tmp_path / "run/run.json").read_text())["request"]
    assert request["reading"]["label_columns"] == ["Finding Labels"]
    assert medal("evaluate", tmp_path / "run", table, *where)["images"] == 12


def test_what_a_cache_records_is_looked_at(made):
    table, cache, _ = made
    raw = dict(open_cache(cache).manifest.raw)
    for wrong in ({"label_separator": 7}, {"repeated": "both"}, {"rename_classes": [["a"]]}, {"one_hot": "yes"}):
        raw["dataset"] = raw["dataset"] | {"reading": wrong}
        with pytest.raises(
            CacheMismatch, match=r"The cache records .* which is no value of it; give the option yourself"
        ):
            recorded_options(DatasetOptions(), parse_manifest(canonical_json(raw)), str(table))
    raw["dataset"] = raw["dataset"] | {"reading": {"of the future": 7}}
    assert recorded_options(DatasetOptions(), parse_manifest(canonical_json(raw)), str(table)).label_separator is None
