"""Two members ask for the same missing cache at once: one computes, the other waits, or goes on if that one dies."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from store_cases import member, whole

from medal.cache.store import announcements
from medal.cache.store.announcements import Announcement, wait_for, who_computes
from medal.cache.store.place.store import open_store
from medal.pipeline.teacher.demo import tiny_teacher


def start(*words, env):
    return subprocess.Popen(
        [sys.executable, "-m", "medal", "cache-teacher", *map(str, words), "--json"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1]), err


@pytest.mark.parametrize("dies", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_second_waits(dies, small_npz, tmp_path):
    store = tmp_path / "store"
    teacher = tiny_teacher(tmp_path)
    words = (small_npz, "--teacher", teacher, "--image-size", 56, "--store", store, "--push", "--yes")
    (tmp_path / "ana").mkdir()
    first = start(
        *words[:1], tmp_path / "ana/a.zarr", *words[1:], "--as", "Ana", "--batch-size", 1, env=member(tmp_path / "ana")
    )
    while not list(store.glob("computing/*.json")):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # held at work, however quick the machine is
    second = start(*words[:1], tmp_path / "b.h5", *words[1:], "--wait", env=member(tmp_path / "ben"))
    told = ""
    while "waiting for it" not in told:
        line = second.stderr.readline()
        assert line, told
        told += line
    assert "this cache is being computed by Ana, since" in told
    if dies:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        made, err = finish(second)
        assert "no other process computes it any more; computing it here" in err
        assert (made["action"], made["computed"], made["pushed"]) == ("create", 300, "pushed")
    else:
        first.send_signal(signal.SIGCONT)
        assert finish(first)[0]["pushed"] == "pushed"
        made, _ = finish(second)
        assert (made["action"], made["computed"], made["pushed"]) == ("pulled", 0, None)
        assert made["content_digest"] == whole(tmp_path / "ana/a.zarr").content_digest
    whole(tmp_path / "b.h5")


@pytest.fixture
def store(tmp_path):
    opened = open_store(str(tmp_path / "store"))
    opened.begin()
    return opened


def test_who_falls_silent_elsewhere_is_waited_for_no_longer(store, monkeypatch):
    monkeypatch.setattr(announcements, "STALE_SECONDS", 0.2)
    monkeypatch.setattr(announcements, "_POLL_SECONDS", 0.02)
    # Of another machine, which cannot be asked.
    store.write(
        f"computing/{'a' * 32}.{'1' * 16}.json", b'{"machine":"elsewhere","beat":4,"by":"Cy","done":1,"total":2}'
    )
    told = []
    assert wait_for(store, "a" * 32, told.append) is None
    assert told == [
        "this cache is being computed by Cy, since None, 1 of 2 images done; waiting for it",
        "no other process computes it any more; computing it here",
    ]


def test_what_is_said_goes_with_who_said_it(store):
    with Announcement(store, "a" * 32, 300, None) as mine:
        mine.done = 7
        (found,) = who_computes(store, "a" * 32)
        assert str(found).startswith("somebody, since ")
        assert who_computes(store, "b" * 32) == []
    assert who_computes(store, "a" * 32) == []


def test_nonsense_in_the_place_of_an_announcement_is_passed_over(store):
    store.write(f"computing/{'a' * 32}.{'1' * 16}.json", b"[[[")
    store.write(f"computing/{'a' * 32}.{'2' * 16}.json", b"x" * 100_000)
    assert wait_for(store, "a" * 32, lambda _: None) is None
