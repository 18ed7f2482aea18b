"""Stored views: what the teacher saw, written down as numbers, and replayed by the student on the very same image."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from medal.cache.errors import CacheMismatch, DataError, StudentError
from medal.cache.reader import open_cache
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.teacher.files import locate_teacher
from medal.pipeline.teacher.teacher import Teacher, agreement
from medal.pipeline.views.policies import POLICIES, VIEW_PARAMETERS, Views, choose_views, draw_views
from medal.pipeline.views.preprocessing import Preprocessing
from medal.pipeline.views.transforms import apply_views, resize_images
from medal.student.targets import replay
from medal.student.targets.load import load_targets

VIEWS = 3
ASKED = ("--views", VIEWS, "--augment", "xray")
TRAIN = ("--student", "test_resnet", "--epochs", 2, "--image-size", 32, "--precision", "fp32", "--workers", 0)


@pytest.fixture(scope="module")
def viewed(medal, small_npz, small_request, tmp_path_factory):
    """A sealed cache of chest X-rays with three views of each train image. Not to be changed."""
    out = tmp_path_factory.mktemp("viewed") / "chest.zarr"
    medal("cache-teacher", small_npz, out, *small_request, *ASKED)
    return out


@pytest.fixture
def quiet():
    return lambda *_: nullcontext(lambda _: None)


# ── Stage one ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cache_of_views_is_sound_in_both_forms(viewed, medal, tmp_path):
    cache = open_cache(viewed)
    assert cache.read("train", "logits").shape == (180, VIEWS, 2)
    assert cache.read("val", "logits").shape == (60, 1, 2)
    assert medal("verify", viewed)["ok"]
    medal("convert", viewed, tmp_path / "chest.h5")
    assert medal("verify", tmp_path / "chest.h5")["ok"]
    assert open_cache(tmp_path / "chest.h5").content_digest == cache.content_digest
    views = cache.manifest.views
    assert (views["count"], views["policy"], views["parameters"]) == (VIEWS, "xray", list(VIEW_PARAMETERS))
    assert views["ranges"] == POLICIES["xray"].to_dict()


def test_view_0_is_what_a_cache_without_views_has(viewed, small_cache):
    one, other = open_cache(viewed), open_cache(small_cache)
    for split in ("train", "val", "test"):
        for name in ("feature", "logits", "view", "view_check"):
            assert one.read(split, name)[:, :1].tobytes() == other.read(split, name).tobytes()


def test_parameters_are_drawn_from_seed_key_and_view_alone(viewed):
    cache = open_cache(viewed)
    key, view = cache.read("train", "key"), cache.read("train", "view")
    for index in range(VIEWS):
        assert np.array_equal(view[:, index], draw_views(POLICIES["xray"], key, 0, index, 0))
    assert not view[:, 0].any()
    assert (view[:, 1] != view[:, 2]).any(1).all()


def test_features_of_a_view_are_of_that_very_view(viewed, small_npz, teacher):
    cache, dataset = open_cache(viewed), open_dataset(str(small_npz))
    preprocessing = Preprocessing.from_dict(cache.manifest.preprocessing)
    part = load_targets(cache, dataset, spec="chest", stored=True).splits["train"]
    rows = [3, 77, 150]
    pixels = resize_images(
        [dataset.images.read(int(row)) for row in part.row[rows]], preprocessing.image_size, "squash"
    )
    model = Teacher.load(locate_teacher(str(teacher)), feature="last4", precision="fp32", device="cpu")
    stored = cache.read("train", "feature")[rows]
    for view in range(VIEWS):
        fresh = model.features(apply_views(pixels, torch.from_numpy(part.view[rows, view])), preprocessing)
        assert agreement(fresh, stored[:, view]) > 0.999
    assert agreement(stored[:, 1], stored[:, 2]) < 0.999  # other views of the same images are told apart


def test_logits_of_every_view_are_out_of_fold(viewed):
    cache = open_cache(viewed)
    weight, bias = cache.read_probe()
    fold, feature = cache.read("train", "fold"), cache.read("train", "feature").astype(np.float64)
    expected = np.einsum("nvf,ncf->nvc", feature, weight[fold].astype(np.float64)) + bias[fold][:, None]
    np.testing.assert_allclose(cache.read("train", "logits"), expected, atol=1e-4)


def test_views_without_a_policy_are_refused(small_npz, small_request, medal, tmp_path):
    with pytest.raises(DataError, match=r"4 views without a policy would all be the same; choose with --augment"):
        medal("cache-teacher", small_npz, tmp_path / "x.zarr", *small_request, "--views", 4)


def test_views_and_policy_are_part_of_the_address(small_npz, small_request, medal, tmp_path):
    asked = [(), ("--augment", "xray"), ASKED, ("--views", VIEWS, "--augment", "ct")]
    made = [
        medal("cache-teacher", small_npz, tmp_path / "x.zarr", *small_request, *words, "--dry-run") for words in asked
    ]
    assert len({one["cache_id"] for one in made}) == len(asked)


def test_a_grown_dataset_takes_all_views_over(viewed, small_npz, small_request, medal, tmp_path):
    out = tmp_path / "chest.h5"
    few = medal("cache-teacher", small_npz, out, *small_request, *ASKED, "--limit", 30)
    assert few["computed"] == 90
    grown = medal("cache-teacher", small_npz, out, *small_request, *ASKED)
    assert (grown["action"], grown["computed"]) == ("extend", 210)
    one, other = open_cache(out), open_cache(viewed)
    for name in ("key", "view", "view_check"):
        assert one.read("train", name).tobytes() == other.read("train", name).tobytes()
    agreed = agreement(*(cache.read("train", "feature").reshape(180 * VIEWS, -1) for cache in (one, other)))
    assert agreed > 0.999


def test_train_images_are_not_taken_over_from_where_they_have_one_view(
    small_cache, small_npz, small_request, medal, tmp_path
):
    made = medal("cache-teacher", small_npz, tmp_path / "x.zarr", *small_request, "--augment", "xray")
    assert made["action"] == "create"
    with pytest.raises(CacheMismatch, match=r"do not fit: it differs in views"):
        medal("cache-teacher", small_npz, tmp_path / "y.zarr", *small_request, *ASKED, "--from", small_cache)


# ── Stage two ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_student_learns_from_stored_views_the_same_way_twice(viewed, small_npz, medal, tmp_path):
    runs = [tmp_path / name for name in ("one", "two")]
    for run in runs:
        medal("train-student", viewed, small_npz, "--out", run, *TRAIN, "--targets", "stored", "--check-views")
    assert runs[0].joinpath("model.safetensors").read_bytes() == runs[1].joinpath("model.safetensors").read_bytes()
    described = json.loads((runs[0] / "run.json").read_text())
    assert described["target"] == "stored view"
    assert described["request"]["targets"] == "stored"
    medal("train-student", viewed, small_npz, "--out", tmp_path / "plain", *TRAIN)
    assert (tmp_path / "plain/model.safetensors").read_bytes() != (runs[0] / "model.safetensors").read_bytes()


def test_the_replay_of_all_rows_passes(viewed, small_npz, quiet):
    cache, dataset = open_cache(viewed), open_dataset(str(small_npz))
    part = load_targets(cache, dataset, spec="chest", stored=True).splits["train"]
    preprocessing = Preprocessing.from_dict(cache.manifest.preprocessing)
    assert replay.check_replay(dataset.images, part, preprocessing, quiet, every=True) == 180
    assert replay.check_replay(dataset.images, part, preprocessing, quiet, every=False) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels, params: apply_views(pixels, -params),
        lambda pixels, params: apply_views(pixels, params * torch.tensor([1, 1, 1, 1, 1, 1, 1, 0.9])),
        lambda pixels, params: apply_views(pixels, params * torch.tensor([1, 1, 1, 0, 1, 1, 1, 1])),
        lambda pixels, params: apply_views(pixels, params).flip(3),
    ],
    ids=["the other way", "less contrast", "no rotation", "mirrored"],
)
def test_a_changed_augmentation_is_caught(change, viewed, small_npz, medal, monkeypatch, tmp_path):
    monkeypatch.setattr(replay, "apply_views", change)
    with pytest.raises(CacheMismatch, match=r"of 64 images have other views here than the teacher saw, .*image \d+"):
        medal("train-student", viewed, small_npz, "--out", tmp_path / "run", *TRAIN, "--targets", "stored")
    assert not (tmp_path / "run").exists()


def test_a_cache_without_views_cannot_serve_them(small_cache, small_npz, medal, tmp_path):
    with pytest.raises(CacheMismatch, match=r"has no stored views for --targets stored; make one"):
        medal("train-student", small_cache, small_npz, "--out", tmp_path / "run", *TRAIN, "--targets", "stored")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--augment", "pathology"),
            ("--augment pathology allows transforms that may change a label by the policy 'xray'"),
        ),
        (("--augment", "small", "--targets", "stored"), "only sees the views in the cache"),
    ],
)
def test_transforms_outside_the_policy_are_refused(words, told, viewed, small_npz, medal, tmp_path):
    with pytest.raises(StudentError, match=told):
        medal("train-student", viewed, small_npz, "--out", tmp_path / "run", *TRAIN, *words)


def test_transforms_within_the_policy_are_allowed(viewed, small_npz, medal, tmp_path):
    for policy in ("small", "none", "xray"):
        words = ("--out", tmp_path / policy, *TRAIN, "--augment", policy, "--dry-run")
        assert medal("train-student", viewed, small_npz, *words)["action"] == "create"


def test_the_choice_of_a_view_is_even_and_of_key_epoch_and_seed_alone():
    keys = np.random.default_rng(0).integers(0, 256, (9000, 16), np.uint8)
    chosen = choose_views(keys, 5, VIEWS, 1)
    counts = np.bincount(chosen, minlength=VIEWS)
    assert abs(counts - 3000).max() < 200
    order = np.random.default_rng(1).permutation(len(keys))
    assert np.array_equal(choose_views(keys[order], 5, VIEWS, 1), chosen[order])
    assert (choose_views(keys, 6, VIEWS, 1) != chosen).mean() > 0.6
    assert Views(count=VIEWS, policy="xray").of("val") == 1
