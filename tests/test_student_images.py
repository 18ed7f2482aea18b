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
        self.bad = bad
        self.pictures = [random.integers(0, 256, shapes[row % 3], dtype=np.uint8) for row in range(count)]
        self.pictures[2] = self.pictures[2].astype(np.float32) + np.float32(0.25)

    def __len__(self) -> int:
        return len(self.pictures)

    def key(self, row: int) -> bytes:
        return row.to_bytes(16, "little")

    def read(self, row: int) -> np.ndarray:
        if row in self.bad:
            raise DataError(f"file '{row}.png' is truncated.")
        return self.pictures[row]

    def describe(self, row: int) -> str:
        return f"file '{row}.png'"


def _images(pictures, rows=None, size=16):
    rows = np.arange(len(pictures)) if rows is None else np.array(rows)
    return StudentImages(pictures, rows, size, "squash")


def test_grey_images_are_kept_in_one_channel_and_deep_ones_as_floats():
    images = _images(Pictures(6), size=7)
    kinds = [(images[row].shape[0], images[row].dtype) for row in range(3)]
    assert kinds == [(1, torch.uint8), (3, torch.uint8), (1, torch.float32)]


def test_memory_and_stream_give_the_same_pixels():
    images = _images(Pictures(9), rows=[8, 1, 2, 5, 4, 7])
    batches = [np.array([0, 3, 5]), np.array([2]), np.array([4, 1])]
    kept, streamed = load_images(images), load_images(images, memory_bytes=0)
    assert type(kept) is not type(streamed)
    for one, other in zip(kept.batches(batches), streamed.batches(batches), strict=True):
        assert one.shape[1:] == (3, 16, 16)
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.parametrize("memory", [1 << 20, 0])
def test_all_images_that_cannot_be_read_are_listed(memory):
    images = _images(Pictures(9, bad=(3, 7)))
    with pytest.raises(DataError) as caught:
        list(load_images(images, memory).batches([np.arange(9)]))
    assert str(caught.value) == "file '3.png' is truncated.\nfile '7.png' is truncated."


def test_typical_side_is_the_median_longer_one():
    assert typical_side(Pictures(9), np.arange(9)) == 12


@pytest.mark.parametrize(
    ("typical", "spec", "asked", "size"),
    [(28, CNN, None, 112), (64, CNN, None, 256), (65, CNN, None, 224), (640, CNN, None, 224), (28, CNN, 28, 28),
     (28, VIT, None, 224), (28, VIT, 112, 112)],
)  # fmt: skip
def test_image_size(typical, spec, asked, size):
    assert choose_image_size(typical, spec, asked) == size
