"""`medal clean` and copies: drafts go, and what may be the only copy is put back or left."""

from pathlib import Path

import pytest
from clean_cases import (
    BOTH,
    GOLDEN,
    HOLD,
    PULL,
    REPLACE,
    SEAL,
    age,
    finished_run,
    golden_copy,
    kill_while,
    living,
    names,
    say,
    snapshot,
)
from store_cases import make_cache

from medal.cache.reader import open_cache

# ── Drafts, and what was being replaced ──────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("moment", ["first array", "in between", "last array", "sealed"])
def test_a_draft_of_a_killed_sealing(suffix, moment, medal, tmp_path):
    before = snapshot(golden_copy(tmp_path / f"x{suffix}").parent)
    if moment == "sealed":
        golden_copy(tmp_path / f".x.medal-sealing{suffix}")
        kill_while(HOLD, tmp_path / f"x{suffix}")
    else:
        # Each of the 29 arrays is read for its digest, then to be written.
        read = {"first array": 30, "in between": 44, "last array": 58}[moment]
        kill_while(SEAL, tmp_path / f"x{suffix}", GOLDEN / "format1.zarr", read)
    found = medal("clean", tmp_path)
    assert names(found) == {f".x.medal-sealing{suffix}": "draft", f".x{suffix}.lock": "dead lock"}
    assert {one["target"] for one in found["found"]} == {str(tmp_path / f"x{suffix}")}
    assert len(medal("clean", tmp_path, "--remove")["removed"]) == 2
    assert snapshot(tmp_path) == before


@BOTH
def test_a_killed_pull(suffix, medal, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    name = make_cache(tmp_path / "made.zarr").cache_id
    medal("push", "--yes", tmp_path / "made.zarr", tmp_path / "store")
    here = tmp_path / "here"
    here.mkdir()
    kill_while(PULL, here / f"x{suffix}", tmp_path / "store", name)
    found = medal("clean", here)
    assert names(found) == {f".x.medal-pulling{suffix}": "unfinished pull", f".x{suffix}.lock": "dead lock"}
    assert {one["target"] for one in found["found"]} == {str(here / f"x{suffix}")}
    assert len(medal("clean", here, "--remove")["removed"]) == 2
    assert list(here.iterdir()) == []
    # Nothing of the store is anybody's leftover.
    assert medal("clean", tmp_path / "store")["found"] == []
    medal("pull", name, tmp_path / "store", here / f"x{suffix}")


@pytest.mark.parametrize("name", ["x.zarr", "x", "x.v2"])
def test_the_only_copy_is_put_back_and_never_removed(name, medal, tmp_path):
    target = tmp_path / name
    make = golden_copy if target.suffix == ".zarr" else finished_run
    make(target)
    make(draft := tmp_path / f".x.medal-sealing{target.suffix}")
    before = snapshot(target)
    kill_while(REPLACE, target, draft)
    old = tmp_path / f".x.medal-replaced{target.suffix}"
    assert old.exists()
    assert not target.exists()
    listed = {one["path"]: one for one in medal("clean", tmp_path)["found"]}[str(old)]
    assert (listed["kind"], listed["action"]) == ("replaced copy", "put back")
    assert "so this is the only copy: it is put back, not removed" in say(tmp_path)
    assert old.exists()
    if name == "x.zarr":
        age(old, 2)
        assert medal("clean", tmp_path, "--older-than", 3, "--remove")["put_back"] == []
        age(draft, 4)
    done = medal("clean", tmp_path, "--remove")
    assert done["put_back"] == [str(target)]
    assert str(old) not in done["removed"]
    assert {path: content for path, (content, _) in snapshot(target).items()} == {
        path: content for path, (content, _) in before.items()
    }
    if name == "x.zarr":
        assert list(tmp_path.iterdir()) == [target]
        assert open_cache(target).content_digest == open_cache(GOLDEN / "format1.h5").content_digest


@pytest.mark.parametrize("name", ["x.zarr", "x"])
def test_a_superseded_copy_is_removed(name, medal, tmp_path):
    target = tmp_path / name
    make = golden_copy if name == "x.zarr" else finished_run
    make(target)
    make(old := tmp_path / f".x.medal-replaced{target.suffix}")
    (old / ("seal.json" if name == "x.zarr" else "run.json")).unlink()  # its removal had begun
    before = snapshot(target)
    assert medal("clean", tmp_path, "--remove")["removed"] == [str(old)]
    assert snapshot(target) == before


@pytest.mark.parametrize("stands_there", ["folder", "dangling link", "damaged cache"])
def test_a_copy_that_may_be_the_only_one_is_left(stands_there, medal, tmp_path):
    target = tmp_path / "x.zarr"
    golden_copy(tmp_path / ".x.medal-replaced.zarr")
    if stands_there == "folder":
        target.mkdir()
    elif stands_there == "dangling link":
        target.symlink_to(tmp_path / "unmounted/x.zarr")
    else:
        (golden_copy(target) / "seal.json").unlink()
    before = snapshot(tmp_path)
    done = medal("clean", tmp_path, "--remove")
    assert [one["action"] for one in done["found"]] == ["leave"]
    assert (done["removed"], done["put_back"]) == ([], [])
    assert "left alone" in say(tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["x.zarr", "x.h5", "x"])
def test_a_living_holder_keeps_its_drafts(name, medal, tmp_path):
    target = tmp_path / name
    drafts = [tmp_path / f".x.medal-{what}{target.suffix}" for what in ("sealing", "pulling", "replaced")]
    with living(HOLD, target):
        for draft in drafts:
            draft.mkdir()
            (draft / "x.part").write_bytes(b"half")
            age(draft, 30)
        before = snapshot(tmp_path)
        held = medal("clean", tmp_path, "--remove")
        assert [one["action"] for one in held["found"]] == ["leave"] * 3
        assert all(one["held_by"].startswith("process ") for one in held["found"])
        assert snapshot(tmp_path) == before
    assert len(medal("clean", tmp_path, "--remove")["removed"]) == 3  # two drafts and the lock
    assert list(tmp_path.iterdir()) == [target]  # put back: there was nothing else
