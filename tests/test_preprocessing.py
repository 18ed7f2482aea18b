"""What the teacher sees: the same pixels as transformers' own image processor gives, in batches."""

import json

import numpy as np
import pytest
import torch
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medal.cache.errors import DataError, TeacherError
from medal.pipeline.datasets.columns.dataset import DatasetOptions
from medal.pipeline.datasets.kinds.phantom import open_phantom
from medal.pipeline.views.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from medal.pipeline.views.transforms import normalise, quadrant_means, resize_images

SIZE = 112


@pytest.fixture(scope="module", params=["drawn", "real"])
def images(request) -> list[np.ndarray]:
    """Images of many sizes, one channel and three: drawn ones, and real ones where they are at hand."""
    if request.param == "real":
        return real_images(request.getfixturevalue("shared") / "data")
    scans = open_phantom(DatasetOptions())
    random = np.random.default_rng(0)
    sides = [(30, 30, 3), (57, 91, 3), (300, 224, 1), (480, 640, 3), (113, 112, 1)]
    noise = [random.integers(0, 256, shape).astype(np.uint8) for shape in sides]
    return [scans.images.read(0), scans.images.read(9)[4:60:2, 4:60:2], *noise]


def real_images(data) -> list[np.ndarray]:
    """Two sizes of X-rays and ultrasound, one channel and three; cells of odd sizes; oblong smears."""
    with np.load(data / "pneumoniamnist/pneumoniamnist.npz") as chest:
        images = [image[..., None] for image in chest["test_images"][:3]]
    names = [
        *sorted((data / "busi_256").rglob("*.png"))[::250],
        *sorted((data / "wbc_two_sources").rglob("*.[bjp][mpn]*"))[::130],
        *sorted((data / "bccd_multilabel").rglob("*.jpg"))[::200],
    ]
    for name in names:
        with Image.open(name) as file:
            image = np.asarray(file.convert("L" if file.mode == "L" else "RGB"))
        images.append(image.reshape(*image.shape[:2], -1))
    assert {image.shape[2] for image in images} == {1, 3}
    assert len({image.shape for image in images}) >= 5
    return images


def processor_of(folder, resize):
    """The image processor of transformers with the same policy as ours."""
    from transformers import AutoImageProcessor

    whole, short = {"height": SIZE, "width": SIZE}, {"shortest_edge": SIZE}
    policy = {
        "squash": {"do_center_crop": False, "size": whole},
        "crop": {"do_center_crop": True, "size": short, "crop_size": whole},
    }[resize]
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, use_fast=True, **policy)


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_batches_equal_the_image_processor(resize, images, teacher):
    processor = processor_of(teacher, resize)
    ours = normalise(resize_images(images, SIZE, resize), IMAGENET_MEAN, IMAGENET_STD)
    for image, mine in zip(images, ours, strict=True):
        rgb = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
        theirs = processor(images=rgb, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
def test_an_image_does_not_depend_on_its_batch(resize, images):
    together = resize_images(images, SIZE, resize)
    alone = torch.cat([resize_images([image], SIZE, resize) for image in images])
    assert torch.equal(together, alone)


def test_grey_equals_the_same_image_in_three_channels():
    grey = np.random.default_rng(0).integers(0, 256, (50, 31, 1), np.uint8)
    assert torch.equal(resize_images([grey], 28, "squash"), resize_images([grey.repeat(3, 2)], 28, "squash"))


@examples(60)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3]), st.sampled_from(["squash", "pad", "crop"]))
def test_any_image_becomes_a_full_square(height, width, channels, resize):
    for dtype in (np.uint8, np.float32):
        image = np.full((height, width, channels), 200, dtype)
        pixels = resize_images([image], 28, resize)
        assert pixels.shape == (1, 3, 28, 28)
        assert pixels.dtype == torch.float32
        inside = pixels > 0
        assert torch.allclose(pixels[inside], torch.tensor(200.0), atol=1e-3)
        if resize != "pad":
            assert bool(inside.all())


