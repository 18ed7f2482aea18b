"""The student's pixels: sizes, memory and streams, and what cannot be decoded."""

import os
from multiprocessing import context
from multiprocessing.reduction import ForkingPickler

import drawn
import numpy as np
import pytest
import torch
from PIL import Image

from medal.cache.errors import DataError
from medal.pipeline.datasets.columns.dataset import typical_side
from medal.pipeline.datasets.kinds.arrays import ArrayImages
from medal.pipeline.datasets.opening import open_dataset
from medal.student.network.images import StudentImages, choose_image_size, load_images
from medal.student.network.model import ModelSpec
from medal.student.network.resident import HeldImages

CNN = ModelSpec(name="cnn", image_size=224, fixed_size=False, mean=(0.5,) * 3, std=(0.5,) * 3)
VIT = ModelSpec(name="vit", image_size=224, fixed_size=True, mean=(0.5,) * 3, std=(0.5,) * 3)


class Pictures:
    """Images by hand: grey, colour and deep ones of several sizes; some cannot be read."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()) -> None:
        random = np.random.default_rng(0)
        shapes = [(12, 9, 1), (12, 12, 3), (7, 10, 1)]
        self.bad, self.reads = bad, 0
        self.pictures = [random.integers(0, 256, shapes[row % 3], dtype=np.uint8) for row in range(count)]
        self.pictures[2] = self.pictures[2].astype(np.float32) + np.float32(0.25)

    def __len__(self) -> int:
        return len(self.pictures)

    def key(self, row: int) -> bytes:
        return row.to_bytes(16, "little")

    def read(self, row: int) -> np.ndarray:
        self.reads += 1
        if row in self.bad:
            raise DataError(f"file '{row}.png' is truncated.")
        return self.pictures[row]

    def describe(self, row: int) -> str:
        return f"file '{row}.png'"


def test_grey_images_are_kept_in_one_channel_and_deep_ones_as_floats():
    images = StudentImages(Pictures(6), 7, "squash")
    kinds = [(type(images[row]), images[row].shape[0], images[row].dtype) for row in range(3)]
    # Arrays: tensors would go from worker processes through shared memory.
    assert kinds == [(np.ndarray, 1, np.uint8), (np.ndarray, 3, np.uint8), (np.ndarray, 1, np.float32)]


def test_memory_and_stream_give_the_same_pixels():
    images = StudentImages(Pictures(9), 16, "squash")
    rows = {"train": np.array([8, 1, 2, 5, 4, 7]), "val": np.array([0, 3])}
    batches = [np.array([0, 3, 5]), np.array([2]), np.array([4, 1])]
    with load_images(images, rows) as kept, load_images(images, rows, workers=0) as streamed:
        for one, other in zip(kept["train"].batches(batches), streamed["train"].batches(batches), strict=True):
            assert one.shape[1:] == (3, 16, 16)
            assert one.dtype == torch.float32
            assert torch.equal(one, other)
            assert one.stride() == other.stride()
        (first,) = kept["val"].batches([np.array([1])])
        assert torch.equal(first[0], torch.from_numpy(images[3]).float().expand(3, -1, -1))


@pytest.mark.parametrize(("workers", "splits"), [(None, ["train", "val"]), (0, ["train"])])
def test_all_images_that_cannot_be_read_are_listed(workers, splits):
    """Held in memory: of all splits, before the first batch; streamed: of the batch."""
    images = StudentImages(Pictures(12, bad=(3, 7, 10)), 16, "squash")
    rows = {"train": np.arange(9), "val": np.arange(9, 12)}
    with pytest.raises(DataError) as caught, load_images(images, rows, workers) as pixels:
        list(pixels["train"].batches([np.arange(9)]))
    bad = (3, 7, 10) if "val" in splits else (3, 7)
    assert str(caught.value) == "\n".join(f"file '{row}.png' is truncated." for row in bad)


@pytest.mark.parametrize(("row", "image_bytes"), [(0, 16 * 16), (1, 3 * 16 * 16), (2, 4 * 16 * 16)])
def test_the_memory_bound_is_one_for_all_splits_and_weighs_what_images_really_take(row, image_bytes):
    pictures = Pictures(3)
    rows = {"train": np.full(30, row), "val": np.full(20, row), "test": np.full(10, row)}
    for spare, held in ((0, True), (-1, False)):
        pictures.reads = 0
        with load_images(StudentImages(pictures, 16, "squash"), rows, memory_bytes=60 * image_bytes + spare):
            # Streamed images are read when they are needed, but for the few that are weighed.
            assert (pictures.reads >= 60) == held


@pytest.mark.parametrize(("memory_bytes", "held"), [(40 * 256 * 3, True), (40 * 256 * 3 - 1, False)])
def test_a_rare_image_of_another_kind_widens_all_or_has_all_of_them_streamed(memory_bytes, held):
    pictures = Pictures(40)
    pictures.pictures = [pictures.pictures[0 if row != 1 else 1] for row in range(40)]  # 1 is none that is weighed
    images = StudentImages(pictures, 16, "squash")
    with load_images(images, {"train": np.arange(40)}, memory_bytes=memory_bytes) as pixels:
        assert isinstance(pixels["train"], HeldImages) == held
        if held:
            (batch,) = pixels["train"].batches([np.array([0, 1])])
            for row in (0, 1):
                assert torch.equal(batch[row], torch.from_numpy(images[row]).float().expand(3, -1, -1))


def test_typical_side_is_the_median_longer_one():
    assert typical_side(Pictures(9), np.arange(9)) == 12


@pytest.mark.parametrize(
    ("typical", "spec", "asked", "size"),
    [
        (28, CNN, None, 112),
        (64, CNN, None, 256),
        (65, CNN, None, 224),
        (640, CNN, None, 224),
        (28, CNN, 28, 28),
        (28, VIT, None, 224),
        (28, VIT, 112, 112),
    ],
)
def test_image_size(typical, spec, asked, size):
    assert choose_image_size(typical, spec, asked) == size


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
def kinds(small_npz, tmp_path):
    """A dataset of each kind; what stands behind `medmnist:` is an .npz."""
    for row in range(4):
        path = tmp_path / f"folder/{'ab'[row % 2]}/{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 60 * row, np.uint8)).save(path)
    table = drawn.save_cells(tmp_path / "cells")
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
