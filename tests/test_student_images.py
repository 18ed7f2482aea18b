"""The student's pixels: sizes, memory and streams, and what cannot be decoded."""

import numpy as np
import pytest
import torch

from medal.cache.errors import DataError
from medal.student.images import StudentImages, choose_image_size, load_images, typical_side
from medal.student.model import ModelSpec

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
    kinds = [(pixels.shape[0], pixels.dtype) for pixels in map(images.read, range(3))]
    assert kinds == [(1, torch.uint8), (3, torch.uint8), (1, torch.float32)]


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
        assert torch.equal(first[0], images.read(3).float().expand(3, -1, -1))


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


def test_typical_side_is_the_median_longer_one():
    assert typical_side(Pictures(9), np.arange(9)) == 12


@pytest.mark.parametrize(
    ("typical", "spec", "asked", "size"),
    [(28, CNN, None, 112), (64, CNN, None, 256), (65, CNN, None, 224), (640, CNN, None, 224), (28, CNN, 28, 28),
     (28, VIT, None, 224), (28, VIT, 112, 112)],
)  # fmt: skip
def test_image_size(typical, spec, asked, size):
    assert choose_image_size(typical, spec, asked) == size
