"""The teacher made fast: folded, fused and packed blocks say what the plain ones say, and a batch is made to fit."""

import copy
import platform
from types import SimpleNamespace

import pytest
import torch
import transformers

from medal.cache.errors import TeacherError
from medal.cache.reader import open_cache
from medal.pipeline.features.precision import Halving, fitting_batch_size
from medal.pipeline.teacher import fast_forward
from medal.pipeline.teacher.demo import tiny_teacher
from medal.pipeline.teacher.fast_forward import hasten
from medal.pipeline.teacher.files import locate_teacher
from medal.pipeline.teacher.forms.form import Backbone
from medal.pipeline.teacher.forms.huggingface import backbone_of
from medal.pipeline.teacher.teacher import OutOfMemory, Teacher, agreement
from medal.pipeline.views.preprocessing import Preprocessing

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


def hastened(model, precision="bf16"):
    hasten(backbone_of(model), CPU, precision)
    return model


def tokens(model):
    pixels = torch.randn(4, 3, 42, 42, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(pixel_values=pixels).last_hidden_state.flatten(1)


# oneDNN lays bf16 weights out with AVX512 or AVX-NE-CONVERT; an older chip takes torch's own layers.
X86 = platform.machine().lower() in {"x86_64", "amd64"} and torch.backends.mkldnn.is_available()
CHIP_PACKS = X86 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
on_a_chip_that_packs = pytest.mark.skipif(not CHIP_PACKS, reason="oneDNN packs no bf16 weights on this chip")


@pytest.mark.parametrize("packs", [pytest.param(True, marks=on_a_chip_that_packs), False])
@pytest.mark.parametrize("name", MODELS)
def test_a_hastened_model_says_what_the_plain_one_says(name, packs, monkeypatch):
    if not packs:  # an older chip, or a torch without oneDNN's layers
        monkeypatch.setattr(fast_forward, "_packs", lambda _: False)
    model = random_model(name)
    plain = tokens(model)
    fast = tokens(hastened(copy.deepcopy(model)))
    assert fast.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(plain, fast).min() > 0.9995


@pytest.mark.skipif(not X86, reason="in fp32, packed on x86 alone")
@pytest.mark.parametrize("name", MODELS)
def test_in_fp32_packed_blocks_say_what_the_plain_ones_say_to_the_last_digits(name):
    model = random_model(name)
    fast = hastened(copy.deepcopy(model), "fp32")
    assert "_Packed" in kinds(fast)
    assert "Dinov2LayerScale" not in kinds(fast)
    plain, said = tokens(model), tokens(fast)
    assert torch.nn.functional.cosine_similarity(plain, said).min() > 0.99999
    torch.testing.assert_close(said, plain, atol=1e-4, rtol=1e-4)


def test_in_fp32_a_chip_that_packs_nothing_keeps_the_model_as_it_is(monkeypatch):
    monkeypatch.setattr(fast_forward.platform, "machine", lambda: "aarch64")
    model = random_model("mlp")
    fast = hastened(copy.deepcopy(model), "fp32")
    assert kinds(fast) == kinds(model)
    assert torch.equal(tokens(model), tokens(fast))


def kinds(model):
    return {type(module).__name__ for module in model.encoder.modules()}


@pytest.mark.skipif(not X86, reason="which chips oneDNN packs for is known of x86 alone")
def test_weights_are_packed_where_the_chip_can():
    assert fast_forward._packs("bf16") == CHIP_PACKS
    assert ("_Packed" in kinds(hastened(random_model("mlp")))) == CHIP_PACKS


@on_a_chip_that_packs
def test_packed_layers_keep_the_exact_gelu_apart_from_its_approximation():
    exact = kinds(hastened(random_model("mlp")))
    assert "Linear" not in exact
    assert "GELUActivation" not in exact
    assert "NewGELUActivation" in kinds(hastened(random_model("tanh")))


def test_without_packing_every_layer_stays_torchs_own(monkeypatch):
    monkeypatch.setattr(fast_forward, "_packs", lambda _: False)
    for name in ("mlp", "tanh"):
        plain = kinds(random_model(name))
        assert kinds(hastened(random_model(name))) == plain - {"Dinov2LayerScale"} | {"Identity"}


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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_teacher(tmp_path_factory.mktemp("teachers"))


class Crowded(Teacher):
    """A real teacher on a device whose memory another program takes now and then: some passes find room for `holds`."""

    holds, crowded, sizes, full = 5, range(2, 4), None, False

    def features(self, pixels, preprocessing):
        self.sizes = [*(self.sizes or []), len(pixels)]
        self.full = len(self.sizes) in self.crowded and len(pixels) > self.holds
        return super().features(pixels, preprocessing)

    def _forward(self, inputs):
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super()._forward(inputs)


def test_a_batch_that_no_longer_fits_goes_on_in_halves(tiny):
    load = {"feature": "cls+mean", "precision": "fp32", "device": "cpu"}
    teacher = Crowded.load(locate_teacher(str(tiny)), **load)
    pixels = torch.rand(16, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 255
    forward = Halving(teacher, Preprocessing(image_size=28), 16)
    whole, halves = forward(pixels), forward(pixels)
    assert teacher.sizes == [16, 16, 8, 4, 4, 4, 4]
    assert forward.size == 4
    assert agreement(whole, halves) > 0.99999


def test_one_image_that_does_not_fit_any_more_is_told_with_a_remedy(tiny):
    teacher = Crowded.load(locate_teacher(str(tiny)), feature="cls+mean", precision="fp32", device="cpu")
    teacher.holds, teacher.crowded = 0, range(100)
    with pytest.raises(OutOfMemory, match="batch of 1 images; use a smaller --image-size, or another --device"):
        Halving(teacher, Preprocessing(image_size=28), 4)(torch.zeros(4, 3, 28, 28))


def test_an_error_of_another_kind_is_no_lack_of_memory(tiny, monkeypatch):
    teacher = Teacher.load(locate_teacher(str(tiny)), feature="cls+mean", precision="fp32", device="cpu")

    def fail(_inputs):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(teacher, "_forward", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        teacher.features(torch.zeros(1, 3, 28, 28), Preprocessing(image_size=28))


def test_a_run_that_ran_out_of_memory_says_so_in_its_cache(medal, small_npz, tiny, tmp_path, monkeypatch, capfd):
    words = ("--teacher", tiny, "--image-size", 28, "--batch-size", 8, "--precision", "fp32")
    whole = medal("cache-teacher", small_npz, tmp_path / "whole.zarr", *words)
    monkeypatch.setattr("medal.pipeline.features.engine.Teacher", Crowded)
    halved = medal("cache-teacher", small_npz, tmp_path / "halved.zarr", *words)
    assert halved["cache_id"] == whole["cache_id"]
    assert halved["computed"] == 300
    assert "memory ran out with 8 images at once, and sufficed with 4" in capfd.readouterr().err
    one, other = (open_cache(tmp_path / f"{name}.zarr") for name in ("whole", "halved"))
    assert "smallest_forward" not in one.manifest.teacher
    assert other.manifest.teacher["smallest_forward"] == 4
    features = [cache.read("train", "feature")[:, 0] for cache in (one, other)]
    assert agreement(*features) > 0.9999


@on_a_chip_that_packs
def test_torchs_own_attention_keeps_its_layers():
    """It reads their weights itself, which packed layers have not."""
    block = torch.nn.TransformerEncoderLayer(32, 2, 64, activation="gelu", batch_first=True).eval()
    block.requires_grad_(False)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
    plain, norm = block(x), torch.nn.LayerNorm(32).requires_grad_(False)
    hasten(Backbone(model=block, read=lambda *_: ([], x), first_patch=1, blocks=(block,), norm=norm), CPU, "bf16")
    assert "_Packed" in {type(module).__name__ for module in block.modules()}
    assert torch.nn.functional.cosine_similarity(plain.flatten(1), block(x).float().flatten(1)).min() > 0.9995
