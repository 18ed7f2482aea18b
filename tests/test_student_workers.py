"""Images by worker processes: the same losses to the bit, whoever reads them, and nothing left behind."""

import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from medal.cache.convert import convert_path
from medal.cache.errors import DataError, StudentError
from medal.pipeline.datasets.columns.dataset import DatasetOptions
from medal.pipeline.datasets.kinds.arrays import ArrayImages
from medal.pipeline.datasets.opening import open_dataset
from medal.student.distill import carry_out
from medal.student.members.plan import ask
from medal.student.network.images import ImageStream, StudentImages, load_images
from medal.student.network.speed import Plan
from medal.student.settings import StudentSettings
from medal.student.training.checkpoint import Checkpoint
from medal.student.training.loop import Recipe, TrainingData, begin, train

# From Python 3.12 on, a fork of a process with threads is warned about: that is why it is not what users get.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

SETTINGS = StudentSettings(student="test_resnet", epochs=2, batch_size=16, precision="fp32", image_size=32, seed=3)
# A run that is resumed, below, has a spawned process.
QUICK = [("h5", None, "spawn"), ("zarr", 0, "spawn"), ("h5", 2, "fork"), ("zarr", 4, "fork")]
FULL = list(itertools.product(("zarr", "h5"), (None, 0, 2, 4), ("spawn", "fork")))


@contextmanager
def _silent(_what, _total, _done):
    yield lambda _count: None


@pytest.fixture(scope="module")
def place(small_cache, small_npz, tmp_path_factory):
    """A folder with the small real cache in both forms and its images."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "chest.zarr").symlink_to(small_cache)
    (folder / "chest.npz").symlink_to(small_npz)
    convert_path(small_cache, folder / "chest.h5")
    return folder


def _ask(place, run, form="zarr", settings=SETTINGS):
    return ask(str(place / f"chest.{form}"), str(place / "chest.npz"), DatasetOptions(), settings, run, overwrite=False)


def _history(place, folder, form, workers, start):
    """Train and return the history; the model has dropout, which draws from torch's generator."""
    asked = _ask(place, folder / "run", form)
    images = StudentImages(asked.dataset.images, asked.image_size, asked.preprocessing.resize)
    rows = {split: part.row for split, part in asked.targets.splits.items()}
    plan = Plan(precision="fp32", channels_last=True)
    recipe = Recipe(settings=asked.settings, epochs=2, policy=asked.policy, plan=plan, device="cpu")
    with torch.random.fork_rng(), load_images(images, rows, workers, start=start) as pixels:
        data = TrainingData(targets=asked.targets, pixels=pixels, mean=asked.spec.mean, std=asked.spec.std)
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=2, drop_rate=0.5)
        state = begin(model, recipe)
        checkpoint = Checkpoint(folder / "checkpoint.safetensors")
        train(state, data, recipe, checkpoint=checkpoint, report=lambda _: None, advance=lambda _: None)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in state.history]


@pytest.fixture(scope="module")
def history(place, tmp_path_factory):
    """What every other way has to give: Zarr, images held in memory."""
    found = _history(place, tmp_path_factory.mktemp("history"), "zarr", None, "spawn")
    assert len({row["train_loss"] for row in found}) == 2
    return found


@pytest.mark.parametrize(("form", "workers", "start"), QUICK)
def test_losses_are_the_same_to_the_bit(place, history, tmp_path, form, workers, start):
    assert _history(place, tmp_path, form, workers, start) == history


@pytest.mark.slow
@pytest.mark.parametrize(("form", "workers", "start"), FULL)
def test_losses_are_the_same_to_the_bit_in_every_combination(place, history, tmp_path, form, workers, start):
    assert _history(place, tmp_path, form, workers, start) == history


