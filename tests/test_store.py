"""Stores on a POSIX folder: push, pull, list, remove, gc, by two members of a lab with homes of their own."""

import json
import os
import shutil
from pathlib import Path

import pytest
from store_cases import make_cache, member, quiet, whole

from medal.cache.errors import CacheCorrupt, CacheError, CacheMismatch, CacheNotFound
from medal.cache.store.collect import collect
from medal.cache.store.fetch import pull
from medal.cache.store.place.files import Folder
from medal.cache.store.place.store import Store, open_store
from medal.cache.store.publish import push


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def data(store):
    return [name for name in files(store) if name.startswith("sets/")]


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
    assert medal("remove", cache.cache_id, store, "--now")["entries"] == 2
    assert data(store) == []


def test_removed_is_gone(store, tmp_path, medal):
    make_cache(tmp_path / "more.zarr", 1, name="more")
    medal("push", "--yes", tmp_path / "more.zarr", store)
    removed = medal("remove", "chest", store, "--now")
    assert (removed["freed"] > 0, removed["waiting"]) == (True, 0)
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
    teacher = medal("list", store)["caches"][0]["teacher"]
    said = shell("list", store, "--filter", f"teacher=hub/{teacher}")
    assert f"no cache has teacher=hub/{teacher}; near to it are teacher={teacher}" in said.stderr
    assert shell("list", store, "--filter", "colour=red").returncode == 2
    shown = shell("list", store).stdout.splitlines()
    assert shown[0].split() == ["id", "dataset", "task", "rows", "teacher", "auroc", "views", "MB", "by", "when"]
    assert len(shown) == 3


def test_near_names_are_named(store, tmp_path, medal):
    with pytest.raises(CacheNotFound, match=r"has no cache 'chets' \(did you mean 'chest'\?\); see what it has"):
        medal("pull", "chets", store, tmp_path / "x.zarr")


def test_a_name_of_several_caches_is_refused(store, tmp_path, medal):
    make_cache(tmp_path / "again.zarr", 1)
    medal("push", "--yes", tmp_path / "again.zarr", store)
    with pytest.raises(CacheError, match=r"'chest' fits 2 caches .* Give the id of one"):
        medal("pull", "chest", store)


def test_what_is_at_the_target_is_not_replaced_unasked(store, cache, tmp_path, medal):
    other = make_cache(tmp_path / "other.zarr", 1)
    with pytest.raises(CacheMismatch, match=r"is another cache; .* --overwrite"):
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
    with pytest.raises(CacheError, match=r"holds other files \('notes.txt'\) and is not a store"):
        medal("push", "--yes", cache.path, tmp_path / "mine")
    for words in (("list",), ("gc",), ("remove", "chest"), ("pull", "chest")):
        with pytest.raises(CacheNotFound, match=r"There is no store at .* medal push CACHE"):
            medal(words[0], *words[1:], tmp_path / "mine")
    assert files(tmp_path / "mine") == ["notes.txt"]


def test_addresses_that_cannot_work_say_so(medal):
    with pytest.raises(CacheError, match=r"unknown protocol 'ftps'"):
        medal("list", "ftps://lab/caches")


def age_by(days, *places):
    """Make files look as if they had been written so long ago."""
    for place in places:
        for path in place.rglob("*"):
            then = path.stat().st_mtime - days * 86400
            os.utime(path, (then, then))


def test_gc_takes_what_a_killed_push_left_weeks_ago_and_nothing_else(store, tmp_path, medal):
    orphan = store / "sets" / f"{'0' * 64}.{'1' * 16}"
    orphan.mkdir()
    (orphan / f"{'2' * 64}.part").write_bytes(b"half")
    (orphan / "@eaDir").mkdir()  # a file server's own
    (store / "entries/.x.json.1.draft").write_bytes(b"half")
    for days, removed in ((0, 0), (13.9, 0), (0.2, 1), (0, 0)):
        age_by(days, store / "sets", store / "entries", store / "unlisted")
        assert medal("gc", store)["removed"] == removed
    assert not (orphan / f"{'2' * 64}.part").exists()
    assert [path.name for path in (store / "entries").iterdir() if path.name.startswith(".")] == []
    medal("pull", "chest", store, tmp_path / "x.zarr")


