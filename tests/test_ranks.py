"""Stage one by several processes under torchrun: the same bytes, a rank killed, ranks that differ."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medal.cache.making.work import work_path
from medal.pipeline.features.ranks import ALONE, Team

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
# What torchrun gives each of several ranks; bf16 sums may differ with the number of threads.
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(size, *words, env=ONE_THREAD):
    ranks = [*TORCHRUN, str(size)] if size > 1 else []
    return subprocess.Popen(
        [sys.executable, *ranks, "-m", "medal", "cache-teacher", *map(str, words), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert len(lines) == 1  # rank 0 alone speaks
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def single(small_npz, steady_request, tmp_path_factory):
    out = tmp_path_factory.mktemp("single") / "chest.zarr"
    return finish(start(1, small_npz, out, *steady_request))


def test_two_ranks_give_the_bytes_of_one(single, small_npz, steady_request, tmp_path):
    out = tmp_path / "chest.zarr"
    made = finish(start(2, small_npz, out, *steady_request))
    assert made["action"] == "create"
    assert made["computed"] == 300
    assert made["content_digest"] == single["content_digest"]
    again = finish(start(2, small_npz, out, *steady_request))
    assert (again["action"], again["computed"]) == ("reuse", 0)
    assert list(tmp_path.iterdir()) == [out]


def rank_process(launcher, rank):
    """Return the process id of a rank that a launcher has started."""
    listed = ["ps", "-o", "pid=", "--ppid", str(launcher.pid)]
    children = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    for pid in children:
        if f"RANK={rank}".encode() in Path("/proc", pid, "environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(children)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_rank_ends_all_and_one_process_goes_on(rank, single, small_npz, steady_request, tmp_path):
    out = tmp_path / "chest.h5"
    attempt = start(2, small_npz, out, *steady_request)
    deadline = time.monotonic() + 120
    while not list(work_path(out).glob("*-*.npy")):
        assert time.monotonic() < deadline
        assert attempt.poll() is None
        time.sleep(0.005)
    os.kill(rank_process(attempt, rank), signal.SIGKILL)
    attempt.communicate(timeout=120)
    assert attempt.returncode != 0
    assert not out.exists()
    made = finish(start(1, small_npz, out, *steady_request))
    assert made["action"] == "resume"
    assert made["kept"] >= 44  # the smallest chunk
    assert made["kept"] + made["computed"] == 300
    assert made["content_digest"] == single["content_digest"]


@pytest.mark.slow
def test_bad_images_of_all_ranks_are_told_by_rank_0(steady_request, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(40):
        folder = tmp_path / "scans" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(folder / f"{index}.png")
    for name in ("a/0.png", "b/1.png", "a/20.png"):
        whole = (tmp_path / "scans" / name).read_bytes()
        (tmp_path / "scans" / name).write_bytes(whole[: len(whole) // 2])
    words = ("--teacher", steady_request[1], "--image-size", 28, "--batch-size", 1, "--on-bad-image", "skip")
    alone = finish(start(1, tmp_path / "scans", tmp_path / "one.zarr", *words))
    both = finish(start(2, tmp_path / "scans", tmp_path / "two.zarr", *words))
    assert both["skipped"] == alone["skipped"] == 3
    assert both["content_digest"] == alone["content_digest"]


def test_a_misused_command_ends_all_ranks_with_one_sentence_each(small_npz, steady_request, tmp_path):
    attempt = start(2, small_npz, tmp_path / "chest.txt", *steady_request)
    _, told = attempt.communicate(timeout=120)
    assert attempt.returncode != 0
    assert told.count("has no suffix that tells the form of the cache") == 1


class Board:
    """A store of one process: what `torch.distributed.TCPStore` does, without a network."""

    def __init__(self):
        self.said = {}

    def check(self, names):
        return all(name in self.said for name in names)

    def set(self, name, value):
        self.said[name] = value

    def get(self, name):
        return self.said[name].encode()

    def add(self, name, amount):
        self.said[name] = self.said.get(name, 0) + amount
        return self.said[name]


def test_what_one_says_the_others_hear_and_the_first_word_counts():
    board = Board()
    leader, follower = Team(0, 2, board), Team(1, 2, board)
    leader.say("task", {"todo": [1, 2]})
    leader.leave(in_peace=False)
    assert follower.hear("task", 0) == {"todo": [1, 2]}
    idle = Board()
    Team(0, 2, idle).leave(in_peace=False)
    assert Team(1, 2, idle).hear("task", 0) is None


def test_a_silent_rank_is_not_waited_for_for_ever():
    with pytest.raises(ConnectionError, match=r"nothing has been heard of rank 1 for 1 s"):
        Team(0, 2, Board(), silence=1).hear("done", 1)


def test_work_is_shared_without_gaps():
    items = list(range(7))
    shares = [Team(rank, 3, Board()).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert ALONE.share(items) == items
    assert ALONE.leads
    ALONE.say("task", None)
