"""`medal clean`: what really killed processes leave is found and removed, and nothing else is."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_cases import make_cache

from medal.cache.leftovers import Leftover, decide, find_leftovers, take_away
from medal.cache.lock import STALE_SECONDS, lock_path
from medal.cache.reader import open_cache
from medal.cache.traces import CACHE
from medal.student.run import RUN_KIND

GOLDEN = Path(__file__).parent / "golden"
KINDS = (CACHE, RUN_KIND)
BOTH = pytest.mark.parametrize("suffix", [".zarr", ".h5"])
DAY = 86400

# What a killed process was doing: each script is followed by whatever kills it.
BEGIN = """
import os, signal, sys
from pathlib import Path
import numpy as np
target = Path(sys.argv[1])
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""
STAGE_ONE = """
from medal.cache.lock import locked
from medal.cache.work import WorkDirectory, work_path
with locked(target, wait=True, tell=print):
    work = WorkDirectory(work_path(target))
    work.begin({"cache_id": "a", "request": {}})
    for start in (0, 128):
        work.write_chunk("train", start, np.zeros(64, [("feature", "<f2", (1, 4))]))
"""
STAGE_TWO = """
from medal.student import run
with run.working(target, print) as work:
    run.write_json(work / run.PLAN, {"request": {"seed": 0}})
    (work / run.CHECKPOINT).write_bytes(b"weights")
"""
SEAL = """
from medal.cache.lock import locked
from medal.cache.reader import open_cache
from medal.cache.writer import write_cache
class Rows:
    def __init__(self, rows):
        self.rows, self.shape, self.dtype = rows, rows.shape, rows.dtype
    def __getitem__(self, part):
        seen.append(part)
        if len(seen) == int(sys.argv[3]):
            die()
        return self.rows[part]
seen = []
cache = open_cache(sys.argv[2])
with locked(target, wait=True, tell=print), cache.open_arrays() as arrays:
    write_cache(target, {name: Rows(rows) for name, rows in arrays.items()}, cache.manifest.raw)
"""
# Killed when all parts are there, but for the one that is being written.
PULL = """
from store_cases import quiet
from medal.cache.store import fetch
from medal.cache.store.entries import find_entry
from medal.cache.store.store import open_store
class Parts:
    def __init__(self, files, sizes, arrays):
        files[0].rename(files[0].with_name(f".{files[0].name}.part"))
        die()
fetch.PartFiles = Parts
store = open_store(sys.argv[2])
fetch.pull(store, find_entry(store, sys.argv[3]), target, quiet)
"""
REPLACE = """
from medal.cache.lock import locked
from medal.cache.writer import move_into_place
class Draft(type(Path())):
    def rename(self, target):
        die()
with locked(target, wait=True, tell=print):
    move_into_place(Draft(sys.argv[2]), target)
"""


HOLD = """
from medal.cache.lock import locked
with locked(target, wait=True, tell=print):
    sys.stdout.flush()
"""


def kill_while(script, target, *words):
    """Run a script in a process that kills itself, at the latest at the script's end but inside what it holds."""
    code = BEGIN + script + ("    die()\n" if script.rstrip().splitlines()[-1].startswith("    ") else "")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, (target, *words))], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@contextlib.contextmanager
def living(script, target):
    """A process that has done what the script says and still holds its lock."""
    code = BEGIN + script + "    print('here', flush=True)\n    sys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        while (line := process.stdout.readline()) != "here\n":
            assert "taking over" in line
        yield process
        process.kill()


@pytest.fixture
def say():
    """Run `medal clean` in this process and return what it printed for people; it must succeed."""

    def run(*words):
        from medal.cli import group

        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            group.main(["clean", *map(str, words)], prog_name="medal", standalone_mode=False)
        return out.getvalue()

    return run


def names(found):
    return {Path(one["path"]).name: one["kind"] for one in found["found"]}


def snapshot(folder):
    """Everything below a folder: kind, bytes and time of change."""
    return {
        path: (path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes(), path.lstat().st_mtime)
        for path in sorted(folder.rglob("*"))
    }


