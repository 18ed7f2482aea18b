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
from multiprocessing import active_children, context
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from medal.cache.convert import convert_path
from medal.cache.errors import DataError, StudentError
from medal.pipeline.datasets import open_dataset
from medal.pipeline.datasets.arrays import ArrayImages
from medal.pipeline.datasets.dataset import DatasetOptions
from medal.student.checkpoint import Checkpoint
from medal.student.distill import ask, train_student
from medal.student.images import HeldImages, SplitImages, StreamedImages, StudentImages
from medal.student.precision import Plan
from medal.student.settings import StudentSettings
from medal.student.training import Recipe, TrainingData, begin, train

# From Python 3.12 on, a fork of a process with threads is warned about: that is why it is not what users get.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

SETTINGS = StudentSettings(student="test_resnet", epochs=2, batch_size=16, precision="fp32", image_size=32, seed=3)
QUICK = [("h5", None, "spawn"), ("zarr", 0, "spawn"), ("h5", 2, "spawn"), ("zarr", 4, "fork")]
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
    streamed = StreamedImages(images, workers or 0, 32 * 32, start)
    source = HeldImages(images, np.concatenate(list(rows.values()))) if workers is None else streamed
    pixels = {split: SplitImages(source, part) for split, part in rows.items()}
    data = TrainingData(targets=asked.targets, pixels=pixels, mean=asked.spec.mean, std=asked.spec.std)
    plan = Plan(precision="fp32", channels_last=True)
    recipe = Recipe(settings=asked.settings, epochs=2, policy=asked.policy, plan=plan, device="cpu")
    with torch.random.fork_rng(), closing(streamed):
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

    train_student(asked("whole", None), _silent, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        train_student(asked("parts", 2), _silent, stop)
    assert not active_children()
    assert asked("parts", 0).action == "resume"
    train_student(asked("parts", 0), _silent, lambda _: None)
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
    return StreamedImages(StudentImages(images, 8, "squash"), workers, image_bytes, start)


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


def test_a_pass_that_was_left_off_does_not_leak_into_the_next():
    with closing(_stream(2)) as stream, closing(_stream(0)) as here:
        left_off = stream.batches(_batches([1], [2], [3], [4]))
        next(left_off)
        wanted = _batches([5], [6, 7], [8])
        for one, other in zip(stream.batches(wanted), here.batches(wanted), strict=True):
            assert torch.equal(one, other)
        with pytest.raises(StudentError):
            next(left_off)


@pytest.mark.parametrize(("image_bytes", "processes"), [(1, 4), (1 << 27, 2), (1 << 40, 1)])
def test_few_large_batches_are_decoded_ahead(image_bytes, processes):
    with closing(_stream(4, image_bytes=image_bytes)) as stream:
        list(stream.batches(_batches([0, 1], [2, 3], [4, 5], [6, 7], [8])))
        assert len(active_children()) == processes


def test_bad_images_come_out_of_a_process_as_one_error_with_all_of_the_batch(tmp_path, capfd):
    with closing(_stream(1, "spawn", bad=(4, 6, 7), folder=tmp_path)) as stream:
        passing = stream.batches(_batches([0, 1], range(2, 8), range(8, 12)))
        next(passing)
        with pytest.raises(DataError) as caught:
            next(passing)
    # In a folder's own order those of 'a' come first; the third bad one is of a later batch.
    assert re.findall(r"file '([ab]/\d\d)\.png'", str(caught.value)) == ["a/04", "a/06"]
    assert "Traceback" not in str(caught.value) + "".join(capfd.readouterr())


def test_a_process_that_is_killed_is_told_in_a_sentence():
    with closing(_stream(1)) as stream:
        passing = stream.batches(_batches([1], [2], [3]))
        next(passing)
        (process,) = active_children()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(StudentError, match=r"ended with exit status -9; whole epochs are kept.*--workers 0"):
            list(passing)


# ── What is sent to a process ────────────────────────────────────────────────────────────────────────────────────


class Duplicate:
    """A descriptor as a new process would find it."""

    def __init__(self, number):
        self.number = number

    def detach(self):
        return self.number


class Beginning:
    """What stands for a process that is being started: it is given descriptors."""

    DupFd = Duplicate

    def duplicate_for_child(self, number):
        return os.dup(number)


def _sent(images):
    """Return images as a new process gets them, and the number of bytes that it is sent."""
    context.set_spawning_popen(Beginning())
    try:
        content = ForkingPickler.dumps(images)
    finally:
        context.set_spawning_popen(None)
    return ForkingPickler.loads(content), len(content)


@pytest.fixture
def kinds(shared, small_npz, tmp_path):
    """A dataset of each kind; what stands behind `medmnist:` is an .npz."""
    for row in range(4):
        path = tmp_path / f"folder/{'ab'[row % 2]}/{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 60 * row, np.uint8)).save(path)
    table = shared / "data/busi_256/labels.csv"
    specs = {"npz": small_npz, "folder": tmp_path / "folder", "csv": table, "phantom": "phantom"}
    return {kind: open_dataset(str(spec)) for kind, spec in specs.items()}


def test_every_kind_of_dataset_can_be_sent_and_large_arrays_are_mapped(kinds):
    for kind, dataset in kinds.items():
        for images in (dataset.images, dataset.take(np.array([3, 0])).images):
            there, size = _sent(images)
            assert size < 100_000, kind
            for row in (0, 1, len(images) - 1):
                assert np.array_equal(there.read(row), images.read(row)), kind
                assert there.key(row) == images.key(row), kind


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "f4", "?"])
def test_mapped_stacks_are_the_stacks(dtype):
    random = np.random.default_rng(0)
    stacks = {
        "empty": np.zeros((0, 5, 3), dtype),
        "grey": random.integers(0, 2, (3, 5, 3)).astype(dtype),
        "reversed": np.asfortranarray(random.integers(0, 2, (2, 5, 3, 3)).astype(dtype))[::-1],
    }
    there, _ = _sent(ArrayImages(stacks, "made", (0, 1)))
    for name, stack in stacks.items():
        assert there.stacks[name].dtype == stack.dtype
        assert np.array_equal(there.stacks[name], stack)
    # Sent on, or copied in another way, they are what they were.
    assert np.array_equal(ForkingPickler.loads(ForkingPickler.dumps(there)).read(4), there.read(4))


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


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        ("begin", signal.SIGINT),
        pytest.param("train", signal.SIGINT, marks=pytest.mark.slow),
        ("train", signal.SIGKILL),
    ],
)
def test_a_command_that_is_stopped_leaves_no_process_behind(place, tmp_path, moment, sent):
    """Ctrl-C reaches the whole group, as from a terminal, also while processes begin; a kill only the command."""
    words = ["train-student", place / "chest.zarr", place / "chest.npz", "--out", tmp_path / "run", "--workers", 2,
             "--student", "test_resnet", "--image-size", 32, "--epochs", 500, "--precision", "fp32"]  # fmt: skip
    with (tmp_path / "said").open("w") as said:
        command = subprocess.Popen(
            [sys.executable, "-m", "medal", *map(str, words)],
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        # Two workers, and Python's own process that looks after semaphores.
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
    try:
        _wait(lambda: not _alive(started), 15)
    finally:
        for pid in _alive(started):
            os.kill(pid, signal.SIGKILL)
    text = (tmp_path / "said").read_text()
    assert "Traceback" not in text
    if sent == signal.SIGINT:
        assert command.returncode == 130
        assert text.splitlines()[-1].startswith("medal: Stopped by Ctrl-C; whole epochs are kept. Go on with: medal")
