"""Stores under kills and crowds: real processes, SIGKILL at random moments, ten at once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_cases import make_cache, member, whole

from medal.cache.reader import open_cache
from medal.cache.store.place.entries import read_entries
from medal.cache.store.place.store import open_store

pytestmark = pytest.mark.xdist_group("serial")

# A megabyte of features, in parts of 64 kB: enough steps for a kill to fall between.
ROWS = {"train": 60000, "val": 20000, "test": 20000}
# The parts are cut smaller, so that a small cache has many; everything else is the command's own.
CUT = """
import sys
from medal.cache.store import fetch, publish
from medal.cache.store.place import layout, parts
layout.PART_BYTES = fetch.PART_BYTES = 1 << 16
cut = parts.cut_parts
publish.cut_parts = lambda arrays: cut(arrays, 1 << 16)
from medal.cli import main
main()
"""


def start(*words, env):
    return subprocess.Popen(
        [sys.executable, "-c", CUT, *map(str, words)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("large") / "chest.zarr", rows=ROWS)


@pytest.fixture(scope="module")
def took(large, tmp_path_factory):
    """How long an undisturbed push and pull take here and now, start-up apart, and the store that was filled."""
    folder = tmp_path_factory.mktemp("took")
    env = member(folder / "home")
    times = []
    for words in (
        ("push", "--yes", large.path, folder / "store"),
        ("pull", "chest", folder / "store", folder / "x.zarr"),
    ):
        begun = time.monotonic()
        finish(start(*words, "--json", env=env))
        times.append(time.monotonic() - begun)
    return times, folder / "store"


# Kills fall into this share of what an undisturbed one took, so that a faster moment does not outrun them all.
_EARLY = 0.8


def kill_after(process, seconds):
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def check_push(large, took, tmp_path, draws, seed):
    env, store, killed = member(tmp_path / "home"), tmp_path / "store", 0
    draw = random.Random(seed)  # noqa: S311 - moments
    for _ in range(draws):
        process = start("push", "--yes", large.path, store, "--json", env=env)
        killed += kill_after(process, draw.uniform(0, _EARLY * took[0][0]))
        if (store / "medal-store.json").exists():
            # Whatever the moment: each entry that is there can be pulled.
            opened = open_store(str(store))
            entries, problems = read_entries(opened)
            assert problems == []
            assert len(entries) <= 1
            if entries:
                target = tmp_path / f"got-{draw.random()}.zarr"
                finish(start("pull", "chest", store, target, "--json", env=env))
                assert whole(target).seal == large.seal
                finish(start("remove", "chest", store, *draw.choice([(), ("--now",)]), "--json", env=env))
    assert killed
    finish(start("push", "--yes", large.path, store, "--json", env=env))
    assert finish(start("gc", store, "--now", "--json", env=env))["waiting"] == 0
    assert len(list((store / "sets").iterdir())) == 1
    finish(start("pull", "chest", store, tmp_path / "last.zarr", "--json", env=env))
    assert whole(tmp_path / "last.zarr").seal == large.seal


def check_pull(large, took, tmp_path, draws, seed):
    env, target = member(tmp_path / "home"), tmp_path / "got.zarr"
    draw, killed = random.Random(seed), 0  # noqa: S311 - moments
    for _ in range(draws):
        process = start("pull", "chest", took[1], target, "--json", env=env)
        killed += kill_after(process, draw.uniform(0, _EARLY * took[0][1]))
        # Whatever the moment: nothing there, or a whole cache.
        if target.exists():
            assert open_cache(whole(target).path).seal == large.seal
            target.rename(tmp_path / f"was-{draw.random()}.zarr")
    assert killed
    finish(start("pull", "chest", took[1], target, "--json", env=env))
    assert whole(target).seal == large.seal
    assert not list(tmp_path.glob(".*"))


def test_a_push_killed_at_a_few_moments(large, took, tmp_path):
    check_push(large, took, tmp_path, 3, 0)


def test_a_pull_killed_at_a_few_moments(large, took, tmp_path):
    check_pull(large, took, tmp_path, 3, 0)


@pytest.mark.slow
def test_a_push_killed_at_twenty_moments(large, took, seed, tmp_path):
    check_push(large, took, tmp_path, 20, seed)


@pytest.mark.slow
def test_a_pull_killed_at_twenty_moments(large, took, seed, tmp_path):
    check_pull(large, took, tmp_path, 20, seed)


# One process of the crowd: pushes its own and a common cache, pulls, removes, collects, in an order of its own. What is
# collected goes whatever its age, from under everybody: the rule of two weeks only ever removes less.
MEMBER = """
import json, random, sys
from pathlib import Path
from store_cases import quiet, whole
from medal.cache.errors import CacheNotFound
from medal.cache.reader import open_cache
from medal.cache.store.collect import collect, withdraw
from medal.cache.store.place.entries import find_entry
from medal.cache.store.fetch import pull
from medal.cache.store.publish import push
from medal.cache.store.place.store import open_store
number, rounds, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
store, draw, kept = open_store(str(folder / "store")), random.Random(number), False
own, common, passing = (open_cache(folder / f"{name}.zarr") for name in (f"own{number}", "common", "passing"))
for turn in range(rounds):
    push(store, own, quiet)
    push(store, draw.choice([common, passing]), quiet)
    for cache in (own, passing):
        out = folder / f"got-{number}-{turn}-{cache.path.stem}.zarr"
        try:
            pull(store, find_entry(store, cache.cache_id), out, quiet)
            assert whole(out).seal == cache.seal
        except CacheNotFound:
            assert cache is passing, "what nobody removed was not found"
    if draw.random() < 0.5:
        try:
            withdraw(store, passing.cache_id, now=draw.random() < 0.5)
        except CacheNotFound:
            pass
    if draw.random() < 0.3:
        collect(store, days=0)
