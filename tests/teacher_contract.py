"""What every form of a teacher has to hold, against the library it is from; and small teachers of both libraries."""

import json

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file

from medal.pipeline.teacher.files import assumptions, default_preprocessing, locate_teacher
from medal.pipeline.teacher.teacher import Teacher, agreement
from medal.pipeline.views.preprocessing import Preprocessing
from medal.pipeline.views.transforms import normalise

PATCH, WIDTH, BLOCKS = 14, 128, 5
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "image_size": 28}
MEAN, STD = (0.7, 0.5, 0.6), (0.2, 0.3, 0.25)


def load(teacher, feature="cls+mean", precision="fp32"):
    return Teacher.load(locate_teacher(str(teacher)), feature=feature, precision=precision, device="cpu")


def some_pixels(count=6, side=28, grey=False):
    pixels = torch.rand(count, 1 if grey else 3, side, side, generator=torch.Generator().manual_seed(3)) * 255
    return pixels.expand(-1, 3, -1, -1).contiguous()


def shaken(model):
    """The model with weights that vary: new ones have scales and registers that hide what becomes of them."""
    random = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "token" in name or "pos" in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=random) * 0.3)
    return model.eval().requires_grad_(False)


class Contract:
    """What every form has to hold. A subclass makes a teacher and says what its own library computes of pixels."""

    side = 28
    recipes = ("cls+mean", "last4")

    def make(self, folder):
        """Return what is given as --teacher, and a function from inputs to (earlier class tokens, patch tokens)."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory):
        torch.manual_seed(0)
        return cls().make(tmp_path_factory.mktemp("teacher"))

    @pytest.mark.parametrize("grey", [False, True])
    def test_features_are_the_librarys_own(self, made, grey):
        teacher, read = made
        prepared = default_preprocessing(locate_teacher(str(teacher)), image_size=self.side)
        pixels = some_pixels(side=self.side, grey=grey)
        classes, patches = read(normalise(pixels, prepared.mean, prepared.std))
        for recipe in self.recipes:
            taken = classes[-4:] if recipe == "last4" else classes[-1:]
            expected = torch.cat([*taken, patches.mean(1)], 1).numpy()
            features = load(teacher, recipe).features(pixels, prepared)
            assert features.shape == (6, load(teacher, recipe).dim)
            np.testing.assert_allclose(features, expected, atol=1e-5)

    def test_an_image_has_the_same_features_alone(self, made):
        teacher, pixels = load(made[0], self.recipes[-1]), some_pixels(side=self.side)
        prepared = Preprocessing(image_size=self.side)
        together = teacher.features(pixels, prepared)
        alone = np.concatenate([teacher.features(one[None], prepared) for one in pixels])
        np.testing.assert_allclose(alone, together, atol=1e-5)
        assert agreement(together[:3], together[3:]) < 0.9999  # images are told apart

    def test_the_fast_forward_says_the_same(self, made):
        prepared, pixels = Preprocessing(image_size=self.side), some_pixels(side=self.side)
        for recipe in self.recipes:
            plain, fast = (
                load(made[0], recipe, precision).features(pixels, prepared) for precision in ("fp32", "bf16")
            )
            assert agreement(plain, fast) > 0.999
            assert not np.array_equal(plain, fast)

    def test_it_says_how_pixels_are_prepared(self, made):
        files = locate_teacher(str(made[0]))
        prepared = default_preprocessing(files, image_size=self.side)
        assert (tuple(prepared.mean), tuple(prepared.std)) == self.prepared
        assert assumptions(files) == []


def save_transformers(model, folder):
    model.save_pretrained(folder)
    processor = {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))

    def read(inputs):
        output = model(pixel_values=inputs, output_hidden_states=True)
        norm = model.norm if hasattr(model, "norm") else model.layernorm
        first = 1 + getattr(model.config, "num_register_tokens", 0)
        classes = [norm(hidden)[:, 0] for hidden in output.hidden_states[1:]]
        return classes, output.last_hidden_state[:, first:]

    return folder, read


def make_dinov2(folder):
    """DINOv2 in transformers' form, small."""
    return save_transformers(shaken(transformers.Dinov2Model(transformers.Dinov2Config(**SMALL))), folder)


TIMM = {"img_size": 28, "depth": BLOCKS, "embed_dim": WIDTH, "num_heads": 2, "num_classes": 0}


def save_timm(folder, name, left_out=(), **arguments):
    arguments = {**TIMM, **arguments}
    model = shaken(timm.create_model(name, **arguments, dynamic_img_size=True))
    save_file(model.state_dict(), folder / "model.safetensors")
    said = {key: value for key, value in arguments.items() if key not in left_out}
    config = {"architecture": name, "model_args": said, "pretrained_cfg": {"mean": MEAN, "std": STD}}
    (folder / "config.json").write_text(json.dumps(config))

    def read(inputs):
        tokens, found = model.forward_intermediates(inputs, return_prefix_tokens=True, norm=True, output_fmt="NLC")
        assert torch.equal(tokens, model.forward_features(inputs))
        return [prefix[:, 0] for _, prefix in found], tokens[:, model.num_prefix_tokens :]

    return folder, read
