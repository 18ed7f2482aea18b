"""Teachers in transformers' form: DINOv2 without and with registers, RAD-DINO, DINOv3."""

import json

import pytest
import transformers
from teacher_contract import MEAN, PATCH, SMALL, STD, Contract, load, make_dinov2, save_transformers, shaken

from medal.cache.errors import TeacherError


class TestDinov2(Contract):
    prepared = (MEAN, STD)

    def make(self, folder):
        return make_dinov2(folder)


class TestRegisters(Contract):
    prepared = (MEAN, STD)

    def make(self, folder):
        config = transformers.Dinov2WithRegistersConfig(**SMALL, patch_size=PATCH, num_register_tokens=3)
        return save_transformers(shaken(transformers.Dinov2WithRegistersModel(config)), folder)


class TestRadDino(Contract):
    """RAD-DINO: a DINOv2 of chest X-rays whose processor has one mean and deviation for grey."""

    prepared = ((0.5307,) * 3, (0.2583,) * 3)

    def make(self, folder):
        made = make_dinov2(folder)
        said = {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3, "size": {"shortest_edge": 518}}
        (folder / "preprocessor_config.json").write_text(json.dumps(said))
        return made


class TestDinov3(Contract):
    side, prepared = 32, (MEAN, STD)

    def make(self, folder):
        config = transformers.DINOv3ViTConfig(**SMALL, patch_size=16, intermediate_size=256, num_register_tokens=2)
        return save_transformers(shaken(transformers.DINOv3ViTModel(config)), folder)


class TestDinov3Gated(Contract):
    side, prepared = 32, (MEAN, STD)

    def make(self, folder):
        config = transformers.DINOv3ViTConfig(
            **SMALL, patch_size=16, intermediate_size=256, use_gated_mlp=True, hidden_act="gelu"
        )
        return save_transformers(shaken(transformers.DINOv3ViTModel(config)), folder)


class TestDinov3ConvNext(Contract):
    side, recipes, prepared = 64, ("cls+mean",), (MEAN, STD)

    def make(self, folder):
        config = transformers.DINOv3ConvNextConfig(hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1])
        model = shaken(transformers.DINOv3ConvNextModel(config))
        save_transformers(model, folder)

        def read(inputs):
            tokens = model(pixel_values=inputs).last_hidden_state
            return [tokens[:, 0]], tokens[:, 1:]

        return folder, read


def test_a_convnext_has_no_four_blocks_with_class_tokens(tmp_path):
    teacher, _ = TestDinov3ConvNext().make(tmp_path)
    with pytest.raises(TeacherError, match="needs 4 blocks, the teacher has 1; use --feature cls"):
        load(teacher, "last4")
