"""The teacher made fast: folded, fused and packed blocks say what the plain ones say, and a batch is made to fit."""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers

from medal.cache.errors import TeacherError
from medal.pipeline import fast_forward
from medal.pipeline.fast_forward import hasten
from medal.pipeline.precision import fitting_batch_size
from medal.pipeline.preprocessing import Preprocessing
from medal.pipeline.teacher import OutOfMemory

CPU = torch.device("cpu")
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 42}
MODELS = {
    "mlp": (transformers.Dinov2Config, transformers.Dinov2Model, {}),
    "gated": (transformers.Dinov2Config, transformers.Dinov2Model, {"use_swiglu_ffn": True}),
    "tanh": (transformers.Dinov2Config, transformers.Dinov2Model, {"hidden_act": "gelu_new"}),
    "without bias": (transformers.Dinov2Config, transformers.Dinov2Model, {"qkv_bias": False}),
    "registers": (transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel, {}),
}


def random_model(name):
    config, model, options = MODELS[name]
    torch.manual_seed(0)
    made = model(config(**SMALL, **options)).eval().requires_grad_(False)
    for block in made.encoder.layer:
        # transformers begins with scales of one, which would hide what becomes of them.
        for scale in (block.layer_scale1, block.layer_scale2):
            scale.lambda1.uniform_(-2, 2)
    return made


def tokens(model):
    pixels = torch.randn(4, 3, 42, 42, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(pixel_values=pixels).last_hidden_state.flatten(1)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_hastened_model_says_what_the_plain_one_says(name, packs, monkeypatch):
    if not packs:  # a torch without oneDNN's layers
        monkeypatch.setattr(fast_forward, "_packs", lambda: False)
    model = random_model(name)
    plain = tokens(model)
    fast = tokens(hasten(copy.deepcopy(model), CPU))
    assert fast.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(plain, fast).min() > 0.9995


def test_this_torch_packs_weights_and_keeps_the_exact_gelu_apart_from_its_approximation():
    assert fast_forward._packs()
    names = {type(module).__name__ for module in hasten(random_model("mlp"), CPU).encoder.modules()}
    assert "Linear" not in names
    assert "GELUActivation" not in names
    assert "NewGELUActivation" in {type(m).__name__ for m in hasten(random_model("tanh"), CPU).encoder.modules()}


class SmallMemory:
    """A teacher whose device holds a few images."""

    device = torch.device("cpu")
    files = SimpleNamespace(name="small")

    def __init__(self, holds):
        self.holds, self.tried = holds, []

    def features(self, pixels, _preprocessing):
        self.tried.append(len(pixels))
        if len(pixels) > self.holds:
            raise OutOfMemory("too many")


def test_a_batch_is_halved_until_it_fits():
    teacher = SmallMemory(100)
    assert fitting_batch_size(teacher, Preprocessing(image_size=14), 256) == 64
    assert teacher.tried == [256, 128, 64]


def test_an_image_that_never_fits_is_told_with_a_remedy():
    with pytest.raises(TeacherError, match=r"One image of 14 px does not fit into the memory of cpu .* --image-size"):
        fitting_batch_size(SmallMemory(0), Preprocessing(image_size=14), 8)