def golden_copy(target):
    source = GOLDEN / f"format1{target.suffix}"
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    return target


def finished_run(target):
    target.mkdir()
    for name in ("config.json", "metrics.json", "history.csv", "predictions.csv", "model.safetensors", "roc.png"):
        (target / name).write_text("x")
    (target / "run.json").write_text('{"format": 1, "request": {"seed": 0}}')
    return target


def age(path, days):
    """Make a file, or a folder and all in it, look old."""
    then = time.time() - days * DAY
    for item in [path, *path.rglob("*")]:
        os.utime(item, (then, then))


# ── Work ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a_killed_stage_one(suffix, small_npz, small_request, medal, tmp_path):
    out = tmp_path / f"chest{suffix}"
    work = out.with_name(out.name + ".work")
    words = map(str, ("cache-teacher", small_npz, out, *small_request))
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
def test_a_living_holder_keeps_its_work(script, name, medal, say, tmp_path):
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
    assert "is no lock of medal's" in held["found"][0]["held_by"]
    assert held["removed"] == []
    assert lock.read_text() == "4711\n"


def test_an_old_lock_without_a_name_is_nobodys(medal, tmp_path):
    kill_while(STAGE_ONE, tmp_path / "x.zarr")
    lock = lock_path(tmp_path / "x.zarr")
    lock.write_text("")
    assert "no name" in medal("clean", tmp_path, "--remove")["found"][0]["held_by"]
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


# ── Drafts, and what was being replaced ──────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("moment", ["first array", "in between", "last array", "sealed"])
def test_a_draft_of_a_killed_sealing(suffix, moment, medal, tmp_path):
    before = snapshot(golden_copy(tmp_path / f"x{suffix}").parent)
    if moment == "sealed":
        golden_copy(tmp_path / f".x.sealing{suffix}")
        kill_while(HOLD, tmp_path / f"x{suffix}")
    else:
        # Each of the 29 arrays is read for its digest, then to be written.
        read = {"first array": 30, "in between": 44, "last array": 58}[moment]
        kill_while(SEAL, tmp_path / f"x{suffix}", GOLDEN / "format1.zarr", read)
    found = medal("clean", tmp_path)
    assert names(found) == {f".x.sealing{suffix}": "draft", f".x{suffix}.lock": "dead lock"}
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
    assert names(found) == {f".x.pulling{suffix}": "unfinished pull", f".x{suffix}.lock": "dead lock"}
    assert {one["target"] for one in found["found"]} == {str(here / f"x{suffix}")}
    assert len(medal("clean", here, "--remove")["removed"]) == 2
    assert list(here.iterdir()) == []
    # Nothing of the store is anybody's leftover.
    assert medal("clean", tmp_path / "store")["found"] == []
    medal("pull", name, tmp_path / "store", here / f"x{suffix}")


@pytest.mark.parametrize("name", ["x.zarr", "x", "x.v2"])
def test_the_only_copy_is_put_back_and_never_removed(name, medal, say, tmp_path):
    target = tmp_path / name
    make = golden_copy if target.suffix == ".zarr" else finished_run
    make(target)
    make(draft := tmp_path / f".x.sealing{target.suffix}")
    before = snapshot(target)
    kill_while(REPLACE, target, draft)
    old = tmp_path / f".x.replaced{target.suffix}"
    assert old.exists()
    assert not target.exists()
    listed = {one["path"]: one for one in medal("clean", tmp_path)["found"]}[str(old)]
    assert (listed["kind"], listed["action"]) == ("replaced copy", "put back")
    assert "made it the only copy: put back, not removed" in say(tmp_path)
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
    make(old := tmp_path / f".x.replaced{target.suffix}")
    (old / ("seal.json" if name == "x.zarr" else "run.json")).unlink()  # its removal had begun
    before = snapshot(target)
    assert medal("clean", tmp_path, "--remove")["removed"] == [str(old)]
    assert snapshot(target) == before


