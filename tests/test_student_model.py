"""Students from timm: names, weights, and the folder that timm reads back."""

import json
import socket

import pytest
import timm
import torch
from safetensors.torch import save_file
from teacher_folders import hub_cache

from medal.cache.errors import StudentError
from medal.student.network.model import build_model, choose_weights, describe_model, model_config

TINY = "test_resnet"


def _save(folder, model, name=TINY, classes=("a", "b", "c"), size=64):
    folder.mkdir()
    spec = describe_model(name, "random")
    (folder / "config.json").write_text(json.dumps(model_config(spec, model, classes, size, "squash")))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def _tiny(classes=3, seed=0):
    torch.manual_seed(seed)
    return build_model(describe_model(TINY, "random"), "random", classes, 64)


def _equal(one, other, skip="fc."):
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith(skip))


@pytest.mark.parametrize(("typed", "meant"), [("resnet_18", "resnet18"), ("ResNet50", "resnet50")])
def test_unknown_model_names_the_closest(typed, meant):
    with pytest.raises(StudentError, match=f"no model '{typed}'.*closest.*'{meant}'"):
        describe_model(typed, "random")


def test_unknown_tag_names_the_known_ones():
    with pytest.raises(StudentError, match=r"'resnet18' exists, with the tags 'resnet18\.a1_in1k'"):
        describe_model("resnet18.nonsense", "random")


def test_own_size_and_statistics_are_known_before_building():
    spec = describe_model("tf_efficientnet_lite0", "random")
    assert (spec.image_size, spec.mean, spec.std) == (224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_random_weights_are_drawn_from_the_seed():
    assert _equal(_tiny(seed=1), _tiny(seed=1), skip="!")
    assert not _equal(_tiny(seed=1), _tiny(seed=2))


@pytest.mark.parametrize("classes", [3, 5])
def test_a_folder_loads_as_timm_loads_it(tmp_path, classes):
    folder = _save(tmp_path / "w", _tiny(seed=5))
    ours = build_model(describe_model(TINY, str(folder)), str(folder), classes, 64)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=classes)
    assert _equal(ours, theirs, skip="fc." if classes != 3 else "!")


def test_a_new_head_on_trained_features_has_no_opinion(tmp_path):
    folder = str(_save(tmp_path / "w", _tiny(seed=5)))
    model = build_model(describe_model(TINY, folder), folder, 5, 64).eval()
    assert model(torch.rand(1, 3, 64, 64)).abs().max() == 0
    assert build_model(describe_model(TINY, folder), folder, 3, 64).eval()(torch.rand(1, 3, 64, 64)).abs().max() > 0


def test_a_bare_file_loads(tmp_path):
    folder = _save(tmp_path / "w", _tiny(seed=5))
    file = str(folder / "model.safetensors")
    assert _equal(build_model(describe_model(TINY, file), file, 2, 64), _tiny(seed=5))


def test_the_written_folder_gives_the_same_logits(tmp_path):
    model = _tiny(seed=5).eval()
    again = timm.create_model(f"local-dir:{_save(tmp_path / 'w', model)}", pretrained=True).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(images), again(images))
    assert again.pretrained_cfg["input_size"] == [3, 64, 64]
    assert again.pretrained_cfg["label_names"] == ["a", "b", "c"]


def test_a_model_of_fixed_size_keeps_its_size_in_the_folder(tmp_path):
    name = "test_vit"
    torch.manual_seed(0)
    model = build_model(describe_model(name, "random"), "random", 3, 96).eval()
    again = timm.create_model(f"local-dir:{_save(tmp_path / 'w', model, name, size=96)}", pretrained=True).eval()
    images = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        assert torch.equal(model(images), again(images))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("nowhere", "no student weights at"),
        ("empty", r"has no config\.json"),
        ("half", r"has no model\.safetensors"),
        ("broken", "is not the config.json of a timm model"),
        ("other", r"are of 'resnet18', the student is 'test_resnet'"),
    ],
)
def test_weights_that_cannot_be_are_refused_before_building(tmp_path, weights, message):
    for name, config in {"empty": None, "half": "{}", "broken": "[", "other": '{"architecture": "resnet18"}'}.items():
        (tmp_path / name).mkdir()
        if config is not None:
            (tmp_path / name / "config.json").write_text(config)
        if name in ("broken", "other"):
            (tmp_path / name / "model.safetensors").touch()
    with pytest.raises(StudentError, match=message):
        describe_model(TINY, str(tmp_path / weights))


@pytest.mark.parametrize("damage", ["missing", "renamed", "shape", "garbage", "pickle"])
def test_weights_of_something_else_are_refused(tmp_path, damage):
    file = tmp_path / ("w.pth" if damage == "pickle" else "w.safetensors")
    tensors = {key: value.clone() for key, value in _tiny().state_dict().items()}
    first = next(iter(tensors))
    if damage == "missing":
        del tensors[first]
    elif damage == "renamed":
        tensors["stranger"] = tensors.pop(first)
    elif damage == "shape":
        tensors[first] = torch.zeros(1)
    save_file(tensors, file)
    if damage == "garbage":
        file.write_bytes(b"\x00" * 100)
    with pytest.raises(StudentError, match=r"do not fit|cannot be read|the only form of weights"):
        build_model(describe_model(TINY, str(file)), str(file), 3, 64)


def test_real_weights_load(shared):
    place = str(shared / "students/tf_efficientnet_lite0")
    spec = describe_model("tf_efficientnet_lite0", place)
    ours = build_model(spec, place, 3, 224)
    theirs = timm.create_model(f"local-dir:{place}", pretrained=True, num_classes=3)
    assert _equal(ours, theirs, skip="classifier.")


def test_auto_takes_what_the_local_cache_of_the_hub_has(tmp_path, monkeypatch):
    assert choose_weights("resnet18", "random") == "random"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert choose_weights("resnet18", "auto") == "random"
    hub_cache(tmp_path, timm.get_pretrained_cfg("resnet18").hf_hub_id, model__safetensors=b"weights")
    assert choose_weights("resnet18", "auto") == "pretrained"
    assert choose_weights("no_such_model", "auto") == "random"  # which is said by who looks it up


def test_pretrained_weights_that_cannot_be_had_are_said_at_once(shell, small_cache, small_npz, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        silent.close()
        env = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": endpoint}
        done = shell(
            "train-student",
            small_cache,
            small_npz,
            "--student-weights",
            "pretrained",
            "--out",
            tmp_path / "run",
            "--image-size",
            32,
            env=env,
        )
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]  # after what the teacher is worth
    assert line.startswith(
        "medal: The weights of 'resnet18' are not in the local Hugging Face cache, and the hub gives"
    )
    assert list(tmp_path.iterdir()) == []
