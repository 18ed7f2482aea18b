"""Stage one with a store: what one member computed, another has in seconds, under whatever names."""

import json
import os

import numpy as np
import pytest
from store_cases import make_cache, member, whole

from medal.cache.errors import CacheError


@pytest.fixture(scope="module")
def renamed(small_npz, tmp_path_factory):
    """The same images and labels in another order, under another name."""
    path = tmp_path_factory.mktemp("elsewhere") / "copy of scans.npz"
    random = np.random.default_rng(1)
    with np.load(small_npz) as original:
        part = {}
        for split in ("train", "val", "test"):
            order = random.permutation(len(original[f"{split}_labels"]))
            for kind in ("images", "labels"):
                part[f"{split}_{kind}"] = original[f"{split}_{kind}"][order]
    np.savez(path, **part)
    return path


@pytest.fixture(scope="module")
def store(small_cache, medal, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "caches"
    medal("push", "--yes", small_cache, folder, "--as", "Ana")
    return folder


def test_nobody_computes_twice(renamed, store, small_cache, small_request, shell, tmp_path):
    ben = member(tmp_path / "ben")
    out = tmp_path / "mine.h5"
    words = ("cache-teacher", renamed, out, *small_request, "--store", store, "--json")
    foreseen = json.loads(shell(*words, "--dry-run", env=ben).stdout.splitlines()[-1])
    assert (foreseen["action"], foreseen["seconds"]) == ("pulled", 0)
    done = shell(*words, env=ben)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    assert (made["action"], made["computed"], made["kept"], made["pushed"]) == ("pulled", 0, 300, None)
    assert made["content_digest"] == whole(small_cache).content_digest == whole(out).content_digest
    assert json.loads(shell(*words, env=ben).stdout.splitlines()[-1])["action"] == "reuse"
    assert {path.name for path in tmp_path.iterdir()} == {"ben", "mine.h5"}


def test_from_python_too(renamed, store, small_cache, teacher, tmp_path, monkeypatch):
    import medal

    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))
    lab, asked = medal.open_lab(store), {"teacher": str(teacher), "image_size": 56, "batch_size": 16}
    made = medal.cache_teacher(renamed, tmp_path / "mine.zarr", lab=lab, **asked)
    assert (made.action, made.computed) == ("pulled", 0)
    assert made.cache.content_digest == whole(small_cache).content_digest
    copy = lab.get(made.cache.cache_id[:8])
    assert copy.content_digest == made.cache.content_digest
    assert copy.path.parent == tmp_path / "home/copies"
    with pytest.raises(CacheError, match="has no cache 'nobody'"):
        lab.get("nobody")
    (tmp_path / "signers").write_text("")
    strict = medal.open_lab(store, signers=tmp_path / "signers")
    with pytest.raises(CacheError, match="signed"):
        medal.cache_teacher(renamed, tmp_path / "signed.zarr", lab=strict, **asked)
    assert not (tmp_path / "signed.zarr").exists()


def test_python_offers_what_it_computes(renamed, teacher, tmp_path, monkeypatch):
    import medal

    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))
    shown = []
    lab = medal.open_lab(tmp_path / "lab", push=True, by="Cleo", confirm=shown.append)
    asked = {"teacher": str(teacher), "image_size": 28, "limit": 8}
    made = medal.cache_teacher(renamed, tmp_path / "mine.zarr", lab=lab, **asked)
    assert (made.action, made.pushed.action) == ("create", "pushed")
    assert [one.cache_id for one in shown] == [made.cache.cache_id]
    assert medal.cache_teacher(renamed, tmp_path / "again.h5", lab=lab, **asked).action == "pulled"


def test_the_environment_names_the_store(renamed, store, small_request, medal, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDAL_STORE", str(store))
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))
    assert medal("cache-teacher", renamed, tmp_path / "a.zarr", *small_request)["action"] == "pulled"


def test_another_probe_takes_the_features_over_and_is_offered(
    renamed, store, small_cache, small_request, medal, tmp_path, monkeypatch
):
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))
    words = ("cache-teacher", renamed, tmp_path / "a.zarr", *small_request, "--folds", 3, "--store", store)
    made = medal(*words, "--push", "--yes", "--as", "Ben")
    assert (made["action"], made["computed"], made["pushed"]) == ("extend", 0, "pushed")
    taken = whole(tmp_path / "a.zarr").manifest.raw["taken_over"]
    assert [one["content_digest"] for one in taken] == [whole(small_cache).content_digest]
    assert {one["by"] for one in medal("list", store)["caches"]} == {"Ana", "Ben"}
    assert len(list((tmp_path / "home/copies").glob("*.zarr"))) == 1
    assert list((store / "computing").glob("*")) == []
    medal("remove", made["cache_id"], store)


def test_a_store_that_is_not_there_is_told_and_done_without(small_npz, small_cache, small_request, medal, capsys):
    made = medal("cache-teacher", small_npz, small_cache, *small_request, "--store", "/no/such/store")
    assert made["action"] == "reuse"
    assert "warning" not in capsys.readouterr().err


def test_push_needs_a_store(small_npz, shell, tmp_path, monkeypatch):
    monkeypatch.delenv("MEDAL_STORE", raising=False)
    done = shell("cache-teacher", small_npz, tmp_path / "a.zarr", "--push")
    assert (done.returncode, "--store URL" in done.stderr) == (2, True)


def test_sizes_are_read_as_they_are_written():
    from medal.cache.store.local_copies import parse_size

    assert [parse_size(text) for text in ("20GB", "500 M", "1.5k", "7")] == [20 * 10**9, 5 * 10**8, 1500, 7]
    with pytest.raises(CacheError, match="'much' is not a size"):
        parse_size("much")


def test_a_student_learns_straight_from_a_store(renamed, store, small_cache, medal, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))
    name = f"{store}#{whole(small_cache).cache_id[:10]}"
    assert medal("show", name)["content_digest"] == whole(small_cache).content_digest
    quick = ("--student", "test_resnet", "--epochs", 1, "--image-size", 32)
    assert medal("train-student", name, renamed, "--out", tmp_path / "run", *quick)["test"]["auroc"] > 0
    assert len(list((tmp_path / "home/copies").glob("*.zarr"))) == 1
    with pytest.raises(CacheError, match=r"has no cache 'nothing'"):
        medal("show", f"{store}#nothing")


def test_copies_used_longest_ago_make_room(tmp_path, medal, monkeypatch):
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))
    copies = tmp_path / "home/copies"
    for seed in range(3):
        cache = make_cache(tmp_path / f"{seed}.zarr", seed, name=f"set{seed}")
        medal("push", "--yes", cache.path, tmp_path / "store")
        medal("show", f"{tmp_path / 'store'}#set{seed}")
        for path in copies.iterdir():
            age = path.stat().st_mtime - 7200  # as if used two hours ago, and each two hours after the one before
            os.utime(path, (age, age))
    assert len(list(copies.glob("*.zarr"))) == 3
    medal("show", f"{tmp_path / 'store'}#set0", "--max-cache-size", "1k")
    (left,) = copies.glob("*.zarr")
    assert whole(left).seal == whole(tmp_path / "0.zarr").seal