@pytest.mark.parametrize("stands_there", ["nothing whole", "folder", "dangling link", "more in it"])
def test_a_copy_that_may_be_the_only_one_is_left(stands_there, medal, say, tmp_path):
    target = tmp_path / "x.zarr"
    old = golden_copy(tmp_path / ".x.replaced.zarr")
    if stands_there == "nothing whole":
        (old / "seal.json").unlink()
    elif stands_there == "folder":
        target.mkdir()
    elif stands_there == "dangling link":
        target.symlink_to(tmp_path / "unmounted/x.zarr")
    else:
        golden_copy(target)
        (old / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    done = medal("clean", tmp_path, "--remove")
    assert [one["action"] for one in done["found"]] == ["leave"]
    assert (done["removed"], done["put_back"]) == ([], [])
    assert "left alone" in say(tmp_path)
    assert snapshot(tmp_path) == before


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


# ── What is not medal's ──────────────────────────────────────────────────────────────────────────────────────────


def test_strangers_are_never_touched(medal, tmp_path):
    files = {
        "a.zarr.work/notes.txt": "mine",
        "a.zarr.work/work.json": '{"cache_id": "a"}',
        "b.zarr.work/work.json": '{"name": "of another tool"}',
        "project.v2.work/work.json": '{"cache_id": "a"}',
        "c.unfinished/thesis.txt": "years of work",
        "d.unfinished/plan.json": '{"monday": "rest"}',
        ".e.lock": "4711\n",
        ".venv.lock": "",
        ".f.lock": '{"process": 1}',
        ".g.zarr.lock.after-dinner": "",
        ".h.zarr.lock.clock-tower": "",
        ".i.sealing.zarr/zarr.json": "{}",
        ".i.sealing.zarr/notes.txt": "mine",
        ".j.sealing.h5": "notes",
        ".j.pulling.h5": "notes",
        ".k.pulling.zarr/notes.txt": "mine",
        f".l.pulling.zarr/{'0' * 64}.partly": "mine",
        f".m.pulling.parts/{'0' * 64}.part": "of another tool",
        ".k.replaced.zarr": "a file",
        ".l.replaced/run.json": '{"km": 10}',
        ".m.sealing/run.json": '{"format": 1, "request": {}}',
        ".n.sealing.txt": "letter",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for empty in ("o.zarr.work", "p.unfinished"):
        (tmp_path / empty).mkdir()
    (tmp_path / "q.zarr.work/work.json").mkdir(parents=True)
    (tmp_path / "q.zarr.work/work.json/notes.txt").write_text("mine")
    for target in ("r.zarr", "r.h5"):
        golden_copy(tmp_path / target)
    finished_run(tmp_path / "run")
    for path in tmp_path.iterdir():
        age(path, 30)
    before = snapshot(tmp_path)
    assert medal("clean", tmp_path, "--remove") == {"found": [], "removed": [], "put_back": [], "freed": 0}
    assert snapshot(tmp_path) == before


def test_pipes_are_not_waited_for(medal, tmp_path):
    locks = (".x.zarr.lock", ".x.zarr.lock.clock-0123abcd", f".x.zarr.lock.after-{'1' * 16}")
    for name in (*locks, ".x.sealing.h5", "x.zarr.work/work.json", "y.unfinished/plan.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
        age(tmp_path / name, 1)
    assert medal("clean", tmp_path, "--remove")["found"] == []


def test_an_unfinished_run_with_somebodys_notes_is_left(medal, tmp_path):
    kill_while(STAGE_TWO, tmp_path / "x")
    (tmp_path / "x.unfinished/notes.txt").write_text("mine")
    done = medal("clean", tmp_path, "--remove")
    assert {one["path"]: one["action"] for one in done["found"]} == {
        str(tmp_path / "x.unfinished"): "leave",
        str(tmp_path / ".x.lock"): "remove",
    }
    assert (tmp_path / "x.unfinished/plan.json").exists()


@pytest.mark.parametrize(("script", "name"), [(STAGE_ONE, "x.zarr"), (STAGE_ONE, "x.h5"), (STAGE_TWO, "x")])
def test_links_are_not_followed(script, name, medal, tmp_path):
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    kill_while(script, elsewhere / name)
    work = next(path for path in elsewhere.iterdir() if path.is_dir())
    (here / work.name).symlink_to(work)
    (here / lock_path(elsewhere / name).name).symlink_to(lock_path(elsewhere / name))
    (here / "folder").symlink_to(elsewhere)
    for draft in (".y.sealing.zarr", ".y.sealing.h5", ".y.replaced.zarr"):
        (here / draft).symlink_to(golden_copy(elsewhere / f"of{draft}"))
    before = snapshot(tmp_path)
    assert medal("clean", here, here / work.name, "--remove")["found"] == []
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("script", "name"), [(STAGE_ONE, "x.zarr"), (STAGE_TWO, "x")])
def test_a_link_inside_leads_nowhere(script, name, medal, tmp_path):
    kill_while(script, tmp_path / name)
    work = next(path for path in tmp_path.iterdir() if path.is_dir())
    (tmp_path / "thesis").write_text("years of work")
    link = work / ("train-000000000-64-0123456789abcdef.npy" if script is STAGE_ONE else "model.safetensors")
    link.symlink_to(tmp_path / "thesis")
    medal("clean", tmp_path, "--remove")
    assert (tmp_path / "thesis").read_text() == "years of work"


def test_caches_and_runs_are_not_searched(medal, tmp_path):
    inside = [golden_copy(tmp_path / "x.zarr"), finished_run(tmp_path / "run"), tmp_path / "raw.zarr", tmp_path / "a/b"]
    for folder in inside:
        kill_while(STAGE_ONE, folder / "y.zarr")
    assert {Path(one["path"]).parent for one in medal("clean", tmp_path)["found"]} == {tmp_path / "a/b"}


def test_a_folder_that_cannot_be_read_is_told(medal, capsys, tmp_path):
    kill_while(STAGE_ONE, tmp_path / "x.zarr")
    # Deeper than a path may be long: unreadable even for root.
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    assert len(medal("clean", tmp_path)["found"]) == 2
    assert "could not be looked at" in capsys.readouterr().err


def test_a_folder_that_may_not_be_written_is_survived(tmp_path):
    mortal = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may read and remove everything")
        rights = "-dac_override,-dac_read_search"
        mortal = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    for name in ("mine/x.zarr", "theirs/y.zarr", "far/z.zarr"):
        kill_while(STAGE_ONE, tmp_path / name)
    # Whether somebody elsewhere lives can only be told where a file may be written.
    lock = lock_path(tmp_path / "far/z.zarr")
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "host": "far", "machine": "far 1", "process": 7}))
    age(lock, 1)
    for name, mode in {"secret": 0o000, "theirs": 0o555, "far": 0o555}.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name).chmod(mode)
    try:
        words = [*mortal, sys.executable, "-m", "medal", "clean", tmp_path, "--remove"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, list((tmp_path / "mine").iterdir())) == (1, [])
        assert "Removed 2, freed" in done.stdout
        assert f"removed '{tmp_path}/mine/x.zarr.work': work directory" in done.stdout
        assert f"left '{tmp_path}/theirs/y.zarr.work': work directory" in done.stdout
        assert "process 7 on 'far', since 20" in done.stdout
        assert f"What was left of '{tmp_path}/theirs/y.zarr' could not be removed" in done.stderr
        assert f"'{tmp_path}/secret' could not be looked at" in done.stderr
        assert (tmp_path / "theirs/y.zarr.work/work.json").exists()
    finally:
        for folder in tmp_path.iterdir():
            folder.chmod(0o755)


# ── The command ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_written_for_people(say, tmp_path, monkeypatch):
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


def test_only_what_is_older(medal, say, tmp_path):
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
    assert decide(leftover) == action
