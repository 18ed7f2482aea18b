"""Disks that fill up and mounts that go away, while either stage writes or reads. Real file systems, real processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medal.cache.making.work import work_path
from medal.cache.reader import open_cache
from medal.pipeline.teacher.demo import tiny_teacher

pytestmark = pytest.mark.xdist_group("serial")

MB = 1 << 20
DRAWN = ("cache-teacher", "phantom")


class Mount:
    """A small file system in memory, mounted by root or, for others, in a user namespace of its own.

    Attributes
    ----------
    folder : where it is; a namespace's files are seen from outside through its process
    """

    def __init__(self, folder, size):
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "medal-test", str(folder)]
        self.holder, self.folder, self._undo = None, folder, ["umount", "-l", str(folder)]
        if os.geteuid() == 0:
            if subprocess.run(words, capture_output=True, check=False).returncode:
                pytest.skip("root may not mount a file system here")
            return
        script = '"$@" && echo mounted && exec cat'
        self.holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if self.holder.stdout.readline() != b"mounted\n":
            self.close()
            pytest.skip("this user may not mount a file system: not root, and user namespaces are not allowed")
        self.folder = Path(f"/proc/{self.holder.pid}/root{folder}")
        enter = f"nsenter --target {self.holder.pid} --user --preserve-credentials --mount"
        self._undo = [*enter.split(), *self._undo]

    def lose(self):
        """Unmount it at once, whoever is using it."""
        subprocess.run(self._undo, check=True)

    def close(self):
        if self.holder is None:
            subprocess.run(self._undo, check=False, capture_output=True)
        else:
            self.holder.communicate()


@pytest.fixture
def mount(tmp_path):
    """A small disk, and how to lose it."""
    if not all(map(shutil.which, ("mount", "unshare", "nsenter"))):
        pytest.skip("this system has no mount, unshare or nsenter")
    made = Mount(tmp_path / "disk", 32 * MB)
    yield made
    made.close()


@pytest.fixture
def disk(mount):
    """A small disk."""
    return mount.folder


def leave(disk, free):
    """Fill a disk until so many bytes are free; return the file that does."""
    ballast = disk / "ballast"
    stat = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, stat.f_bavail * stat.f_frsize - free)))
    return ballast


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_teacher(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def drawn(medal, tiny, tmp_path_factory):
    """The cache that the commands here would make, left alone."""
    out = tmp_path_factory.mktemp("drawn") / "drawn.zarr"
    return out, medal(*DRAWN, out, "--teacher", tiny, "--batch-size", 8)


def stop_and_go_on(disk, out, ballast, drawn, tiny, shell):
    """Run the command on a full disk, then with room; return how many images the first try kept."""
    stopped = shell(*DRAWN, out, "--teacher", tiny, "--batch-size", 8)
    assert stopped.returncode == 1
    assert "Traceback" not in stopped.stderr
    told = stopped.stderr.splitlines()[-1]
    assert "No space left on device" in told
    assert f"of 630 images are finished and kept in '{work_path(out)}'" in told
    assert f"Continue with: medal cache-teacher phantom {out}" in told
    assert not out.exists()
    ballast.unlink()
    made = shell(*DRAWN, out, "--teacher", tiny, "--batch-size", 8, "--json")
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout.splitlines()[-1])
    kept = int(told.partition(" of 630")[0].rpartition(" ")[2])
    assert (result["action"], result["kept"]) == ("resume", kept)
    assert result["content_digest"] == drawn[1]["content_digest"]
    assert [path.name for path in disk.iterdir()] == [out.name]
    return kept


@pytest.mark.parametrize("suffix", [".zarr", pytest.param(".h5", marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_keeps_what_is_done(suffix, disk, drawn, tiny, shell):
    ballast = leave(disk, 90_000)
    assert 0 < stop_and_go_on(disk, disk / f"drawn{suffix}", ballast, drawn, tiny, shell) < 630


@pytest.mark.parametrize("suffix", [pytest.param(".zarr", marks=pytest.mark.slow), ".h5"])
def test_a_disk_too_full_to_seal_on_keeps_everything(suffix, disk, drawn, tiny, shell):
    # The work is about as large as the cache: once does fit, twice does not.
    with open_cache(drawn[0]).open_arrays() as arrays:
        size = sum(rows[:].nbytes for rows in arrays.values())
    ballast = leave(disk, size * 8 // 5)
    assert stop_and_go_on(disk, disk / f"drawn{suffix}", ballast, drawn, tiny, shell) == 630


def wait_until(thing, process):
    deadline = time.monotonic() + 120
    while not thing():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)


def test_a_disk_that_is_full_from_the_start_says_so(disk, tiny, shell):
    leave(disk, 0)
    stopped = shell(*DRAWN, disk / "drawn.zarr", "--teacher", tiny)
    assert stopped.returncode == 1
    assert "No space left on device" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def test_a_replaced_cache_survives_a_full_disk(disk, drawn, tiny, shell, medal):
    out = disk / "drawn.zarr"
    shutil.copytree(drawn[0], out)
    leave(disk, 200_000)
    stopped = shell(*DRAWN, out, "--teacher", tiny, "--batch-size", 8, "--image-size", 28, "--overwrite")
    assert stopped.returncode == 1
    assert medal("verify", out)["ok"]
    assert medal("show", out)["content_digest"] == drawn[1]["content_digest"]


def test_training_on_a_full_disk_says_so_and_goes_on(disk, drawn, shell):
    run = disk / "run"
    ballast = leave(disk, 100_000)
    words = ("train-student", drawn[0], "phantom", "--out", run, "--student", "test_resnet", "--epochs", 2)
    words += ("--image-size", 32, "--precision", "fp32", "--workers", 0)
    stopped = shell(*words)
    assert stopped.returncode == 1
    assert "No space left on device" in stopped.stderr
    assert stopped.stderr.endswith("; fix that and run the same command again.\n")
    assert "Traceback" not in stopped.stderr
    assert not run.exists()
    ballast.unlink()
    done = shell(*words)
    assert done.returncode == 0, done.stderr
    assert (run / "run.json").is_file()


WRITE = """
import sys
from pathlib import Path
from medal.cache.reader import open_cache
from medal.cache.convert import convert
try:
    convert(open_cache(sys.argv[1]), Path(sys.argv[2]))
