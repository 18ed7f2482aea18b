"""What killed, living and strange processes leave behind, made for the tests of `medal clean`."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medal.cache.making.recognise import CACHE
from medal.cli import group
from medal.student.run.folder import RUN_KIND

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
from medal.cache.making.lock import locked
from medal.cache.making.work import WorkDirectory, work_path
with locked(target, wait=True, tell=print):
    work = WorkDirectory(work_path(target))
    work.begin({"cache_id": "a", "request": {}})
    for start in (0, 128):
        work.write_chunk("train", start, np.zeros(64, [("feature", "<f2", (1, 4))]))
"""
STAGE_TWO = """
from medal.student.run import folder as run
with run.working(target, print) as work:
    run.write_json(work / run.PLAN, {"request": {"seed": 0}})
    (work / run.CHECKPOINT).write_bytes(b"weights")
"""
SEAL = """
from medal.cache.making.lock import locked
from medal.cache.reader import open_cache
from medal.cache.making.writer import write_cache
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
from medal.cache.store.place.entries import find_entry
from medal.cache.store.place.store import open_store
class Parts:
    def __init__(self, files, sizes, arrays):
        files[0].rename(files[0].with_name(f".{files[0].name}.part"))
        die()
fetch.PartFiles = Parts
store = open_store(sys.argv[2])
fetch.pull(store, find_entry(store, sys.argv[3]), target, quiet)
"""
REPLACE = """
from medal.cache.making.lock import locked
from medal.cache.making.writer import move_into_place
class Draft(type(Path())):
    def rename(self, target):
        die()
with locked(target, wait=True, tell=print):
    move_into_place(Draft(sys.argv[2]), target)
"""


HOLD = """
from medal.cache.making.lock import locked
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


def say(*words):
    """Run `medal clean` in this process and return what it printed for people; it must succeed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        group.main(["clean", *map(str, words)], prog_name="medal", standalone_mode=False)
    return out.getvalue()


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