def test_a_run_is_resumed_with_another_number_of_workers(place, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))  # after every epoch, however quick

    def stop(text):
        if text.startswith("epoch 1/"):
            raise KeyboardInterrupt

    def asked(run, workers):
        return _ask(place, tmp_path / run, settings=StudentSettings(**{**vars(SETTINGS), "workers": workers}))

    carry_out(asked("whole", None), _silent, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        carry_out(asked("parts", 1), _silent, stop)
    assert not active_children()
    assert asked("parts", 0).action == "resume"
    carry_out(asked("parts", 0), _silent, lambda _: None)
    for name in ("model.safetensors", "predictions.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# ── What streams ─────────────────────────────────────────────────────────────────────────────────────────────────


def _stream(workers, start="fork", count=12, image_bytes=1.0, bad=None, folder=None):
    """Noise, as arrays or as files of which some are cut short."""
    arrays = np.random.default_rng(0).integers(0, 256, (count, 9, 7), dtype=np.uint8)
    images = ArrayImages({"train_images": arrays}, "noise")
    if folder is not None:
        for row, array in enumerate(arrays):
            path = folder / f"{'ab'[row % 2]}/{row:02}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(array).save(path)
            if row in bad:
                path.write_bytes(path.read_bytes()[:60])
        images = open_dataset(str(folder)).images
    return ImageStream(StudentImages(images, 8, "squash"), workers, image_bytes, start)


def _batches(*rows):
    return [np.array(part) for part in rows]


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_s_generator_is_left_alone(workers):
    before = torch.get_rng_state()
    with closing(_stream(workers)) as stream:
        list(stream.batches(_batches([1, 2], [3], [4, 5])))
    assert torch.equal(before, torch.get_rng_state())


def test_processes_stay_from_pass_to_pass_and_end_with_the_stream():
    with closing(_stream(2)) as stream:
        list(stream.batches(_batches([1], [2], [3])))
        first = {process.pid for process in active_children()}
        list(stream.batches(_batches([4], [5])))
        assert {process.pid for process in active_children()} == first
        assert len(first) == 2
    assert not active_children()


def test_a_pass_that_was_left_off_is_over_when_another_begins():
    with closing(_stream(2)) as stream:
        left_off = stream.batches(_batches([1], [2], [3], [4]))
        next(left_off)
        wanted = _batches([5], [6, 7], [8], [9])
        passing, expected = stream.batches(wanted), _stream(0).batches(wanted)
        assert torch.equal(next(passing), next(expected))
        assert not list(left_off)
        for one, other in zip(passing, expected, strict=True):
            assert torch.equal(one, other)
        left_off = stream.batches(wanted)
        next(left_off)
    assert not active_children()


@pytest.mark.parametrize(("image_bytes", "processes"), [(1, 4), (1 << 27, 2), (1 << 40, 1)])
def test_few_large_batches_are_decoded_ahead(image_bytes, processes):
    with closing(_stream(4, image_bytes=image_bytes)) as stream:
        list(stream.batches(_batches([0, 1], [2, 3], [4, 5], [6, 7], [8])))
        assert len(active_children()) == processes


def test_bad_images_come_out_of_a_process_as_one_error_with_all_of_the_batch(tmp_path, capfd):
    with closing(_stream(1, bad=(4, 6, 7), folder=tmp_path)) as stream:
        passing = stream.batches(_batches([0, 1], range(2, 8), range(8, 12)))
        next(passing)
        with pytest.raises(DataError) as caught:
            next(passing)
    # In a folder's own order those of 'a' come first; the third bad one is of a later batch.
    assert re.findall(r"file '([ab]/\d\d)\.png'", str(caught.value)) == ["a/04", "a/06"]
    assert "Traceback" not in str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize("waiting", [True, False])
def test_a_process_that_is_killed_is_told_in_a_sentence(waiting):
    """Whether its batch is waited for, or this process is at something else."""
    images = StudentImages(ArrayImages({"noise": np.zeros((3, 9, 7), np.uint8)}, "noise"), 8, "squash")
    told = pytest.raises(StudentError, match=r"was killed or crashed.*finished epochs are kept.*--workers 0")
    with told, load_images(images, {"train": np.arange(3)}, 1, start="fork") as pixels:
        passing = pixels["train"].batches(_batches([0], [1], [2]))
        next(passing)
        (process,) = active_children()
        os.kill(process.pid, signal.SIGKILL)
        if waiting:
            list(passing)
        time.sleep(30)


def test_no_room_for_mapped_stacks_is_told_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with closing(_stream(1, "spawn")) as stream, pytest.raises(DataError, match=r"TMPDIR .* 756 bytes.*--workers 0"):
        list(stream.batches(_batches([1])))


# ── Ctrl-C and worse ─────────────────────────────────────────────────────────────────────────────────────────────


def _running():
    """Return the process that started it by each process that has not ended; one that nobody buried has."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            if state != "Z":
                found[int(folder.name)] = int(parent)
    return found


def _started_by(parent):
    return [pid for pid, starter in _running().items() if starter == parent]


def _alive(pids):
    return _running().keys() & pids


def _wait(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _wait_for_the_end_of(pids):
    try:
        _wait(lambda: not _alive(pids), 15)
    finally:
        for pid in _alive(pids):
            os.kill(pid, signal.SIGKILL)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")

# A batch is larger than what a pipe holds (64 KiB), so that whoever sends it waits for somebody to take it.
STREAMING = """\
import time
from multiprocessing import active_children

import numpy as np

from medal.pipeline.datasets.kinds.arrays import ArrayImages
from medal.student.network.images import StudentImages, load_images

images = StudentImages(ArrayImages({"noise": np.zeros((128, 8, 8), np.uint8)}, "noise"), 64, "squash")
with load_images(images, {"train": np.arange(128)}, 2, start="fork") as pixels:
    next(pixels["train"].batches(np.split(np.arange(128), 4)))
    print(*[process.pid for process in active_children()], flush=True)
    time.sleep(60)
"""


@needs_proc
def test_processes_whose_parent_is_killed_end():
    with subprocess.Popen([sys.executable, "-c", STREAMING], stdout=subprocess.PIPE, text=True) as parent:
        started = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(started) == 2
    _wait_for_the_end_of(started)


@needs_proc
@pytest.mark.parametrize(
    ("moment", "sent", "workers"),
    [
        ("begin", signal.SIGINT, 1),
        pytest.param("begin", signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param("train", signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param("train", signal.SIGKILL, 2, marks=pytest.mark.slow),
    ],
)
def test_a_command_that_is_stopped_leaves_no_process_behind(place, tmp_path, moment, sent, workers):
    """Ctrl-C reaches the whole group, as from a terminal, also while processes begin; a kill only the command."""
    words = [
        "train-student",
        place / "chest.zarr",
        place / "chest.npz",
        "--out",
        tmp_path / "run",
        "--workers",
        workers,
        "--student",
        "test_resnet",
        "--image-size",
        64,
        "--epochs",
        500,
        "--precision",
        "fp32",
    ]
    with (tmp_path / "said").open("w") as said:
        command = subprocess.Popen(
            [sys.executable, "-m", "medal", *map(str, words)], stdout=said, stderr=said, start_new_session=True
        )
    try:
        # A worker at least, and Python's own process that looks after semaphores.
        _wait(lambda: len(_started_by(command.pid)) >= 2)
        if moment == "train":
            _wait(lambda: "epoch 1/" in (tmp_path / "said").read_text())
        started = _started_by(command.pid)
        if sent == signal.SIGINT:
            os.killpg(command.pid, sent)
        else:
            command.send_signal(sent)
        command.wait(30)
    finally:
        command.kill()
        command.wait()
    _wait_for_the_end_of(started)
    text = (tmp_path / "said").read_text()
    assert "Traceback" not in text
    if sent == signal.SIGINT:
        assert command.returncode == 130
        assert text.splitlines()[-1].startswith(
            "medal: Stopped by Ctrl-C; every finished epoch is kept. Continue with: medal"
        )