except OSError as error:
    print(error.errno)
"""


def test_wherever_an_hdf5_file_meets_the_end_of_the_disk_the_process_lives(disk, drawn):
    out = disk / "drawn.h5"
    for free in range(0, 200_000, 20_000):
        ballast = leave(disk, free)
        done = subprocess.run(
            [sys.executable, "-c", WRITE, str(drawn[0]), str(out)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "28\n"), (free, done.stderr)
        assert list(disk.iterdir()) == [ballast]
        ballast.unlink()


@pytest.mark.parametrize("lost", ["out", "dataset"])
def test_a_lost_mount_stops_cleanly(lost, mount, small_npz, steady_request, tmp_path):
    disk = mount.folder
    out = (disk if lost == "out" else tmp_path) / "chest.zarr"
    dataset = small_npz if lost == "out" else disk / "scans"
    if lost == "dataset":
        with np.load(small_npz) as real:
            for index, image in enumerate(real["train_images"]):
                file = dataset / "ab"[int(real["train_labels"][index, 0])] / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(file)
    process = subprocess.Popen(
        [sys.executable, "-m", "medal", "cache-teacher", *map(str, (dataset, out, *steady_request))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = "*-*.npy" if lost == "out" else "work.json"
    wait_until(lambda: work_path(out).is_dir() and list(work_path(out).glob(first)), process)
    mount.lose()
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1, told
    assert "Traceback" not in told
    expected = "Continue with: medal cache-teacher" if lost == "dataset" else "Run the same command again"
    assert expected in told.splitlines()[-1]
