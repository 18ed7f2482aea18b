"""One writer at a target: real processes, real kills."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from medal.cache.errors import CacheBusy, CacheError
from medal.cache.making import lock as room
from medal.cache.making.holder import read_lock
from medal.cache.making.lock import lock_path, locked

pytestmark = pytest.mark.xdist_group("serial")

HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom medal.cache.making.lock import locked\n"
    "with locked(Path(sys.argv[1]), wait=True, tell=print):\n    print('held', flush=True)\n    time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``tmp_path / 'x.zarr'``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "x.zarr")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_is_told_who(holder, tmp_path):
    told = f"process {holder.pid} on '.*', since 20.*--no-wait"
    with pytest.raises(CacheBusy, match=told), locked(tmp_path / "x.zarr", wait=False, tell=print):
        pass


def test_the_second_waits_its_turn(tmp_path):
    order, said = [], []

    def second():
        with locked(tmp_path / "x.zarr", wait=True, tell=said.append):
            order.append("second")

    with locked(tmp_path / "x.zarr", wait=True, tell=said.append):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.8)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert len(said) == 1
    assert "waiting for it" in said[0]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_is_taken_over(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    said = []
    with locked(tmp_path / "x.zarr", wait=False, tell=said.append):
        pass
    assert f"process {holder.pid}" in said[0]
    assert "has ended; taking over" in said[0]


@pytest.mark.usefixtures("holder")
def test_a_reused_process_id_is_not_the_holder(tmp_path):
    path = lock_path(tmp_path / "x.zarr")
    path.write_text(json.dumps({**json.loads(path.read_text()), "started": "1"}))
    with locked(tmp_path / "x.zarr", wait=False, tell=print) as lock:
        lock.check()


def test_a_holder_elsewhere_is_known_by_its_heartbeat(tmp_path):
    path = lock_path(tmp_path / "x.zarr")
    elsewhere = {"host": "far", "machine": "far 1", "process": 1, "started": "1", "since": "then", "token": "0" * 16}
    path.write_text(json.dumps(elsewhere))
    with pytest.raises(CacheBusy, match="process 1 on 'far'"), locked(tmp_path / "x.zarr", wait=False, tell=print):
        pass
    old = time.time() - room.STALE_SECONDS - 5
    os.utime(path, (old, old))
    said = []
    with locked(tmp_path / "x.zarr", wait=False, tell=said.append):
        assert "taking over" in said[0]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_taken_over_is_noticed(tmp_path):
    with locked(tmp_path / "x.zarr", wait=True, tell=print) as lock:
        stolen = {**json.loads(lock.path.read_text()), "token": "f" * 16}
        lock.path.write_text(json.dumps(stolen))
        with pytest.raises(CacheError, match="taken over"):
            lock.check()
    assert lock.path.exists()


def test_a_slow_taker_leaves_its_successor_alone(holder, tmp_path, monkeypatch):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    judged, go_on = threading.Event(), threading.Event()
    honest = room._is_dead

    def linger(other, path):
        verdict = honest(other, path)
        if threading.current_thread() is slow and not judged.is_set():
            judged.set()
            go_on.wait()
        return verdict

    def take():
        with locked(tmp_path / "x.zarr", wait=True, tell=lambda _: None):
            pass

    monkeypatch.setattr(room, "_is_dead", linger)
    slow = threading.Thread(target=take)
    slow.start()
    judged.wait()
    with locked(tmp_path / "x.zarr", wait=False, tell=print) as lock:
        before = lock.path.stat().st_ctime_ns
        go_on.set()
        time.sleep(0.3)
        # Moved away and put back would be a moment in which somebody else could come in; a new ctime would tell.
        assert lock.path.stat().st_ctime_ns == before
        lock.check()
    slow.join()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_whose_holder_died_is_taken_over_too(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    path = lock_path(tmp_path / "x.zarr")
    dead = json.loads(path.read_text())
    claim = path.with_name(f"{path.name}.after-{dead['token']}")
    claim.write_text(json.dumps({**dead, "token": "0123456789abcdef"}))
    with locked(tmp_path / "x.zarr", wait=False, tell=print) as lock:
        lock.check()
    assert list(tmp_path.iterdir()) == []


TAKE = """
import os, sys, time
from pathlib import Path
from medal.cache.making.lock import locked
target, inside = Path(sys.argv[1]), Path(sys.argv[2])
sys.stdin.readline()
with locked(target, wait=True, tell=lambda _: None):
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    time.sleep(0.05)
    inside.unlink()
"""


def test_of_many_takers_one_has_it(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    command = [sys.executable, "-c", TAKE, str(tmp_path / "x.zarr"), str(tmp_path / "inside")]
    takers = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(6)]
    for taker in takers:
        taker.stdin.close()
    assert [taker.wait() for taker in takers] == [0] * 6
    assert list(tmp_path.iterdir()) == []


def test_of_many_threads_one_has_it(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_POLL_SECONDS", 0.01)
    path = lock_path(tmp_path / "x.zarr")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    dead = path.read_text()
    together = []

    def take():
        with locked(tmp_path / "x.zarr", wait=True, tell=lambda _: None) as lock:
            together.append(len(inside))
            inside.append(lock)
            time.sleep(0.002)
            inside.pop()

    for _ in range(20):
        inside = []
        path.write_text(dead)
        threads = [threading.Thread(target=take) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert together == [0] * 120


@pytest.mark.parametrize("change", [{"token": "a/b"}, {"process": "self/../1"}, {"process": -1}, {"host": 7}])
def test_a_lock_that_is_none_of_medals_names_nobody(change, tmp_path):
    path = lock_path(tmp_path / "x.zarr")
    ours = {"host": "far", "machine": "far 1", "process": 1, "started": "1", "since": "then", "token": "0" * 16}
    path.write_text(json.dumps(ours))
    assert read_lock(path).holder is not None
    path.write_text(json.dumps(ours | change))
    assert (read_lock(path).state, read_lock(path).holder) == ("strange", None)
