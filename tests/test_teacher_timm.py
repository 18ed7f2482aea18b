"""Teachers in timm's form: DINOv2 and what pathology models make of it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from teacher_contract import MEAN, STD, Contract, load, save_timm, some_pixels
from timm.layers import SwiGLUPacked

from medal.cache.errors import TeacherError
from medal.pipeline.teacher.files import assumptions, is_hub_id, locate_teacher
from medal.pipeline.views.preprocessing import Preprocessing
from medal.pipeline.views.transforms import normalise

# What config.json of the pathology models does not say, and their pages tell users to pass in code.
LEFT_OUT = ("mlp_layer", "act_layer", "depth", "embed_dim", "reg_tokens", "no_embed_class", "mlp_ratio")


class TestTimm(Contract):
    prepared = (MEAN, STD)

    def make(self, folder):
        return save_timm(folder, "vit_small_patch14_dinov2")


class TestTimmOfAnotherSize(Contract):
    """Positions for 56 px and images of 28: timm's own way of fitting them counts."""

    prepared = (MEAN, STD)

    def make(self, folder):
        return save_timm(folder, "vit_small_patch14_dinov2", img_size=56)


class TestTimmRegisters(Contract):
    prepared = (MEAN, STD)

    def make(self, folder):
        return save_timm(folder, "vit_small_patch14_reg4_dinov2")


class TestUni(Contract):
    """UNI: a patch of 16, and one .bin, a pickle that the restricted loader reads once."""

    side, prepared = 32, (MEAN, STD)

    def make(self, folder):
        made = save_timm(folder, "vit_large_patch16_224", img_size=32, init_values=1e-5)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        return made


class TestUni2(Contract):
    """UNI2-h, Virchow2, H-optimus and H0-mini: SwiGLU, registers without positions, most of it not in config.json."""

    prepared = (MEAN, STD)

    def make(self, folder):
        gated = {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU, "mlp_ratio": 2.66667 * 2, "init_values": 1e-5}
        left = (*LEFT_OUT, "num_heads")
        return save_timm(folder, "vit_giant_patch14_224", left, **gated, reg_tokens=8, no_embed_class=True)


def test_the_heads_of_an_architecture_of_the_same_width_are_its_own(tmp_path):
    """Virchow2 has heads of 80, and says nothing of them."""
    heads = {"embed_dim": 1280, "num_heads": 16, "depth": 1}
    teacher, read = save_timm(tmp_path, "vit_huge_patch14_224", ("num_heads",), **heads)
    classes, patches = read(normalise(some_pixels(2), MEAN, STD))
    expected = torch.cat([classes[-1], patches.mean(1)], 1).numpy()
    prepared = Preprocessing(image_size=28, mean=MEAN, std=STD)
    np.testing.assert_allclose(load(teacher).features(some_pixels(2), prepared), expected, atol=1e-5)


def test_names_as_users_of_timm_write_them(tmp_path):
    teacher, _ = save_timm(tmp_path, "vit_small_patch14_dinov2")
    assert locate_teacher(f"local-dir:{teacher}").folder == teacher
    assert is_hub_id("hf-hub:timm/vit_small_patch14_dinov2.lvd142m")
    assert not is_hub_id(f"local-dir:{teacher}")


def test_what_config_says_cannot_name_files_or_code(tmp_path):
    teacher, _ = save_timm(tmp_path, "vit_small_patch14_dinov2")
    config = json.loads((teacher / "config.json").read_text())
    config["model_args"] |= {"checkpoint_path": str(tmp_path / "trap.pth"), "pretrained": True, "pretrained_cfg": {}}
    (teacher / "config.json").write_text(json.dumps(config))
    (tmp_path / "trap.pth").write_bytes(b"no checkpoint, which reading it would say")
    load(teacher)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda _, config: config.update(architecture="resnet50"), "timm's architecture 'resnet50', expected a"),
        (lambda weights, _: weights.pop("cls_token"), "not those of a vision transformer of timm with a class"),
        (lambda weights, _: weights.pop("norm.bias"), "'t' cannot be loaded .*norm.bias"),
        (lambda weights, _: weights.update(strange=torch.zeros(1)), "'t' cannot be loaded .*strange"),
        (lambda _, config: config.pop("pretrained_cfg"), None),
    ],
)
def test_what_is_no_teacher_of_timm_is_refused(tmp_path, change, told):
    (tmp_path / "t").mkdir()
    teacher, _ = save_timm(tmp_path / "t", "vit_small_patch14_dinov2")
    weights, config = load_file(teacher / "model.safetensors"), json.loads((teacher / "config.json").read_text())
    change(weights, config)
    save_file(weights, teacher / "model.safetensors")
    (teacher / "config.json").write_text(json.dumps(config))
    if told is None:
        (said,) = assumptions(locate_teacher(str(teacher)))
        assert said.startswith("teacher 't' says no 'mean' in config.json")
        return
    with pytest.raises(TeacherError, match=told):
        load(teacher)
