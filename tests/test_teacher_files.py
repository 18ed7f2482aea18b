"""Finding a teacher: folders, what their files say, and every refusal."""

import hashlib
import json

import pytest
from teacher_folders import CONFIG, WEIGHTS, index_of, make_teacher

from medal.cache.errors import TeacherError
from medal.pipeline.teacher.files import (
    assumptions,
    check_image_size,
    default_preprocessing,
    feature_dim,
    locate_teacher,
)
from medal.pipeline.views.preprocessing import IMAGENET_MEAN, IMAGENET_STD

# ── Folders ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_is_known_by_its_last_name_and_its_bytes(tmp_path, monkeypatch):
    folder = make_teacher(tmp_path / "our-teacher", model__safetensors=WEIGHTS)
    files = locate_teacher(str(folder))
    assert (files.name, files.revision, files.folder, files.config) == ("our-teacher", None, folder, CONFIG)
    assert files.weights_sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    monkeypatch.chdir(folder)
    assert locate_teacher(".").name == "our-teacher"
    (tmp_path / "link").symlink_to(folder)
    assert locate_teacher(f"{tmp_path}/link/").name == "link"


def test_the_real_teacher_has_the_sha256_of_its_source(real_teacher):
    assert locate_teacher(str(real_teacher)).weights_sha256.startswith("8b38fc0f3652d5a3")


def test_shards_are_digested_whatever_their_names(tmp_path):
    one = make_teacher(
        tmp_path / "one",
        a__safetensors=b"1",
        b__safetensors=b"2",
        model__safetensors__index__json=index_of("a.safetensors", "b.safetensors", "a.safetensors"),
    )
    two = make_teacher(
        tmp_path / "two",
        x__safetensors=b"2",
        y__safetensors=b"1",
        model__safetensors__index__json=index_of("x.safetensors", "y.safetensors"),
    )
    lines = sorted(hashlib.sha256(content).hexdigest() + "\n" for content in (b"1", b"2"))
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert locate_teacher(str(one)).weights_sha256 == locate_teacher(str(two)).weights_sha256 == expected


@pytest.mark.parametrize(
    ("config", "files", "told"),
    [
        (None, {"model__safetensors": WEIGHTS}, "has no config.json"),
        (CONFIG, {}, "no weights: expected 'model.safetensors'"),
        (CONFIG, {"pytorch_model__bin": b""}, "'pytorch_model.bin', a pickle.*save_pretrained"),
        (CONFIG, {"teacher__pth": b""}, "'teacher.pth', a pickle"),
        (CONFIG, {"dinov2__safetensors": WEIGHTS}, "got 'dinov2.safetensors'; rename"),
        (CONFIG, {"model__safetensors__index__json": index_of("a.safetensors")}, "lacks 1 of the 1 .*'a.safetensors'"),
        (CONFIG, {"model__safetensors__index__json": index_of("../a.safetensors")}, r"names '\.\./a\.safetensors'"),
        (CONFIG, {"model__safetensors__index__json": index_of("a.bin"), "a__bin": b""}, "names 'a.bin'"),
        (CONFIG, {"model__safetensors__index__json": b"{}"}, "lists no weights"),
        (CONFIG, {"model__safetensors__index__json": b"{"}, "cannot be read as JSON"),
        ([], {"model__safetensors": WEIGHTS}, "must hold a JSON object, got list"),
        ({**CONFIG, "model_type": "vit"}, {"model__safetensors": WEIGHTS}, "model_type 'vit', expected 'dinov2', '"),
        ({}, {"model__safetensors": WEIGHTS}, "model_type None"),
        ({**CONFIG, "hidden_size": "8"}, {"model__safetensors": WEIGHTS}, "'hidden_size' .*got '8'"),
    ],
)
def test_a_folder_that_cannot_be_a_teacher_is_refused(tmp_path, config, files, told):
    make_teacher(tmp_path / "bad", config, **files)
    with pytest.raises(TeacherError, match=told) as refusal:
        locate_teacher(str(tmp_path / "bad"))
    assert "'bad'" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "~/none at all", "org/", ""])
def test_what_is_neither_folder_nor_id_is_refused(name):
    with pytest.raises(TeacherError, match="neither a folder that exists nor a Hugging Face id"):
        locate_teacher(name or " ")


def test_a_folder_has_no_revision(tmp_path):
    make_teacher(tmp_path / "here", model__safetensors=WEIGHTS)
    with pytest.raises(TeacherError, match="--revision"):
        locate_teacher(str(tmp_path / "here"), revision="main")


# ── What the files say ───────────────────────────────────────────────────────────────────────────────────────────


def test_feature_lengths():
    assert feature_dim(CONFIG, "cls+mean") == 16
    assert feature_dim(CONFIG, "last4") == 40
    with pytest.raises(TeacherError, match=r"'cls'; known: cls\+mean, last4"):
        feature_dim(CONFIG, "cls")
    with pytest.raises(TeacherError, match="needs 4 blocks, the teacher has 3"):
        feature_dim({**CONFIG, "num_hidden_layers": 3}, "last4")


@pytest.mark.parametrize(("size", "nearest"), [(225, "224 or 238"), (10, "use 14")])
def test_image_sizes_are_multiples_of_the_patch(size, nearest):
    check_image_size(CONFIG, 224)
    with pytest.raises(TeacherError, match=nearest):
        check_image_size(CONFIG, size)


@pytest.mark.parametrize(
    ("processor", "mean", "std"),
    [
        (None, IMAGENET_MEAN, IMAGENET_STD),
        ({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}, (0.5,) * 3, (0.25,) * 3),
        ({"do_normalize": False, "image_mean": [0.5, 0.5, 0.5]}, (0,) * 3, (1,) * 3),
        ({}, IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_the_teachers_own_normalisation_is_used(tmp_path, processor, mean, std):
    folder = make_teacher(tmp_path / "t", model__safetensors=WEIGHTS)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    made = default_preprocessing(locate_teacher(str(folder)), image_size=112, resize="pad", intensity="minmax")
    assert (made.image_size, made.resize, made.intensity, made.mean, made.std) == (112, "pad", "minmax", mean, std)


def test_a_nonsensical_normalisation_is_refused(tmp_path):
    folder = make_teacher(
        tmp_path / "t", model__safetensors=WEIGHTS, preprocessor_config__json=b'{"image_std": [0, 0]}'
    )
    with pytest.raises(TeacherError, match=r"Teacher 't': .*'std' must be three numbers"):
        default_preprocessing(locate_teacher(str(folder)))


def test_a_normalisation_that_is_assumed_is_said(tmp_path):
    folder = make_teacher(tmp_path / "t", model__safetensors=WEIGHTS)
    (told,) = assumptions(locate_teacher(str(folder)))
    assert told.startswith("teacher 't' has no preprocessor_config.json in")
    (folder / "preprocessor_config.json").write_text("{}")
    assert assumptions(locate_teacher(str(folder))) == []
