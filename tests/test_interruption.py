"""Stage one interrupted: killed, stopped by Ctrl-C, out of disk, started twice. Real processes, the real teacher."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from medal.cache.reader import open_cache
from medal.cache.work import work_path

IMAGES, BATCH, CHUNK = 300, 16, 128


class Attempt:
    """`medal cache-teacher` in a process of its own."""

    def __init__(self, *words):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "medal", "cache-teacher", *map(str, words), "--json"],
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
def test_a_killed_run_resumes(suffix, small_cache, small_npz, small_request, medal, tmp_path):
    out = tmp_path / f"chest{suffix}"
    attempt = Attempt(small_npz, out, *small_request)
    attempt.wait_for(lambda: chunks(out))
    attempt.send(signal.SIGKILL)
    assert not out.exists()
    (work_path(out) / ".half.part").write_bytes(b"torn")
    made = medal("cache-teacher", small_npz, out, *small_request)
    assert made["action"] == "resume"
    assert made["kept"] >= CHUNK
    assert made["computed"] == IMAGES - made["kept"]
    assert made["content_digest"] == open_cache(small_cache).content_digest
    assert list(tmp_path.iterdir()) == [out]


def test_a_torn_chunk_is_computed_again(small_cache, small_npz, small_request, medal, tmp_path):
    out = tmp_path / "chest.zarr"
    attempt = Attempt(small_npz, out, *small_request)
    attempt.wait_for(lambda: chunks(out))
    attempt.send(signal.SIGKILL)
    for file in chunks(out):
        file.write_bytes(file.read_bytes()[:-100])
    made = medal("cache-teacher", small_npz, out, *small_request)
    assert (made["kept"], made["computed"]) == (0, IMAGES)
    assert made["content_digest"] == open_cache(small_cache).content_digest


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(small_npz, small_request, tmp_path):
    out = tmp_path / "chest.h5"
    attempt = Attempt(small_npz, out, *small_request)
    attempt.wait_for(lambda: chunks(out))
    status, _, said = attempt.send(signal.SIGINT)
    assert status == 130
    assert "Stopped by Ctrl-C" in said
    assert f"of {IMAGES} images are done and kept" in said
    assert f"Go on with: medal cache-teacher {small_npz} {out}" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chest.h5.work"]


def test_two_at_once_compute_once(small_cache, small_npz, small_request, tmp_path):
    out = tmp_path / "chest.zarr"
    both = [Attempt(small_npz, out, *small_request) for _ in range(2)]
    results = sorted((attempt.result() for attempt in both), key=lambda result: result["action"])
    assert [result["action"] for result in results] == ["create", "reuse"]
    assert [result["computed"] for result in results] == [IMAGES, 0]
    assert {result["content_digest"] for result in results} == {open_cache(small_cache).content_digest}
    assert list(tmp_path.iterdir()) == [out]


def test_no_wait_refuses_while_another_computes(small_npz, small_request, shell, tmp_path):
    out = tmp_path / "chest.zarr"
    first = Attempt(small_npz, out, *small_request)
    first.wait_for(lambda: work_path(out).exists())
    second = shell("cache-teacher", small_npz, out, *small_request, "--no-wait")
    assert second.returncode == 1
    assert f"is being made by process {first.process.pid} on" in second.stderr
    first.send(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_killed_at_random_moments(suffix, small_cache, small_npz, small_request, tmp_path):
    draw = np.random.default_rng(len(suffix))
    expected = open_cache(small_cache).content_digest
    out = tmp_path / f"chest{suffix}"
    begun = time.monotonic()
    assert Attempt(small_npz, out, *small_request).result()["content_digest"] == expected
    whole = time.monotonic() - begun
    kills, finished, durable = 0, 0, 0
    while kills < 25 or not out.exists():
        if out.exists():
            finished += 1
            assert Attempt(small_npz, out, *small_request).result()["content_digest"] == expected
            subprocess.run(["rm", "-rf", str(out)], check=True)
            durable = 0
        attempt = Attempt(small_npz, out, *small_request)
        if kills < 25:
            time.sleep(draw.uniform(0, whole))
            status, _, _ = attempt.send(signal.SIGKILL)
            kills += status == -signal.SIGKILL
            kept = len(chunks(out))
            # What was durable before the kill is durable after it.
            assert out.exists() or kept >= durable
            durable = kept
        else:
            result = attempt.result()
            assert result["content_digest"] == expected
            assert result["computed"] + result["kept"] == IMAGES
    assert finished >= 1
