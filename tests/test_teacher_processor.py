"""What a teacher's image processor says is obeyed as mean and deviation of pixels in 0…1, or refused."""

import json

import numpy as np
import pytest
import torch
from teacher_folders import CONFIG, WEIGHTS, make_teacher

from medal.cache.errors import TeacherError
from medal.pipeline.teacher.files import assumptions, default_preprocessing, locate_teacher
from medal.pipeline.views.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from medal.pipeline.views.transforms import normalise

GREY = np.linspace(0, 255, 3 * 14 * 14, dtype=np.float32).reshape(1, 3, 14, 14)


def prepared(tmp_path, processor, name="preprocessor_config.json"):
    folder = make_teacher(tmp_path / "t", model__safetensors=WEIGHTS)
    (folder / name).write_text(json.dumps(processor))
    return default_preprocessing(locate_teacher(str(folder)), image_size=14)


def as_transformers(pixels, rescale=True, factor=1 / 255, normalised=True, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """Compute in numpy what transformers' image processors compute (image_transforms.rescale and normalize)."""
    values = pixels.astype(np.float64) * (factor if rescale else 1)
    channels = np.reshape(mean, (-1, 1, 1)), np.reshape(std, (-1, 1, 1))
    return (values - channels[0]) / channels[1] if normalised else values


@pytest.mark.parametrize(
    ("processor", "reference"),
    [
        ({}, {}),
        (
            {"do_rescale": False, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.4, 57.12, 57.38]},
            {"rescale": False, "mean": [123.675, 116.28, 103.53], "std": [58.4, 57.12, 57.38]},
        ),
        (
            {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
            {"factor": 1 / 127.5, "mean": [1], "std": [1]},
        ),
        ({"rescale_factor": 1 / 127.5, "do_normalize": False}, {"factor": 1 / 127.5, "normalised": False}),
        ({"image_mean": [0.4], "image_std": 0.2}, {"mean": [0.4], "std": [0.2]}),
        ({"rescale_factor": 0.00392156862745098}, {}),
    ],
)
def test_pixels_become_what_transformers_makes_of_them(tmp_path, processor, reference):
    made = prepared(tmp_path, processor)
    got = normalise(torch.from_numpy(GREY), made.mean, made.std).numpy()
    np.testing.assert_allclose(got, as_transformers(GREY, **reference), atol=2e-5)


def test_what_every_usual_teacher_says_stays_bit_for_bit(tmp_path):
    usual = {"do_rescale": True, "rescale_factor": 0.00392156862745098, "do_normalize": True}
    made = prepared(tmp_path, usual | {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)})
    assert (made.mean, made.std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("nested", [True, False])
def test_the_file_of_newer_transformers_is_read_as_well(tmp_path, nested):
    own = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    content = {"processor_class": "AnyProcessor", "image_processor": own} if nested else own
    made = prepared(tmp_path, content, "processor_config.json")
    assert (made.mean, made.std) == ((0.5,) * 3, (0.25,) * 3)
    assert assumptions(locate_teacher(str(tmp_path / "t"))) == []


@pytest.mark.parametrize(
    ("processor", "told"),
    [
        ({"do_rescale": False}, r"'do_rescale' false.*'image_mean' \(0\.485.*of pixels in 0…1"),
        ({"do_rescale": False, "do_normalize": False}, "'do_rescale' false.*'do_normalize' false"),
        ({"image_mean": [123.7, 116.3, 103.5]}, "'image_mean' beyond the white"),
        ({"rescale_offset": True}, "'rescale_offset', which medal does not compute"),
        ({"rescale_factor": 0}, "'rescale_factor' 0; expected a positive number"),
        ({"rescale_factor": "1/255"}, "'rescale_factor' '1/255'; expected a positive number"),
        ({"image_mean": [0.5, 0.5]}, "'mean' must be three numbers"),
        ({"image_std": [0]}, "'std' must be positive"),
        ({"image_std": ["a", "b", "c"]}, "'std' must be three numbers"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, processor, told):
    with pytest.raises(TeacherError, match=told):
        prepared(tmp_path, processor)


@pytest.mark.parametrize("channels", [1, 4, None])
def test_a_model_of_other_than_three_channels_is_refused(tmp_path, channels):
    folder = make_teacher(tmp_path / "t", {**CONFIG, "num_channels": channels}, model__safetensors=WEIGHTS)
    with pytest.raises(TeacherError, match=f"takes images of {channels} channel.*expected 3"):
        locate_teacher(str(folder))
