"""`medal clean` touches nothing that is not medal's: strangers, links, folders that cannot be read or written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clean_cases import STAGE_ONE, STAGE_TWO, age, finished_run, golden_copy, kill_while, snapshot

from medal.cache.making.lock import lock_path

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
        ".j.sealing.h5": "notes",
        f".k.pulling.zarr/{'0' * 64}.part": "of another tool",
        ".l.replaced.zarr": "a file",
        ".l.replaced/run.json": '{"km": 10}',
        "m.medal-sealing.zarr/zarr.json": "{}",
        ".medal-sealing.zarr/zarr.json": "{}",
        ".n.medal-sealing.zarr.bak/zarr.json": "{}",
        ".o.medal-sealed.zarr/zarr.json": "{}",
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
    for name in (*locks, "x.zarr.work/work.json", "y.unfinished/plan.json"):
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
    for draft in (".y.medal-sealing.zarr", ".y.medal-sealing.h5", ".y.medal-replaced.zarr"):
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