def test_what_was_removed_stays_for_its_readers_for_two_weeks(store, medal):
    removed = medal("remove", "chest", store)
    assert (removed["freed"], removed["waiting"]) == (0, 1)
    age_by(100, store / "sets")  # pushed long ago, removed just now
    assert (medal("gc", store)["waiting"], len(data(store))) == (1, 3)
    assert medal("gc", store, "--older-than", 1)["waiting"] == 1
    age_by(13, store / "unlisted")
    assert medal("gc", store)["waiting"] == 1
    assert medal("gc", store, "--older-than", 12)["removed"] == 1
    assert data(store) == []


@pytest.mark.parametrize("words", [("gc",), ("gc", "--older-than", 0)])
def test_a_withdrawn_consent_takes_the_data_at_once(words, store, medal):
    medal("remove", "chest", store)
    done = medal(words[0], store, *(words[1:] or ("--now",)))
    assert (done["removed"], done["waiting"], data(store)) == (1, 0, [])


def test_what_was_removed_can_be_pushed_again(store, cache, tmp_path, medal):
    for now in ((), ("--now",), ()):
        medal("remove", "chest", store, *now)
        assert medal("push", "--yes", cache.path, store)["action"] == "pushed"
    assert medal("gc", store, "--now")["removed"] == 2
    assert whole(Path(medal("pull", "chest", store, tmp_path / "x.zarr")["cache"])).seal == cache.seal


class Interrupted(Folder):
    """A store's folder in which something happens right before a name is written, once."""

    def __init__(self, root, before, action):
        super().__init__(root)
        self._before, self._action, self.happened = before, action, False

    def write(self, name, data):
        if name.startswith(self._before) and not self.happened:
            self.happened = True
            self._action()
        super().write(name, data)


@pytest.mark.parametrize("before", ["sets/", "entries/", "index"])
def test_a_push_begins_anew_if_its_set_goes_from_under_it(before, cache, tmp_path):
    root = tmp_path / "store"
    open_store(str(root)).begin()
    files = Interrupted(root, before, lambda: collect(open_store(str(root)), days=0))
    pushed = push(Store(str(root), files), cache, quiet)
    assert files.happened
    assert pull(open_store(str(root)), pushed.entry, tmp_path / "got.zarr", quiet).cache.seal == cache.seal


def test_a_collector_gives_way_to_a_push_that_is_done_meanwhile(cache, tmp_path):
    root = tmp_path / "store"
    opened = open_store(str(root))
    entry = push(opened, cache, quiet).entry
    kept = (root / "entries" / entry.name).read_bytes()
    (root / "entries" / entry.name).unlink()
    # Between the collector's two looks at the entries, whoever pushes writes theirs.
    files = Interrupted(root, "unlisted/" + entry.set, lambda: (root / "entries" / entry.name).write_bytes(kept))
    assert collect(Store(str(root), files), days=0).sets == ()
    assert files.happened
    pull(opened, entry, tmp_path / "got.zarr", quiet)


def test_gc_forgets_what_went_long_ago(store, medal):
    medal("remove", "chest", store, "--now")
    assert len(list((store / "unlisted").iterdir())) == 1
    age_by(61, store / "unlisted")
    medal("gc", store)
    assert list((store / "unlisted").iterdir()) == []


def test_a_push_mends_what_lost_its_data(store, cache, tmp_path, medal):
    (folder,) = (store / "sets").iterdir()
    shutil.rmtree(folder)
    with pytest.raises(CacheCorrupt, match=r"lacks parts of cache .* push it again"):
        medal("pull", "chest", store, tmp_path / "x.zarr")
    assert medal("push", "--yes", cache.path, store)["action"] == "pushed"
    medal("pull", "chest", store, tmp_path / "x.zarr")
