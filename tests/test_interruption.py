"""Stage one interrupted: killed, stopped by Ctrl-C, started twice; out of disk in test_full_disk. Real processes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from medal.cache.making.work import work_path
from medal.cache.making.writer import remove
from medal.cache.reader import open_cache
from medal.cache.verify import verify_path

pytestmark = pytest.mark.xdist_group("serial")

IMAGES, BATCH, CHUNK = 300, 16, 128
# A sample of the draw here, all of it with the slow tests.
_FULL = [pytest.param(suffix, 25, marks=[pytest.mark.slow, pytest.mark.timeout(3000)]) for suffix in (".zarr", ".h5")]
KILLS = [(".zarr", 2), (".h5", 3), *_FULL]


class Attempt:
    """`medal cache-teacher` in a process of its own."""

    def __init__(self, *words, python=("-m", "medal")):
        self.process = subprocess.Popen(
            [sys.executable, *python, "cache-teacher", *map(str, words), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, thing):
        """Wait until `thing()` holds while the process runs."""
        deadline = time.monotonic() + 120
        while not thing():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.005)

    def send(self, number):
        """Send a signal and return what was printed last."""
        os.kill(self.process.pid, number)
        return self.finish()

    def finish(self):
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out, err

    def result(self):
        status, out, err = self.finish()
        assert status == 0, err
        return json.loads(out.splitlines()[-1])


def chunks(out):
    return list(work_path(out).glob("*-*.npy"))


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_killed_run_resumes(suffix, steady_cache, small_npz, steady_request, medal, tmp_path):
    out = tmp_path / f"chest{suffix}"
    attempt = Attempt(small_npz, out, *steady_request)
    attempt.wait_for(lambda: chunks(out))
    attempt.send(signal.SIGKILL)
    assert not out.exists()
    (work_path(out) / ".half.part").write_bytes(b"torn")
    made = medal("cache-teacher", small_npz, out, *steady_request)
    assert made["action"] == "resume"
    assert made["kept"] >= CHUNK
    assert made["computed"] == IMAGES - made["kept"]
    assert made["content_digest"] == open_cache(steady_cache).content_digest
    assert list(tmp_path.iterdir()) == [out]


def test_a_killed_extension_resumes(small_npz, steady_request, medal, tmp_path):
    out, aside = tmp_path / "chest.zarr", tmp_path / "aside.zarr"
    medal("cache-teacher", small_npz, out, *steady_request, "--limit", 30)
    medal("convert", out, aside)
    attempt = Attempt(small_npz, out, *steady_request)
    attempt.wait_for(lambda: chunks(out))
    attempt.send(signal.SIGKILL)
    assert open_cache(out).content_digest == open_cache(aside).content_digest
    made = medal("cache-teacher", small_npz, out, *steady_request)
    assert made["action"] == "resume"
    assert made["kept"] >= 90 + CHUNK
    assert made["computed"] == IMAGES - made["kept"]
    straight = medal("cache-teacher", small_npz, aside, *steady_request)
    assert straight["action"] == "extend"
    assert straight["content_digest"] == made["content_digest"]


def test_a_torn_chunk_is_computed_again(steady_cache, small_npz, steady_request, medal, tmp_path):
    out = tmp_path / "chest.zarr"
    attempt = Attempt(small_npz, out, *steady_request)
    attempt.wait_for(lambda: chunks(out))
    attempt.send(signal.SIGKILL)
    for file in chunks(out):
        file.write_bytes(file.read_bytes()[:-100])
    made = medal("cache-teacher", small_npz, out, *steady_request)
    assert (made["kept"], made["computed"]) == (0, IMAGES)
    assert made["content_digest"] == open_cache(steady_cache).content_digest


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(small_npz, steady_request, tmp_path):
    out = tmp_path / "chest.h5"
    attempt = Attempt(small_npz, out, *steady_request)
    attempt.wait_for(lambda: chunks(out))
    status, _, said = attempt.send(signal.SIGINT)
    assert status == 130
    assert "Stopped by Ctrl-C" in said
    assert f"of {IMAGES} images are finished and kept" in said
    assert f"Continue with: medal cache-teacher {small_npz} {out}" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chest.h5.work"]


def test_two_at_once_compute_once(steady_cache, small_npz, steady_request, tmp_path):
    out = tmp_path / "chest.zarr"
    both = [Attempt(small_npz, out, *steady_request) for _ in range(2)]
    results = sorted((attempt.result() for attempt in both), key=lambda result: result["action"])
    assert [result["action"] for result in results] == ["create", "reuse"]
    assert [result["computed"] for result in results] == [IMAGES, 0]
    assert {result["content_digest"] for result in results} == {open_cache(steady_cache).content_digest}
    assert list(tmp_path.iterdir()) == [out]


def test_no_wait_refuses_while_another_computes(small_npz, steady_request, shell, tmp_path):
    out = tmp_path / "chest.zarr"
    first = Attempt(small_npz, out, *steady_request)
    first.wait_for(lambda: work_path(out).exists())
    second = shell("cache-teacher", small_npz, out, *steady_request, "--no-wait")
    assert second.returncode == 1
    assert f"is being made by process {first.process.pid} on" in second.stderr
    first.send(signal.SIGKILL)


# Medal itself, telling in a file how many images each forward pass took.
COUNTING = """
import os, sys
from medal.pipeline.teacher import teacher
honest = teacher.Teacher.features
def features(self, pixels, preprocessing):
    handle = os.open(os.environ["COUNTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, b"%d " % len(pixels))
    os.close(handle)
    return honest(self, pixels, preprocessing)
teacher.Teacher.features = features
from medal.cli import main
main()
"""


def computed(counted):
    """Return the images that full batches had, and so without the small sample on which precision is decided."""
    return sum(size for size in map(int, counted.read_text().split()) if size == BATCH) if counted.exists() else 0


@pytest.mark.parametrize(("suffix", "kills"), KILLS)
def test_killed_at_random_moments(suffix, kills, steady_cache, small_npz, steady_request, seed, tmp_path, monkeypatch):
    draw = np.random.default_rng(seed)
    expected = open_cache(steady_cache).content_digest
    out, counted = tmp_path / f"chest{suffix}", tmp_path / "counted"
    monkeypatch.setenv("COUNTED", str(counted))

    def attempt():
        return Attempt(small_npz, out, *steady_request, python=("-c", COUNTING))

    begun = time.monotonic()
    assert attempt().result()["content_digest"] == expected
    whole = time.monotonic() - begun
    # The last batch of each split is filled up.
    needed = computed(counted)
    assert IMAGES <= needed <= IMAGES + 3 * BATCH
    done, since, durable, wasted = 0, 0, 0, []
    while True:
        if out.exists():
            wasted.append((computed(counted) - needed, since))
            counted.unlink()
            assert open_cache(out).content_digest == expected
            assert verify_path(out) == []
            if done == kills:
                break
            remove(out)
            since = durable = 0
        if done == kills:
            result = attempt().result()
            assert result["computed"] + result["kept"] == IMAGES
            continue
        running = attempt()
        time.sleep(draw.uniform(0, whole))
        status, _, said = running.send(signal.SIGKILL)
        assert status in (0, -signal.SIGKILL), said
        done += status == -signal.SIGKILL
        since += status == -signal.SIGKILL
        kept = len(chunks(out))
        # What was durable before the kill is durable after it.
        assert out.exists() or kept >= durable
        durable = kept
    assert all(more <= kills * (CHUNK + BATCH) for more, kills in wasted), wasted
