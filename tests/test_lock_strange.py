"""What is in a lock's place and is none of medal's, or cannot be told; and letting go of a lock where that is hard."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from medal.cache.convert import convert_path
from medal.cache.errors import CacheBusy, CacheError
from medal.cache.making import lock as room
from medal.cache.making.holder import read_lock
from medal.cache.making.lock import holder_of, lock_path, locked

pytestmark = pytest.mark.xdist_group("serial")


@pytest.fixture
def mortal():
    """Run code as somebody who may not read everything: what there is to begin a command with."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may read everything")
    rights = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]


def run(code, *words, begin=()):
    """Run code in a process of its own, with a target as its first word, and return what it printed."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom medal.cache.errors import MedalError\n"
        "from medal.cache.making import lock as room\nfrom medal.cache.making.lock import locked\n"
        f"target = Path(sys.argv[1])\n{textwrap.dedent(code)}"
    )
    command = [*begin, sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def take(target, *, wait=True):
    with locked(target, wait=wait, tell=lambda _: None):
        pass


STRANGERS = {
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link": lambda path: path.symlink_to(__file__),
    "pipe": os.mkfifo,
    "folder": lambda path: path.mkdir(),
    "somebody's lock": lambda path: path.write_text("4711\n"),
    "of another tool": lambda path: path.write_text('{"pid": 4711}'),
    "nested": lambda path: path.write_text("[" * 4000),
    "long": lambda path: path.write_bytes(b"x" * 100_000),
}


@pytest.fixture(params=STRANGERS)
def stranger(request, tmp_path):
    """Something of somebody else's, and old, where the lock of ``tmp_path / 'x.zarr'`` would go."""
    path = lock_path(tmp_path / "x.zarr")
    STRANGERS[request.param](path)
    os.utime(path, (1, 1), follow_symlinks=False)
    return path


@pytest.mark.timeout(20)
@pytest.mark.parametrize("wait", [True, False])
def test_what_is_no_lock_of_medals_is_refused_and_stays(stranger, wait, tmp_path):
    before = stranger.lstat()
    with pytest.raises(CacheError, match="medal did not make it; find out whose it is and move it away") as refused:
        take(tmp_path / "x.zarr", wait=wait)
    assert not isinstance(refused.value, CacheBusy)
    assert str(stranger) in str(refused.value)
    assert os.path.samestat(stranger.lstat(), before)
    assert list(tmp_path.iterdir()) == [stranger]
    assert "is not a medal lock" in holder_of(tmp_path / "x.zarr")


@pytest.mark.timeout(20)
def test_a_strangers_claim_is_refused_too(tmp_path):
    path = lock_path(tmp_path / "x.zarr")
    dead = {"host": "far", "machine": "far 1", "process": 1, "started": "1", "since": "then", "token": "0" * 16}
    path.write_text(json.dumps(dead))
    os.utime(path, (1, 1))
    path.with_name(f"{path.name}.after-{'0' * 16}").mkdir()
    with pytest.raises(CacheError, match=r"after-0+' is in the place of"):
        take(tmp_path / "x.zarr")


def test_what_is_written_in_time_is_no_stranger(tmp_path):
    path = lock_path(tmp_path / "x.zarr")
    path.touch()
    ahead = time.time() + 1000
    os.utime(path, (ahead, ahead))
    with pytest.raises(CacheBusy, match="a process that has not written its name yet"):
        take(tmp_path / "x.zarr", wait=False)


READ = """
    try:
        with locked(target, wait=False, tell=print):
            print("taken")
    except MedalError as error:
        print(type(error).__name__, error)
    print(room.holder_of(target))
"""


