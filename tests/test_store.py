"""Stores on a POSIX folder: push, pull, list, remove, gc, by two members of a lab with homes of their own."""

import json
import shutil

import pytest
from store_cases import make_cache, member, whole

from medal.cache.errors import CacheCorrupt, CacheError, CacheMismatch, CacheNotFound


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def cache(tmp_path):
    return make_cache(tmp_path / "chest.zarr")


@pytest.fixture
def store(tmp_path, cache, medal):
    folder = tmp_path / "store"
    assert medal("push", "--yes", cache.path, folder)["action"] == "pushed"
    return folder


@pytest.mark.parametrize("out", ["got.zarr", "got.h5"])
def test_two_members_share_a_cache(out, tmp_path, cache, shell):
    store, ana, ben = tmp_path / "store", member(tmp_path / "ana"), member(tmp_path / "ben")
    pushed = shell("push", "--yes", cache.path, store, "--as", "Ana", "--json", env=ana)
    assert pushed.returncode == 0, pushed.stderr
    listed = json.loads(shell("list", store, "--json", env=ben).stdout)["caches"]
    assert [(one["dataset"], one["by"], one["served"]) for one in listed] == [("chest", "Ana", True)]
    pulled = shell("pull", "chest", store, tmp_path / out, "--json", env=ben)
    assert pulled.returncode == 0, pulled.stderr
    assert json.loads(pulled.stdout)["action"] == "pulled"
    got = whole(tmp_path / out)
    assert (got.cache_id, got.seal) == (cache.cache_id, cache.seal)
    assert json.loads(shell("pull", "chest", store, tmp_path / out, "--json", env=ben).stdout)["action"] == "reuse"
    assert {path.name for path in tmp_path.iterdir()} == {"ana", "ben", "chest.zarr", "store", out}


def test_the_same_again_is_a_no_op(store, cache, medal):
    before = files(store)
    again = medal("push", "--yes", cache.path, store)
    assert (again["action"], again["sent"]) == ("there", 0)
    assert files(store) == before


def test_other_content_is_kept_beside_and_the_first_is_served(store, cache, tmp_path, medal, shell):
    other = make_cache(tmp_path / "other.zarr", rounding=0.25)
    assert other.cache_id == cache.cache_id
    assert medal("push", "--yes", other.path, store)["served"] is False
    listed = medal("list", store)["caches"]
    assert [(one["content_digest"], one["served"]) for one in listed] == [
        (cache.content_digest, True),
        (other.content_digest, False),
    ]
    assert medal("pull", cache.cache_id[:8], store, tmp_path / "a.zarr")["content_digest"] == cache.content_digest
    assert medal("pull", other.content_digest[:8], store, tmp_path / "b.h5")["content_digest"] == other.content_digest
    assert "* the same request" in shell("list", store).stderr
    assert medal("remove", cache.cache_id, store)["entries"] == 2
    assert files(store) == ["index.jsonl", "medal-store.json"]


def test_removed_is_gone(store, tmp_path, medal):
    make_cache(tmp_path / "more.zarr", 1, name="more")
    medal("push", "--yes", tmp_path / "more.zarr", store)
    removed = medal("remove", "chest", store)
    assert removed["freed"] > 0
    assert [one["dataset"] for one in medal("list", store)["caches"]] == ["more"]
    with pytest.raises(CacheNotFound, match=r"has no cache 'chest'; see what it has: medal list"):
        medal("pull", "chest", store, tmp_path / "x.zarr")
    medal("pull", "more", store, tmp_path / "x.zarr")
    assert len(list(tmp_path.glob("store/sets/*"))) == 1


def test_lists_are_filtered_and_say_what_can_be_asked(store, tmp_path, medal, shell):
    make_cache(tmp_path / "more.zarr", 1, name="more")
    medal("push", "--yes", tmp_path / "more.zarr", store)
    assert [one["dataset"] for one in medal("list", store, "--filter", "dataset=more")["caches"]] == ["more"]
    assert medal("list", store, "--filter", "task=multilabel")["caches"] == []
    assert shell("list", store, "--filter", "colour=red").returncode == 2
    shown = shell("list", store).stdout.splitlines()
    assert shown[0].split() == ["id", "dataset", "task", "rows", "teacher", "auroc", "views", "MB", "by", "when"]
    assert len(shown) == 3


def test_a_name_of_several_caches_is_refused(store, tmp_path, medal):
    make_cache(tmp_path / "again.zarr", 1)
    medal("push", "--yes", tmp_path / "again.zarr", store)
    with pytest.raises(CacheError, match=r"'chest' may be any of 2 caches .* Say which one by its id"):
        medal("pull", "chest", store)


def test_what_is_at_the_target_is_not_replaced_unasked(store, cache, tmp_path, medal):
    other = make_cache(tmp_path / "other.zarr", 1)
    with pytest.raises(CacheMismatch, match=r"is there already and is another cache; .* --overwrite"):
        medal("pull", "chest", store, other.path)
    whole(other.path)
    medal("pull", "chest", store, other.path, "--overwrite")
    assert whole(other.path).seal == cache.seal


def test_a_damaged_cache_is_not_pushed(cache, tmp_path, medal):
    chunk = next(path for path in (cache.path / "train/logits/c").rglob("*") if path.is_file())
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    with pytest.raises(CacheCorrupt, match=r"is damaged and was not pushed"):
        medal("push", "--yes", cache.path, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_folder_of_other_things_is_no_store(cache, tmp_path, medal):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(CacheError, match=r"holds other things \('notes.txt'\) and no store"):
        medal("push", "--yes", cache.path, tmp_path / "mine")
    for words in (("list",), ("gc",), ("remove", "chest"), ("pull", "chest")):
        with pytest.raises(CacheNotFound, match=r"There is no store at .* medal push CACHE"):
            medal(words[0], *words[1:], tmp_path / "mine")
    assert files(tmp_path / "mine") == ["notes.txt"]


def test_addresses_that_cannot_work_say_so(medal):
    with pytest.raises(CacheError, match=r"unknown protocol 'ftps'"):
        medal("list", "ftps://lab/caches")


def test_gc_takes_what_a_killed_push_left_and_nothing_else(store, tmp_path, medal):
    orphan = store / "sets" / f"{'0' * 64}.{'1' * 16}"
    orphan.mkdir()
    (orphan / f"{'2' * 64}.part").write_bytes(b"half")
    assert medal("gc", store)["removed"] == 1
    assert not orphan.exists()
    assert medal("gc", store)["removed"] == 0
    medal("pull", "chest", store, tmp_path / "x.zarr")


def test_gc_spares_what_somebody_reads(store, medal):
    from medal.cache.store.leases import Lease
    from medal.cache.store.place.store import open_store

    (name,) = [path.name for path in (store / "sets").iterdir()]
    with Lease(open_store(str(store)), name):
        assert medal("remove", "chest", store)["waiting"] == 1
        assert medal("gc", store)["waiting"] == 1
    assert medal("gc", store)["removed"] == 1
    assert files(store) == ["index.jsonl", "medal-store.json"]


def test_a_push_mends_what_lost_its_data(store, cache, tmp_path, medal):
    (folder,) = (store / "sets").iterdir()
    shutil.rmtree(folder)
    with pytest.raises(CacheCorrupt, match=r"lacks parts of cache .* push it again"):
        medal("pull", "chest", store, tmp_path / "x.zarr")
    assert medal("push", "--yes", cache.path, store)["action"] == "pushed"
    medal("pull", "chest", store, tmp_path / "x.zarr")