def test_pad_keeps_the_aspect_and_fills_with_black():
    white = np.full((20, 40, 1), 255, np.uint8)
    pixels = resize_images([white], 28, "pad")[0, 0]
    assert torch.equal(pixels[7:21], torch.full((14, 28), 255.0))
    assert not pixels[:7].any()
    assert not pixels[21:].any()


def test_deep_images_keep_what_8_bits_would_round_away():
    ramp = np.linspace(100, 101, 64, dtype=np.float32)[None, :, None].repeat(64, 0)
    pixels = resize_images([ramp], 28, "squash")
    assert len(pixels[0, 0, 0].unique()) == 28
    edge = np.zeros((64, 64, 1), np.float32)
    edge[:, 32:] = 255
    assert resize_images([edge], 28, "squash").aminmax() == (0, 255)


def test_images_of_the_right_size_are_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    for resize in ("squash", "pad", "crop"):
        assert np.array_equal(resize_images([image], 28, resize)[0].permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(DataError, match="uint8 or float32"):
        resize_images([image], 28, "squash")


def test_no_images_are_an_empty_batch():
    assert resize_images([], 28, "squash").shape == (0, 3, 28, 28)


def test_normalise_is_per_channel():
    pixels = torch.full((2, 3, 4, 4), 255.0)
    done = normalise(pixels, (0.0, 0.5, 1.0), (1.0, 0.5, 0.25))
    assert done[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]
    assert bool((pixels == 255).all())


def test_quadrant_means_name_the_quarters_in_reading_order():
    pixels = torch.zeros(1, 3, 5, 5)
    pixels[:, :, :2, :2], pixels[:, :, :2, 2:], pixels[:, :, 2:, :2], pixels[:, :, 2:, 2:] = 51, 102, 153, 255
    assert quadrant_means(pixels)[0].tolist() == pytest.approx([0.2, 0.4, 0.6, 1.0])


def test_quadrant_means_do_not_depend_on_the_batch():
    pixels = torch.rand(9, 3, 56, 56) * 255
    assert torch.equal(quadrant_means(pixels), torch.cat([quadrant_means(image[None]) for image in pixels]))


# ── The record of it ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_default_is_the_whole_image_at_224():
    assert Preprocessing().to_dict() == {
        "image_size": 224,
        "resize": "squash",
        "interpolation": "bicubic",
        "antialias": True,
        "intensity": "declared",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_it_survives_json():
    made = Preprocessing(image_size=98, resize="pad", intensity="minmax", mean=(0.5, 0, 1))
    assert Preprocessing.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 0),
        ("image_size", 224.0),
        ("image_size", True),
        ("resize", "stretch"),
        ("interpolation", "bilinear"),
        ("antialias", 1),
        ("intensity", "auto"),
        ("mean", [0.5, 0.5]),
        ("mean", [0.5, 0.5, float("nan")]),
        ("std", [0.2, 0.2, 0]),
        ("std", "0.2"),
    ],
)
def test_a_bad_value_is_named(name, value):
    with pytest.raises(TeacherError, match=f"'{name}'"):
        Preprocessing.from_dict({**Preprocessing().to_dict(), name: value})


def test_missing_and_unknown_entries_are_refused():
    values = Preprocessing().to_dict()
    with pytest.raises(TeacherError, match="expected exactly"):
        Preprocessing.from_dict({**values, "colour": "grey"})
    del values["resize"]
    with pytest.raises(TeacherError, match="expected exactly"):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize("shape", [(1, 60_000, 1), (60_000, 1, 3), (3, 49, 1), (7, 200, 3)])
def test_a_strip_is_cropped_without_being_enlarged_whole(shape):
    short, axis = min(shape[:2]), int(shape[1] > shape[0])
    # A slope along the strip, so that what is shown says where it was cut out.
    slope = np.linspace(0, 255, shape[axis]).reshape((1, -1, 1) if axis else (-1, 1, 1))
    image = np.broadcast_to(slope, shape).astype(np.uint8)
    made = resize_images([image], 224, "crop")  # 60,000 columns of 224 rows times 224 were 9 GB in float32
    assert made.shape == (1, 3, 224, 224)
    assert abs(float(made.mean()) - 127) < 2
    assert float(made.max() - made.min()) < 255 * 2 * short / shape[axis] + 2
