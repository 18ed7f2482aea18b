"""Every form in which a DINOv2 is published: one contract, held against the library that the form is from."""

import json
import re
import shutil

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import checkpoint_filter_fn

from medal.cache.errors import TeacherError
from medal.cache.reader import open_cache
from medal.pipeline.probe.fit import ProbeSettings, fit_probe
from medal.pipeline.teacher.files import assumptions, default_preprocessing, is_hub_id, locate_teacher
from medal.pipeline.teacher.teacher import Teacher, agreement
from medal.pipeline.views.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from medal.pipeline.views.transforms import normalise, resize_images

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


# ── transformers ─────────────────────────────────────────────────────────────────────────────────────────────────


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


class TestDinov2(Contract):
    prepared = (MEAN, STD)

    def make(self, folder):
        return save_transformers(shaken(transformers.Dinov2Model(transformers.Dinov2Config(**SMALL))), folder)


class TestRegisters(Contract):
    prepared = (MEAN, STD)

    def make(self, folder):
        config = transformers.Dinov2WithRegistersConfig(**SMALL, patch_size=PATCH, num_register_tokens=3)
        return save_transformers(shaken(transformers.Dinov2WithRegistersModel(config)), folder)


class TestRadDino(Contract):
    """RAD-DINO: a DINOv2 of chest X-rays whose processor has one mean and deviation for grey."""

    prepared = ((0.5307,) * 3, (0.2583,) * 3)

    def make(self, folder):
        made = save_transformers(shaken(transformers.Dinov2Model(transformers.Dinov2Config(**SMALL))), folder)
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


# ── timm ─────────────────────────────────────────────────────────────────────────────────────────────────────────

TIMM = {"img_size": 28, "depth": BLOCKS, "embed_dim": WIDTH, "num_heads": 2, "num_classes": 0}
# What config.json of the pathology models does not say, and their pages tell users to pass in code.
LEFT_OUT = ("mlp_layer", "act_layer", "depth", "embed_dim", "reg_tokens", "no_embed_class", "mlp_ratio")


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


def test_a_cache_by_a_teacher_of_timm_and_by_a_checkpoint_is_verified_with_them(small_npz, medal, tmp_path):
    teachers = {"timm": save_timm(tmp_path, "vit_small_patch14_dinov2")[0]}
    (tmp_path / "meta").mkdir()
    teachers["dinov2"] = TestMeta().make(tmp_path / "meta")[0]
    for kind, teacher in teachers.items():
        cache = tmp_path / f"{kind}.zarr"
        words = ("--teacher", teacher, "--image-size", 28, "--precision", "fp32", "--batch-size", 16, "--limit", 60)
        assert medal("cache-teacher", small_npz, cache, *words)["action"] == "create"
        assert medal("cache-teacher", small_npz, cache, *words)["action"] == "reuse"
        assert open_cache(cache).manifest.teacher["model_type"] == kind
        medal("verify", cache, small_npz, "--sample", 5, "--teacher", teacher)


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


# ── Meta's own ───────────────────────────────────────────────────────────────────────────────────────────────────


METAS_NAMES = (
    (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.", ""),
    (r"encoder\.layer\.", "blocks."),
    (r"attention\.output\.dense", "attn.proj"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"mlp\.weights_in", "mlp.w12"),
    (r"mlp\.weights_out", "mlp.w3"),
    (r"^layernorm", "norm"),
)


def as_meta(folder):
    """The weights in a folder of transformers under the names in Meta's code."""
    found = {}
    for name, value in load_file(folder / "model.safetensors").items():
        for theirs, ours in METAS_NAMES:
            name = re.sub(theirs, ours, name)  # noqa: PLW2901
        found[name] = value
    for query in [name for name in found if ".query." in name]:
        parts = [found.pop(query.replace("query", part)) for part in ("query", "key", "value")]
        found[query.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return found


class TestMeta(Contract):
    """A checkpoint as training leaves it: the teacher's backbone among its heads, its blocks in chunks."""

    prepared = (IMAGENET_MEAN, IMAGENET_STD)

    def make(self, folder):
        _, read = TestDinov2().make(folder)
        weights = {re.sub(r"^blocks\.", "blocks.0.", name): value for name, value in as_meta(folder).items()}
        inside = {f"backbone.{name}": value for name, value in weights.items()} | {
            "dino_head.mlp.0.bias": torch.ones(2)
        }
        torch.save({"teacher": inside, "iteration": 7}, folder / "teacher_checkpoint.pth")
        return folder / "teacher_checkpoint.pth", read


class TestMetaRegistersGated(Contract):
    """The giant model's kind, published bare; read by timm too, which knows Meta's names on its own."""

    prepared = (IMAGENET_MEAN, IMAGENET_STD)

    def make(self, folder):
        config = transformers.Dinov2WithRegistersConfig(
            **SMALL, patch_size=PATCH, num_register_tokens=4, use_swiglu_ffn=True
        )
        _, read = save_transformers(shaken(transformers.Dinov2WithRegistersModel(config)), folder)
        weights = as_meta(folder)
        torch.save(weights, folder / "dinov2_vitg14_reg4_pretrain.pth")
        hidden = weights["blocks.0.mlp.w12.bias"].shape[0]
        options = {**TIMM, "mlp_ratio": (hidden + 0.5) / WIDTH, "dynamic_img_size": True}
        theirs = timm.create_model("vit_giant_patch14_reg4_dinov2", **options).eval()
        theirs.load_state_dict(checkpoint_filter_fn(dict(weights), theirs))
        inputs = normalise(some_pixels(), MEAN, STD)
        np.testing.assert_allclose(theirs.forward_features(inputs)[:, 5:].detach(), read(inputs)[1], atol=1e-5)
        return folder / "dinov2_vitg14_reg4_pretrain.pth", read


def test_a_checkpoint_is_read_once(tmp_path, home):
    path, _ = TestMeta().make(tmp_path)
    first = locate_teacher(str(path))
    assert first.folder.parent == home / "teachers"
    assert (first.name, first.revision) == ("teacher_checkpoint", None)
    (first.folder / "SOURCE.txt").write_text("kept")
    assert locate_teacher(str(path)).weights_sha256 == first.weights_sha256
    assert (first.folder / "SOURCE.txt").read_text() == "kept"


class Trap:
    """What a pickle can do to who loads it."""

    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (Trap(), "'t.pth' is not read: torch's restricted loader"),
        ({"model": Trap()}, "'t.pth' is not read: torch's restricted loader"),
        (torch.zeros(2), "holds a Tensor, expected a state_dict"),
        ({"backbone.head.weight": torch.zeros(2)}, "it lacks 'embeddings.patch_embeddings.projection.weight'"),
    ],
)
def test_other_pickles_are_refused_and_run_nothing(tmp_path, monkeypatch, content, told):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "t.pth")
    with pytest.raises(TeacherError, match=told):
        locate_teacher(str(tmp_path / "t.pth"))
    assert not (tmp_path / "ran").exists()


