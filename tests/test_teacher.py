"""The teacher as it computes: features by recipe against a slow reference, precision, damage."""

import json
import os
import shutil
import subprocess
import sys

import drawn
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medal.cache.errors import TeacherError
from medal.pipeline.teacher.files import feature_dim, locate_teacher
from medal.pipeline.teacher.teacher import Teacher, agreement, pick_device, precision_for
from medal.pipeline.views.preprocessing import Preprocessing
from medal.pipeline.views.transforms import normalise, resize_images

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": 42,
    "patch_size": 14,
}
PREPROCESSING = Preprocessing(image_size=28)


def tiny_model(kind):
    """A random model of a kind, its registers far from zero so that leaving them in would be seen."""
    import transformers

    torch.manual_seed(0)
    if kind == "dinov2":
        return transformers.Dinov2Model(transformers.Dinov2Config(**TINY)).eval()
    config = transformers.Dinov2WithRegistersConfig(**TINY, num_register_tokens=3)
    model = transformers.Dinov2WithRegistersModel(config).eval()
    torch.nn.init.normal_(model.embeddings.register_tokens, std=3)
    return model


@pytest.fixture(scope="module", params=["dinov2", "dinov2_with_registers"])
def tiny(request, tmp_path_factory):
    """A tiny random teacher's folder, and the model that was saved there."""
    model = tiny_model(request.param)
    folder = tmp_path_factory.mktemp("teachers") / request.param
    model.save_pretrained(folder)
    return folder, model


def load(folder, feature="cls+mean", precision="fp32"):
    return Teacher.load(locate_teacher(str(folder)), feature=feature, precision=precision, device="cpu")


def some_pixels(count=4, size=28, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (count, 3, size, size)).astype(np.float32))


@pytest.fixture(scope="module", params=["drawn", "real"])
def known(request):
    """A teacher's folder, and eight chests: drawn ones, and the real ones where they are at hand."""
    if request.param == "drawn":
        return request.getfixturevalue("teacher"), first_chests(drawn.draw_chests())
    with np.load(request.getfixturevalue("pneumonia")) as data:
        return request.getfixturevalue("real_teacher"), first_chests(data)


def first_chests(data):
    return resize_images([image[..., None] for image in data["val_images"][:8]], 112, "squash")


@pytest.fixture(scope="module")
def full(known):
    return load(known[0])


@pytest.fixture(scope="module")
def half(known):
    return load(known[0], precision="bf16")