push(store, common, quiet)
"""


def check_crowd(tmp_path, people, rounds):
    for seed, name in enumerate([*(f"own{number}" for number in range(people)), "common", "passing"]):
        make_cache(tmp_path / f"{name}.zarr", seed, name=name)
    path = str(Path(__file__).parent)
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(number), str(rounds), str(tmp_path)],
            env={**member(tmp_path / f"home{number}"), "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(people)
    ]
    failed = [process.communicate(timeout=900)[1] for process in crowd]
    assert [process.returncode for process in crowd] == [0] * people, "\n".join(failed)
    store = open_store(str(tmp_path / "store"))
    from medal.cache.store.collect import collect, distinct

    assert collect(store, days=0).waiting == ()
    entries, problems = read_entries(store)
    assert problems == []
    names = sorted(entry.summary["dataset"] for entry in distinct(entries))
    expected = sorted([*(f"own{number}" for number in range(people)), "common"])
    assert [name for name in names if name != "passing"] == expected
    assert len(entries) == len(names)  # second copies are gone
    assert sorted(path.name for path in (tmp_path / "store/sets").iterdir()) == sorted(entry.set for entry in entries)
    # Who cannot list sees the same.
    lines = (tmp_path / "store/index.jsonl").read_bytes().splitlines()[1:]
    assert sorted(lines) == sorted(entry.to_bytes() for entry in entries)
    from store_cases import quiet

    from medal.cache.store.fetch import pull

    for entry in entries:
        assert whole(pull(store, entry, tmp_path / f"last-{entry.cache_id}.h5", quiet).cache.path)
    # Nothing is left but what the store says of itself.
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "entries",
        "index.jsonl",
        "medal-store.json",
        "sets",
        "unlisted",
    ]
    assert [path.name for path in (tmp_path / "store").rglob(".*")] == []


def test_three_at_once(tmp_path):
    check_crowd(tmp_path, 3, 1)


@pytest.mark.slow
def test_ten_at_once(tmp_path):
    check_crowd(tmp_path, 10, 6)
