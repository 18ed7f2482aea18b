"""Meta's own checkpoints, pickles that are read once; and one teacher that says the same in every form."""

import json
import re
import shutil

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from teacher_contract import (
    MEAN,
    PATCH,
    SMALL,
    STD,
    TIMM,
    WIDTH,
    Contract,
    load,
    make_dinov2,
    save_timm,
    save_transformers,
    shaken,
    some_pixels,
)
from timm.models.vision_transformer import checkpoint_filter_fn

from medal.cache.errors import TeacherError
from medal.cache.reader import open_cache
from medal.pipeline.probe.fit import ProbeSettings, fit_probe
from medal.pipeline.teacher.files import locate_teacher
from medal.pipeline.views.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from medal.pipeline.views.transforms import normalise, resize_images

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
        _, read = make_dinov2(folder)
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
