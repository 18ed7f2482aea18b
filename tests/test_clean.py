"""`medal clean`: what really killed processes leave is found and removed, and nothing else is."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clean_cases import (
    BOTH,
    DAY,
    HOLD,
    KINDS,
    REPLACE,
    STAGE_ONE,
    STAGE_TWO,
    age,
    kill_while,
    living,
    names,
    say,
    snapshot,
)

from medal.cache.making.leftovers import Leftover, action_for, find_leftovers, take_away
from medal.cache.making.lock import STALE_SECONDS, lock_path
from medal.student.run.folder import RUN_KIND

# ── Work ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a_killed_stage_one(suffix, small_npz, steady_request, medal, tmp_path):
    out = tmp_path / f"chest{suffix}"
    work = out.with_name(out.name + ".work")
    words = map(str, ("cache-teacher", small_npz, out, *steady_request))
    process = subprocess.Popen([sys.executable, "-m", "medal", *words], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(work.glob("*-*.npy")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    # Held, and for as long as this test likes: a process that sleeps is alive.
    os.kill(process.pid, signal.SIGSTOP)
    before = snapshot(work)
    held = medal("clean", tmp_path, "--remove")
    assert names(held) == {work.name: "work directory"}
    assert held["found"][0]["held_by"].startswith(f"process {process.pid} on '")
    assert ", since 20" in held["found"][0]["held_by"]
    assert (held["removed"], held["freed"]) == ([], 0)
    assert snapshot(work) == before
    process.kill()
    process.wait()
    found = medal("clean", tmp_path)
    assert names(found) == {work.name: "work directory", f".{out.name}.lock": "dead lock"}
    listed = next(one for one in found["found"] if one["kind"] == "work directory")
    assert listed["path"] == str(work)
    assert listed["target"] == str(out)
    assert listed["chunks"] == len(list(work.glob("train-*.npy")))
    assert 128 <= listed["images"] <= 300
    assert listed["bytes"] == sum(file.stat().st_size for file in work.iterdir())
    assert 0 <= listed["age_seconds"] < 120
    assert listed["held_by"] is None
    assert snapshot(work) == before
    gone = medal("clean", tmp_path, "--remove")
    assert set(gone["removed"]) == {str(work), str(tmp_path / f".{out.name}.lock")}
    assert gone["freed"] == sum(one["bytes"] for one in found["found"])
    assert list(tmp_path.iterdir()) == []


def test_a_killed_stage_two(small_cache, small_npz, medal, tmp_path):
    run, work = tmp_path / "run", tmp_path / "run.unfinished"
    quick = ("--student", "resnet10t", "--image-size", 32, "--epochs", 2, "--precision", "fp32")
    words = [str(word) for word in ("train-student", small_cache, small_npz, "--out", run, *quick)]
    process = subprocess.Popen([sys.executable, "-m", "medal", *words], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (work / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGSTOP)
    held = medal("clean", tmp_path, "--remove")
    assert names(held) == {"run.unfinished": "unfinished run"}
    assert held["found"][0]["held_by"].startswith(f"process {process.pid} on '")
    assert held["removed"] == []
    process.kill()
    process.wait()
    found = medal("clean", tmp_path)
    assert names(found) == {"run.unfinished": "unfinished run", ".run.lock": "dead lock"}
    assert medal(*words)["action"] == "resume"
    # A run as training leaves it is nothing but parts of one, so its former state can be told from anything else.
    assert RUN_KIND.is_part(run)
    assert medal("clean", tmp_path, "--remove")["found"] == []
    before = snapshot(run)
    kill_while(REPLACE, run, tmp_path / "draft")
    assert medal("clean", tmp_path, "--remove")["put_back"] == [str(run)]
    assert snapshot(run) == before


@pytest.mark.parametrize(("script", "name"), [(STAGE_ONE, "x.zarr"), (STAGE_ONE, "x.h5"), (STAGE_TWO, "x")])
def test_a_living_holder_keeps_its_work(script, name, medal, tmp_path):
    target = tmp_path / name
    with living(script, target) as process:
        before = snapshot(tmp_path)
        held = medal("clean", tmp_path, "--remove")
        text = say(tmp_path, "--remove")
        assert snapshot(tmp_path) == before
        assert [one["action"] for one in held["found"]] == ["leave"]
        assert f"in use by process {process.pid} on '" in text
        assert ", since 20" in text
    assert len(medal("clean", tmp_path, "--remove")["removed"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_holder_elsewhere_is_judged_by_its_heartbeat(medal, tmp_path):
    kill_while(STAGE_ONE, tmp_path / "x.zarr")
    lock = lock_path(tmp_path / "x.zarr")
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "host": "far", "machine": "far 1", "process": 7}))
    held = medal("clean", tmp_path, "--remove")
    assert [one["held_by"].partition(",")[0] for one in held["found"]] == ["process 7 on 'far'"]
    assert held["removed"] == []
    old = time.time() - STALE_SECONDS - 5
    os.utime(lock, (old, old))
    assert len(medal("clean", tmp_path, "--remove")["removed"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_not_medals_is_respected(medal, tmp_path):
    kill_while(STAGE_ONE, tmp_path / "x.zarr")
    lock = lock_path(tmp_path / "x.zarr")
    lock.write_text("4711\n")
    age(lock, 30)
    held = medal("clean", tmp_path, "--remove")
    assert "which is not a medal lock" in held["found"][0]["held_by"]
    assert held["removed"] == []
    assert lock.read_text() == "4711\n"


def test_an_old_lock_without_a_name_is_nobodys(medal, tmp_path):
    kill_while(STAGE_ONE, tmp_path / "x.zarr")
    lock = lock_path(tmp_path / "x.zarr")
    lock.write_text("")
    assert "has not written its name" in medal("clean", tmp_path, "--remove")["found"][0]["held_by"]
    age(lock, 1)
    assert medal("clean", tmp_path, "--remove")["removed"] == [str(tmp_path / "x.zarr.work")]
    assert list(tmp_path.iterdir()) == []


def test_whatever_changed_since_the_listing_is_looked_at_again(tmp_path):
    for name in ("taken.zarr", "strange.zarr", "young.zarr", "foreign.zarr"):
        kill_while(STAGE_ONE, tmp_path / name)
        age(tmp_path / f"{name}.work", 3)
    said = []
    found = [one for one in find_leftovers([tmp_path], KINDS, tell=said.append) if one.kind == "work directory"]
    assert len(found) == 4
    (tmp_path / "strange.zarr.work/notes.txt").write_text("mine")
    age(tmp_path / "strange.zarr.work", 3)
    os.utime(tmp_path / "young.zarr.work/work.json")
    lock_path(tmp_path / "foreign.zarr").write_text("4711\n")
    age(lock_path(tmp_path / "foreign.zarr"), 1)
    with living(STAGE_ONE, tmp_path / "taken.zarr"):
        outcome = take_away(found, KINDS, older_than=DAY, tell=said.append)
        assert (outcome.removed, outcome.freed, outcome.failed) == ([], 0, 0)
        assert all(one.path.exists() for one in found)
    assert len(said) == 4


# ── Locks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_claims_and_clocks_of_the_dead(medal, tmp_path):
    kill_while(STAGE_ONE, tmp_path / "x.zarr")
    shutil.rmtree(tmp_path / "x.zarr.work")
    lock = lock_path(tmp_path / "x.zarr")
    dead = json.loads(lock.read_text())
    claims = [lock.with_name(f"{lock.name}.after-{token}") for token in (dead["token"], "1" * 16, "2" * 16)]
    for number, claim in enumerate(claims):
        claim.write_text(json.dumps({**dead, "token": str(number + 1) * 16}))
    old = lock.with_name(f"{lock.name}.clock-0123abcd")
    old.touch()
    age(old, 1)
    (fresh := lock.with_name(f"{lock.name}.clock-4567abcd")).touch()
    found = medal("clean", tmp_path)
    assert {one["path"] for one in found["found"]} == {str(path) for path in (lock, *claims, old)}
    assert {one["kind"] for one in found["found"]} == {"dead lock"}
    assert sorted(medal("clean", tmp_path, "--remove")["removed"]) == sorted(map(str, (lock, *claims, old)))
    assert list(tmp_path.iterdir()) == [fresh]


def test_a_living_lock_is_no_leftover(medal, tmp_path):
    with living(HOLD, tmp_path / "x"):
        assert medal("clean", tmp_path, "--remove")["found"] == []
        assert lock_path(tmp_path / "x").exists()


# ── The command ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_written_for_people(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert say() == "Nothing was left behind in '.'.\n"
    kill_while(STAGE_ONE, tmp_path / "x.zarr")
    kill_while(STAGE_TWO, tmp_path / "runs of May/y")
    listed = say()
    assert "'x.zarr.work': work directory of 'x.zarr', 128 images in 2 chunks, " in listed
    assert "'runs of May/y.unfinished': unfinished run of 'runs of May/y', 2 files, " in listed
    assert listed.splitlines()[-1] == "To remove it: medal clean --remove ."
    assert say("runs of May").splitlines()[-1] == "To remove it: medal clean --remove 'runs of May'"
    assert len(list(tmp_path.iterdir())) == 3
    removed = say("--remove")
    assert removed.splitlines()[-1].startswith("Removed 4, ")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs of May"]
    assert removed.splitlines()[0].startswith("removed '.x.zarr.lock': dead lock of 'x.zarr', 1 file, ")
    assert say("--remove") == "Nothing was left behind in '.'.\n"


def test_only_what_is_older(medal, tmp_path):
    for name, days in {"old.zarr": 8, "mixed.zarr": 8, "new.zarr": 0}.items():
        kill_while(STAGE_ONE, tmp_path / name)
        age(tmp_path / f"{name}.work", days)
    os.utime(tmp_path / "mixed.zarr.work/work.json")
    found = medal("clean", tmp_path, "--older-than", 7.5)
    assert names(found) == {"old.zarr.work": "work directory"}
    assert found["found"][0]["age_seconds"] == pytest.approx(8 * DAY, abs=60)
    assert say(tmp_path, "--older-than", 7.5).splitlines()[-1].startswith("To remove it: medal clean --remove --older")
    assert say(tmp_path, "--older-than", 9).startswith("Nothing older than 9 days was left behind in")
    assert medal("clean", tmp_path, "--older-than", 7.5, "--remove")["removed"] == [str(tmp_path / "old.zarr.work")]
    assert (tmp_path / "mixed.zarr.work").exists()
    assert (tmp_path / "new.zarr.work").exists()


def test_several_folders_and_none_twice(medal, tmp_path):
    for folder in ("a", "a/b", "c"):
        kill_while(STAGE_ONE, tmp_path / folder / "x.zarr")
    found = medal("clean", tmp_path / "a", tmp_path / "a/b", tmp_path / "a/../a")
    assert len(found["found"]) == 4
    work = tmp_path / "c/x.zarr.work"
    assert len(medal("clean", work, tmp_path / "c/../c/x.zarr.work")["found"]) == 1
    assert len(medal("clean", work, tmp_path / "c")["found"]) == 2
    with pytest.raises(Exception, match="does not exist"):
        medal("clean", tmp_path / "nowhere")


def test_nothing_heavy_is_imported(tmp_path):
    kill_while(STAGE_ONE, tmp_path / "x.zarr")
    code = (
        "import sys\nfrom medal.cli import group\n"
        "group.main(['clean', sys.argv[1], '--remove'], prog_name='medal', standalone_mode=False)\n"
        "assert not {'torch', 'timm', 'zarr', 'h5py'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("state", "held_by", "action"),
    [
        ("abandoned", None, "remove"),
        ("only copy", None, "put back"),
        ("perhaps the only copy", None, "leave"),
        ("mixed", None, "leave"),
        ("abandoned", "process 1 on 'far', since then", "leave"),
        ("only copy", "process 1 on 'far', since then", "leave"),
    ],
)
def test_what_is_done_about_a_leftover(state, held_by, action):
    leftover = Leftover(
        path=Path("p"), target=Path("t"), kind="draft", state=state, bytes=1, age_seconds=0.0, holds={}, held_by=held_by
    )
    assert action_for(leftover) == action
