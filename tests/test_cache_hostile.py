"""Caches from strangers: each kind of hostile input is refused with its own sentence, quickly, touching nothing."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medal.cache.errors import CacheError
from medal.cache.reader import open_cache
from medal.cache.verify import verify_path

TESTS = Path(__file__).parent
ZARR = runpy.run_path(str(TESTS / "hostile/zarr_caches.py"))["ZARR"]
HDF5 = runpy.run_path(str(TESTS / "hostile/hdf5_caches.py"))["HDF5"]
HOSTILE = [(".zarr", name) for name in ZARR] + [(".h5", name) for name in HDF5]
EVERY = pytest.mark.parametrize("hostile", HOSTILE, ids=[f"{name}{suffix}" for suffix, name in HOSTILE], indirect=True)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A machine that has never seen a cache."""
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hostile(request, tmp_path) -> tuple[Path, str]:
    suffix, name = request.param
    outside, path = tmp_path / "outside", tmp_path / "inbox" / f"cache{suffix}"
    outside.mkdir()
    path.parent.mkdir()
    (outside / "secret").write_bytes(b"\0\0\0\1" * 6)
    make, sentence = (ZARR if suffix == ".zarr" else HDF5)[name]
    if suffix == ".zarr":
        shutil.copytree(TESTS / "golden/format1.zarr", path)
    make(path, outside)
    return path, sentence


def listing(folder: Path) -> dict[str, tuple]:
    """Everything below a folder but medal's own: kind, size, time of change, content where it is small."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        plain = path.is_file() and not path.is_symlink() and status.st_size < 1 << 20
        if "home" not in path.relative_to(folder).parts:
            content = path.read_bytes() if plain else None
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found


def read_everything(path: Path) -> None:
    """Read what a training reads, and more."""
    cache = open_cache(path)
    cache.read_probe()
    for name in cache.manifest.arrays:
        if not name.startswith("probe/"):
            cache.read(*name.split("/"))


def test_there_are_enough():
    for table in (ZARR, HDF5):
        assert len({sentence for _, sentence in table.values()}) >= 40


@EVERY
def test_is_refused(hostile, tmp_path):
    path, sentence = hostile
    before = listing(tmp_path)
    problems = verify_path(path)
    assert problems, "it verifies"
    assert any(re.search(sentence, problem) for problem in problems), problems
    assert all(len(problem) < 1500 and problem.isprintable() for problem in problems), problems
    assert len(problems) < 150
    # Reading refuses what verification reports, but for what only verification computes.
    if "differ from feature" not in sentence:
        with pytest.raises(CacheError):
            read_everything(path)
    assert listing(tmp_path) == before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="measures with POSIX's wait4")
@EVERY
def test_is_refused_quickly_and_in_little_memory(hostile, home):
    path, _ = hostile
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "medal", "verify", path, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "MEDAL_HOME": str(home)},
    ) as process:
        out, err = process.stdout.read(), process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - began
    assert process.returncode == 1, err
    assert err == b""
    assert json.loads(out.splitlines()[-1])["ok"] is False
    # Processor time of both processes, start-up included; the wall's clock only shows that nothing waits.
    assert used.ru_utime + used.ru_stime < 2
    assert wall < 20
    assert used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) < 500e6


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_the_untouched_cache_is_welcome(suffix):
    assert verify_path(TESTS / f"golden/format1{suffix}") == []