def test_a_holder_whose_lock_cannot_be_read_counts_as_living(mortal, tmp_path):
    path = lock_path(tmp_path / "x.zarr")
    path.write_text("whatever")
    path.chmod(0)
    said = run(READ, tmp_path / "x.zarr", begin=mortal)
    assert said.startswith("CacheBusy")
    assert said.count("a process whose lock cannot be read (Permission denied)") == 2
    old = time.time() - room.STALE_SECONDS - 5
    os.utime(path, (old, old))
    said = run(READ, tmp_path / "x.zarr", begin=mortal)
    assert said.startswith("CacheError")
    assert "has not changed for 60 s; if its process has ended, remove it" in said
    assert list(tmp_path.iterdir()) == [path]


def test_others_can_read_who_holds_a_lock_whatever_the_umask(tmp_path):
    code = """
        os.umask(0o077)
        with locked(target, wait=False, tell=print):
            print(oct(room.lock_path(target).stat().st_mode))
    """
    assert run(code, tmp_path / "x.zarr") == "0o100644\n"


def test_unreadable_is_told_from_taken_over(mortal, tmp_path):
    code = """
        with locked(target, wait=False, tell=print) as lock:
            for change in (lambda: lock.path.chmod(0), lock.path.unlink):
                change()
                try:
                    lock.check()
                except MedalError as error:
                    print(error)
    """
    unreadable, removed = run(code, tmp_path / "x.zarr", begin=mortal).splitlines()
    assert "cannot be read any more (Permission denied); finished work is kept" in unreadable
    assert "is gone: it was removed, or its disk was" in removed
    assert "taken over" not in unreadable + removed


# ── Letting go ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_is_let_go_of_on_a_full_disk(tmp_path):
    pytest.importorskip("resource")
    # No file may have a byte any more, as on a full disk: no claim can be written.
    code = """
        import resource
        with locked(target, wait=False, tell=print) as lock:
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
        print(os.listdir(target.parent))
    """
    assert run(code, tmp_path / "x.zarr") == "[]\n"


def test_a_lock_on_a_lost_mount_is_let_go_of_when_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "BEAT_SECONDS", 0.05)
    place, away = tmp_path / "mount/caches", tmp_path / "away"
    with locked(place / "x.zarr", wait=False, tell=print):
        place.rename(away)
    assert [path.name for path in away.iterdir()] == [".x.zarr.lock"]
    away.rename(place)
    deadline = time.monotonic() + 20
    while list(place.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    take(place / "x.zarr", wait=False)


def test_a_late_release_leaves_a_successor_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "BEAT_SECONDS", 0.05)
    place, away = tmp_path / "mount/caches", tmp_path / "away"
    with locked(place / "x.zarr", wait=False, tell=print):
        place.rename(away)
    (away / ".x.zarr.lock").unlink()
    with locked(away / "x.zarr", wait=False, tell=print) as successor:
        away.rename(place)
        time.sleep(0.5)
        assert read_lock(lock_path(place / "x.zarr")).holder == successor.holder


def test_a_taker_looks_again_whether_the_holder_is_dead(tmp_path, monkeypatch):
    path = lock_path(tmp_path / "x.zarr")
    slow = {"host": "far", "machine": "far 1", "process": 1, "started": "1", "since": "then", "token": "0" * 16}
    path.write_text(json.dumps(slow))
    os.utime(path, (1, 1))
    honest = room._create

    def create(place):
        # It beats again between the taker's verdict and its claim.
        if place.name.endswith("0" * 16):
            os.utime(path)
        return honest(place)

    monkeypatch.setattr(room, "_create", create)
    with pytest.raises(CacheBusy, match="process 1 on 'far'"):
        take(tmp_path / "x.zarr", wait=False)
    assert list(tmp_path.iterdir()) == [path]


# ── What commands say ────────────────────────────────────────────────────────────────────────────────────────────


def test_convert_names_no_option_that_it_has_not(tmp_path):
    shutil.copytree(Path(__file__).parent / "golden/format1.zarr", tmp_path / "x.zarr")
    with locked(tmp_path / "y.h5", wait=False, tell=print), pytest.raises(CacheBusy) as busy:
        convert_path(str(tmp_path / "x.zarr"), str(tmp_path / "y.h5"))
    assert str(busy.value).endswith("; wait until it is finished, or give another OUT.")
