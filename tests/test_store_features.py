"""Features out of a store: what its caches have of the images is taken over, and the rest computed."""

from dataclasses import replace

import numpy as np
import pytest
from store_cases import quiet, whole

from medal.cache.errors import CacheError
from medal.cache.making.work import WorkDirectory, work_path
from medal.cache.store.fetch import read_keys
from medal.cache.store.place.entries import find_entry
from medal.cache.store.place.store import open_store
from medal.pipeline.teacher.demo import tiny_teacher


@pytest.fixture(scope="module")
def lab(medal, small_npz, tmp_path_factory):
    """A tiny teacher, and a store with caches of some of the images: forty of each split, and other ones of train."""
    folder = tmp_path_factory.mktemp("lab")
    words = ("--teacher", tiny_teacher(folder), "--image-size", 56, "--batch-size", 64)
    with np.load(small_npz) as data:
        part = {name: array[-60:] if name.startswith("train") else array[-10:] for name, array in data.items()}
        np.savez(folder / "first.npz", **{name: array[:40] for name, array in data.items()})
    np.savez(folder / "last.npz", **part)
    for name in ("first", "last"):
        medal("cache-teacher", folder / f"{name}.npz", folder / f"{name}.zarr", *words)
        medal("push", "--yes", folder / f"{name}.zarr", folder / "store")
    return folder, words


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))


def taken(path):
    return {one["content_digest"] for one in whole(path).manifest.raw["taken_over"]}


def test_what_several_caches_have_is_taken_over_and_the_rest_computed(lab, small_npz, medal, tmp_path):
    folder, words = lab
    made = medal("cache-teacher", small_npz, tmp_path / "a.zarr", *words, "--store", folder / "store")
    sources = {whole(folder / f"{name}.zarr").content_digest for name in ("first", "last")}
    # 40 of each split, then the last 60 of train and 10 of val and of test.
    assert (made["action"], made["computed"]) == ("extend", 300 - 120 - 80)
    assert taken(tmp_path / "a.zarr") == sources
    alone = medal("cache-teacher", small_npz, tmp_path / "b.zarr", *words)
    assert alone["cache_id"] == made["cache_id"]


def test_beside_what_from_names(lab, small_npz, medal, tmp_path):
    folder, words = lab
    more = ("--from", folder / "first.zarr", "--store", folder / "store")
    made = medal("cache-teacher", small_npz, tmp_path / "a.zarr", *words, *more)
    assert made["computed"] == 100
    assert len(taken(tmp_path / "a.zarr")) == 2


def test_plain_keys_serve_who_asks_for_keyed_ones(lab, small_npz, medal, tmp_path):
    folder, words = lab
    (tmp_path / "lab.key").write_text("0123456789abcdef" * 4)
    more = ("--key-secret", tmp_path / "lab.key", "--store", folder / "store")
    assert medal("cache-teacher", small_npz, tmp_path / "a.zarr", *words, *more)["computed"] == 100


@pytest.mark.parametrize("other", [("--feature", "last4"), ("--image-size", 70), ("--resize", "pad")])
def test_features_of_another_kind_are_not(other, lab, small_npz, medal, tmp_path):
    folder, words = lab
    more = (*other, "--limit", 10, "--store", folder / "store")
    if other == ("--feature", "last4"):
        with pytest.raises(Exception, match="needs 4 blocks"):
            medal("cache-teacher", small_npz, tmp_path / "a.zarr", *words, *more)
        return
    made = medal("cache-teacher", small_npz, tmp_path / "a.zarr", *words, *more)
    assert (made["action"], made["computed"]) == ("create", 30)


def test_keys_are_read_without_the_features(lab, monkeypatch):
    folder, _ = lab
    from medal.cache.store import fetch, publish
    from medal.cache.store.place import files, layout, parts

    monkeypatch.setattr(layout, "PART_BYTES", 1 << 11)
    monkeypatch.setattr(fetch, "PART_BYTES", 1 << 11)
    monkeypatch.setattr(publish, "cut_parts", lambda arrays, cut=parts.cut_parts: cut(arrays, 1 << 11))
    store = open_store(str(folder / "in small parts"))
    cache = whole(folder / "first.zarr")
    publish.push(store, cache, quiet)
    read = []
    original = files.Folder.read
    monkeypatch.setattr(
        files.Folder, "read", lambda self, name, limit: read.append(name) or original(self, name, limit)
    )
    entry = find_entry(store, cache.cache_id)
    there = len(list((folder / "in small parts/sets").glob("*/*.part")))
    read.clear()
    keys = read_keys(store, entry)
    assert all(np.array_equal(keys[split], cache.read(split, "key")) for split in cache.splits)
    assert len([name for name in read if name.endswith(".part")]) <= 2 * len(keys) < there / 2


def test_a_resumed_run_takes_what_it_took_before(lab, small_npz, tmp_path):
    folder, words = lab
    from medal.pipeline.caching.sharing import StageOneStore
    from medal.pipeline.datasets import DatasetOptions
    from medal.pipeline.planning.plan import prepare
    from medal.pipeline.planning.request import CacheSettings

    settings = CacheSettings(teacher=str(words[1]), image_size=56, batch_size=64)
    asked = prepare(str(small_npz), str(tmp_path / "a.zarr"), DatasetOptions(), settings)
    lab_store = StageOneStore(store=open_store(str(folder / "store")), progress=quiet, most=10**9)
    digests = [whole(folder / f"{name}.zarr").content_digest for name in ("first", "last")]

    def found(asked):
        return [source.content_digest for source in lab_store.with_features(asked, lambda _: None).sources]

    assert sorted(found(asked)) == sorted(digests)
    for before in ([], digests[1:], digests[::-1]):
        WorkDirectory(work_path(asked.target)).begin({"cache_id": asked.cache_id, "taken_from": before})
        assert found(replace(asked, action="resume")) == before


def test_a_store_that_falls_away_meanwhile_is_done_without(lab, small_npz, medal, monkeypatch, capsys, tmp_path):
    folder, words = lab
    from medal.pipeline.caching import sharing

    def gone(_store, _entry):
        raise CacheError("Store 'x' could not be used (it went away).")

    monkeypatch.setattr(sharing, "read_keys", gone)
    made = medal("cache-teacher", small_npz, tmp_path / "a.zarr", *words, "--limit", 10, "--store", folder / "store")
    assert (made["action"], made["computed"]) == ("create", 30)
    assert "(it went away). Going on without it." in capsys.readouterr().err