# ── One teacher in three forms ───────────────────────────────────────────────────────────────────────────────────


def three_forms(teacher, folder, side):
    """DINOv2-small as transformers has it, as timm has it, and as Meta's code has it."""
    weights = as_meta(teacher)
    torch.save(weights, folder / "dinov2_vits14_pretrain.pth")
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=side)
    (folder / "timm").mkdir()
    save_file(checkpoint_filter_fn(weights, model), folder / "timm/model.safetensors")
    config = {"architecture": "vit_small_patch14_dinov2", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    (folder / "timm/config.json").write_text(json.dumps(config))
    return teacher, folder / "timm", folder / "dinov2_vits14_pretrain.pth"


def test_dinov2_small_says_the_same_in_every_form(real_teacher, tmp_path):
    # 518 px, the size that its positions are of. At others timm fits them with antialiasing, transformers without.
    forms = three_forms(real_teacher, tmp_path, 518)
    pixels = some_pixels(1, side=518)
    prepared = Preprocessing(image_size=518)
    plain, by_timm, by_meta = (load(teacher, "last4").features(pixels, prepared) for teacher in forms)
    np.testing.assert_allclose(by_timm, plain, atol=2e-4)
    assert np.array_equal(by_meta, plain)


def resized(teacher, folder, side):
    """A copy of a teacher with positions for another size, so that no form has to fit them."""
    shutil.copytree(teacher, folder)
    weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    positions = weights["embeddings.position_embeddings"]  # (1, 1 + 37², D)
    table = positions[:, 1:].unflatten(1, (37, 37)).movedim(3, 1)
    table = torch.nn.functional.interpolate(table, size=side // PATCH, mode="bicubic").flatten(2).mT
    weights["embeddings.position_embeddings"] = torch.cat([positions[:, :1], table], 1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "image_size": side}))
    return folder


def test_the_probe_of_dinov2_small_is_the_same_in_every_form(real_teacher, pneumonia, tmp_path):
    forms = three_forms(resized(real_teacher, tmp_path / "dinov2-small", 112), tmp_path, 112)
    prepared = Preprocessing(image_size=112)
    counts = {"train": 60, "val": 30, "test": 30}
    with np.load(pneumonia) as data:
        images = {split: data[f"{split}_images"][:count] for split, count in counts.items()}
        labels = {split: data[f"{split}_labels"][:count].ravel().astype(np.int64) for split, count in counts.items()}
    probes, features = [], []
    for teacher in map(load, forms):
        found = {
            split: teacher.features(resize_images([one[..., None] for one in part], 112, "squash"), prepared)
            for split, part in images.items()
        }
        keys = np.random.default_rng(0).integers(0, 256, (counts["train"], 32), np.uint8)
        probe = fit_probe(
            found,
            labels,
            keys=keys,
            groups=np.arange(counts["train"]),
            task="multiclass",
            n_classes=2,
            settings=ProbeSettings(folds=3, seed=0),
        )
        features.append(found["test"])
        probes.append(found["test"] @ probe.weight[-1].T + probe.bias[-1])
    assert np.array_equal(probes[0], probes[2])
    np.testing.assert_allclose(features[1], features[0], atol=2e-4)
    np.testing.assert_allclose(probes[1], probes[0], atol=1e-2)