# ── Features ─────────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def slow_features(model, inputs, feature):
    """The recipe read literally: block by block, the final LayerNorm on each output, patches by count from the end."""
    hidden = model.embeddings(inputs)
    blocks = []
    for layer in model.encoder.layer:
        hidden = layer(hidden)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        blocks.append(model.layernorm(hidden))
    patches = (inputs.shape[2] // 14) * (inputs.shape[3] // 14)
    mean = blocks[-1][:, -patches:].mean(1)
    cls = [block[:, 0] for block in (blocks[-4:] if feature == "last4" else blocks[-1:])]
    return torch.cat([*cls, mean], 1).numpy()


@pytest.mark.parametrize("feature", ["cls+mean", "last4"])
@pytest.mark.parametrize("size", [28, 42, 70])
def test_features_follow_the_recipe(tiny, feature, size):
    folder, model = tiny
    pixels = some_pixels(size=size)
    features = load(folder, feature).features(pixels, PREPROCESSING)
    inputs = normalise(pixels, PREPROCESSING.mean, PREPROCESSING.std)
    assert features.dtype == np.float32
    assert features.shape == (4, feature_dim(TINY, feature))
    np.testing.assert_allclose(features, slow_features(model, inputs, feature), atol=1e-5)


def test_cls_and_mean_are_what_the_classifier_of_transformers_reads(known, full):
    from transformers import AutoModel

    teacher, chests = known
    model = AutoModel.from_pretrained(teacher, local_files_only=True, attn_implementation="eager").eval()
    inputs = normalise(chests[:2], PREPROCESSING.mean, PREPROCESSING.std)
    expected = slow_features(model, inputs, "cls+mean")
    np.testing.assert_allclose(full.features(chests[:2], PREPROCESSING), expected, atol=2e-4)


def test_the_same_batch_gives_the_same_bytes(known, full, half):
    for teacher in (full, half):
        first = teacher.features(known[1], PREPROCESSING)
        assert first.tobytes() == teacher.features(known[1], PREPROCESSING).tobytes()


def test_bf16_agrees_with_fp32(known, full, half):
    precise, coarse = (teacher.features(known[1], PREPROCESSING) for teacher in (full, half))
    assert coarse.dtype == np.float32
    assert not np.array_equal(precise, coarse)
    assert agreement(precise, coarse) >= 0.999


@pytest.mark.parametrize("feature", ["cls+mean", "last4"])
def test_bf16_works_for_every_recipe_and_family(tiny, feature):
    folder, _ = tiny
    full, half = (
        load(folder, feature, precision).features(some_pixels(), PREPROCESSING) for precision in ("fp32", "bf16")
    )
    assert agreement(full, half) > 0.999


def test_the_normalisation_is_the_one_given(tiny):
    teacher = load(tiny[0])
    other = Preprocessing(image_size=28, mean=(0, 0, 0), std=(1, 1, 1))
    scaled = some_pixels() * torch.tensor(PREPROCESSING.std).view(3, 1, 1)
    scaled += torch.tensor(PREPROCESSING.mean).view(3, 1, 1) * 255
    expected = teacher.features(some_pixels(), other)
    np.testing.assert_allclose(teacher.features(scaled, PREPROCESSING), expected, atol=1e-4)


def test_a_size_that_the_patches_do_not_fill_is_refused(tiny):
    with pytest.raises(TeacherError, match=r"30 .* 14; use 28 or 42"):
        load(tiny[0]).features(some_pixels(size=30), PREPROCESSING)


def test_nan_images_are_counted_and_named(tiny):
    pixels = some_pixels()
    pixels[1, 0, 0, 0], pixels[3, 2, 5, 5] = float("nan"), float("inf")
    with pytest.raises(TeacherError, match=r"2 of the 4 images of a batch \(rows 1, 3\)"):
        load(tiny[0]).features(pixels, PREPROCESSING)


def test_features_that_float16_cannot_hold_are_refused(tiny, tmp_path):
    folder = altered(tiny[0], tmp_path, lambda weights: {**weights, "layernorm.bias": weights["layernorm.bias"] + 7e4})
    with pytest.raises(TeacherError, match="4 of the 4"):
        load(folder).features(some_pixels(), PREPROCESSING)


# ── Loading ──────────────────────────────────────────────────────────────────────────────────────────────────────


def altered(folder, tmp_path, change):
    """A copy of a teacher with changed weights."""
    copy = tmp_path / "altered"
    shutil.copytree(folder, copy)
    save_file(change(load_file(copy / "model.safetensors")), copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_a_fine_tuned_classifier_is_a_teacher(tmp_path):
    from transformers import Dinov2Config, Dinov2ForImageClassification

    torch.manual_seed(0)
    model = Dinov2ForImageClassification(Dinov2Config(**TINY, num_labels=3)).eval()
    model.save_pretrained(tmp_path / "tuned")
    inputs = normalise(some_pixels(), PREPROCESSING.mean, PREPROCESSING.std)
    features = load(tmp_path / "tuned").features(some_pixels(), PREPROCESSING)
    np.testing.assert_allclose(features, slow_features(model.dinov2, inputs, "cls+mean"), atol=1e-5)


def test_sharded_weights_load(tiny, tmp_path):
    folder, model = tiny
    model.save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    whole = load(folder).features(some_pixels(), PREPROCESSING)
    assert np.array_equal(load(tmp_path / "sharded").features(some_pixels(), PREPROCESSING), whole)


def test_half_precision_weights_are_computed_in_fp32(tiny, tmp_path):
    folder, model = tiny
    halved = altered(folder, tmp_path, lambda weights: {name: value.half() for name, value in weights.items()})
    config = json.loads((halved / "config.json").read_text())
    (halved / "config.json").write_text(json.dumps({**config, "dtype": "float16", "torch_dtype": "float16"}))
    features = load(halved).features(some_pixels(), PREPROCESSING)
    inputs = normalise(some_pixels(), PREPROCESSING.mean, PREPROCESSING.std)
    rounded = {name: value.half().float() for name, value in model.state_dict().items()}
    expected = slow_features(_with_weights(model, rounded), inputs, "cls+mean")
    np.testing.assert_allclose(features, expected, atol=1e-5)


def _with_weights(model, weights):
    copy = type(model)(model.config).eval()
    copy.load_state_dict(weights)
    return copy


def test_a_missing_mask_token_does_not_matter(tiny, tmp_path):
    folder = altered(
        tiny[0], tmp_path, lambda w: {name: value for name, value in w.items() if not name.endswith("mask_token")}
    )
    expected = load(tiny[0]).features(some_pixels(), PREPROCESSING)
    assert np.array_equal(load(folder).features(some_pixels(), PREPROCESSING), expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: {name: value for name, value in w.items() if name != "layernorm.bias"}, "lack 1 .*layernorm.bias"),
        (lambda w: {**w, "head.weight": torch.zeros(2)}, "hold 1 .*head.weight"),
        (lambda w: {**w, "layernorm.bias": torch.zeros(17)}, "layernorm.bias|size mismatch|ignore_mismatched_sizes"),
        (lambda _: {"nothing": torch.zeros(1)}, "lack .* and hold 1"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(tiny, tmp_path, change, told):
    with pytest.raises(TeacherError, match=told):
        load(altered(tiny[0], tmp_path, change))


def test_truncated_weights_are_refused(tiny, tmp_path):
    shutil.copytree(tiny[0], tmp_path / "cut")
    weights = tmp_path / "cut/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(TeacherError, match=r"'cut' cannot be loaded .*again from their source"):
        load(tmp_path / "cut")


def test_loading_says_nothing(tiny, capfd):
    load(tiny[0])
    assert capfd.readouterr() == ("", "")


def test_remote_code_is_never_run(tiny, tmp_path):
    folder = tmp_path / "trap"
    shutil.copytree(tiny[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "trap.Trap", "AutoConfig": "trap.TrapConfig"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    load(folder).features(some_pixels(), PREPROCESSING)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("feature", "precision", "told"), [("cls", "fp32", "'cls'"), ("cls+mean", "fp16", "'fp16'")])
def test_unknown_recipes_and_precisions_are_refused(tiny, feature, precision, told):
    with pytest.raises(TeacherError, match=told):
        load(tiny[0], feature, precision)


# ── Device and precision ─────────────────────────────────────────────────────────────────────────────────────────


def test_agreement_is_the_smallest_cosine():
    a = np.array([[1, 0], [1, 1], [2, 0]], np.float32)
    assert agreement(a, a * 3) == pytest.approx(1)
    assert agreement(a, np.array([[1, 0], [1, 0], [1, 0]])) == pytest.approx(2**-0.5)
    assert agreement(a, -a) == pytest.approx(-1)


def test_auto_precision_goes_by_capability():
    assert precision_for("fp32", "cpu") == "fp32"
    assert precision_for("bf16", "cpu") == "bf16"
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    usable = capable and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert precision_for("auto", "cpu") == ("bf16" if usable else "fp32")
    with pytest.raises(TeacherError, match=r"'half'.*auto, fp32, bf16"):
        precision_for("half", "cpu")


def test_auto_is_fp32_where_onednn_may_not_use_what_the_chip_has():
    code = "from medal.pipeline.teacher.teacher import precision_for; print(precision_for('auto', 'cpu'))"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["fp32"]


def test_devices():
    assert pick_device("cpu") == "cpu"
    there = {"cuda": torch.cuda.is_available(), "mps": torch.mps.is_available(), "cpu": True}
    assert pick_device("auto") == next(name for name, found in there.items() if found)
    for nowhere in ("cuda:99", "abacus"):
        with pytest.raises(TeacherError, match=f"'{nowhere}'.*--device"):
            pick_device(nowhere)
