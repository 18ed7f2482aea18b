"""Images without contrast are refused before the teacher runs and after its first features, or allowed and recorded."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import medal as api
from medal.cache.errors import DataError
from medal.cache.reader import open_cache
from medal.cache.store.privacy import check_private
from medal.pipeline.datasets import DatasetOptions, open_dataset
from medal.pipeline.features.contrast import LOOKED_AT, FeatureCheck, mean_cosine, pattern_cosine
from medal.pipeline.planning.contrast import check_views
from medal.pipeline.planning.plan import arrange
from medal.pipeline.planning.request import CacheSettings
from medal.pipeline.teacher.files import default_preprocessing, locate_teacher
from medal.pipeline.teacher.teacher import Teacher

SIDE = 28
# Of a tiny teacher of random weights.
TINY = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "patch_size": 14, "image_size": SIDE}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    Dinov2Model(Dinov2Config(**TINY)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({}))
    return folder


@pytest.fixture
def scans(tmp_path):
    """Write the same images with all their contrast or with less; give a function that returns their folder."""

    def make(scale=1.0, offset=0, count=90):
        for row in range(count):
            rng = np.random.default_rng(row)
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8).astype(np.uint8))
            image = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(float)
            place = tmp_path / "set" / "ab"[row % 2] / f"{row:03d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * scale + offset).round().astype(np.uint8)).save(place)
        return tmp_path / "set"

    return make


def ask(folder, out, tiny, **settings):
    told = []
    made = api.cache_teacher(
        folder,
        out,
        teacher=str(tiny),
        image_size=SIDE,
        batch_size=16,
        precision="fp32",
        device="cpu",
        folds=2,
        tell=told.append,
        **settings,
    )
    return made, told


def test_a_sound_set_is_no_word_worth(scans, tiny, tmp_path):
    made, told = ask(scans(), tmp_path / "x.zarr", tiny)
    assert "contrast" not in made.cache.manifest.dataset
    assert not [sentence for sentence in told if "grey" in sentence]


def test_views_of_next_to_nothing_are_refused_before_the_teacher_runs(scans, tiny, tmp_path):
    folder = scans(1 / 16, 100)
    with pytest.raises(
        DataError, match=r"62 of the 62 images .* span fewer than 24 of 255 greys, .*'[ab]/\d+\.png'.*--inten"
    ):
        ask(folder, tmp_path / "x.zarr", tiny)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    made, told = ask(folder, tmp_path / "x.zarr", tiny, allow_low_contrast=True)
    recorded = made.cache.manifest.dataset["contrast"]
    assert (recorded["looked_at"], recorded["flat"]) == (62, 62)
    assert any("nearly one shade of grey" in sentence for sentence in told)
    check_private(open_cache(tmp_path / "x.zarr").manifest)


def padded(place):
    """Give an image a fringe in which all greys are, and nothing else: what no look at the span of greys can find."""
    image = np.asarray(Image.open(place)) // 64 + 100
    ground = np.linspace(0, 255, 4 * SIDE).reshape(4, SIDE)
    Image.fromarray(np.vstack([ground, image, ground]).astype(np.uint8)).save(place)


def test_features_that_are_all_alike_are_refused_and_nothing_is_left(scans, tiny, tmp_path):
    folder = scans()
    for place in folder.rglob("*.png"):
        padded(place)
    with pytest.raises(
        DataError, match=r"hardly apart: the mean cosine .* of \d\d different ones is 0\.99\d+.*--intensity"
    ):
        ask(folder, tmp_path / "x.zarr", tiny)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    made, _ = ask(folder, tmp_path / "x.zarr", tiny, allow_low_contrast=True)
    assert set(made.cache.manifest.dataset["contrast"]) == {"mean_cosine", "mean_cosine_of_patterns"}


def test_a_part_without_contrast_is_said(scans, tiny, tmp_path):
    folder = scans()
    for place in sorted(folder.rglob("*.png"))[:20]:
        Image.fromarray(np.asarray(Image.open(place)) // 16).save(place)
    made, told = ask(folder, tmp_path / "x.zarr", tiny)
    assert any("images looked at span fewer than 24 of 255 greys, for instance file 'a/0" in text for text in told)
    assert "contrast" not in made.cache.manifest.dataset


def test_images_that_are_all_transparent_are_refused(tmp_path):
    for index in range(40):
        grey = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE), np.uint8)
        place = tmp_path / "ab"[index % 2] / f"{index}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(np.dstack([grey, grey, grey, np.zeros_like(grey)])).save(place)
    asked = DatasetOptions()
    made = arrange(open_dataset(tmp_path), CacheSettings(), asked)
    with pytest.raises(DataError, match=r"28 of the 28 images looked at have one value everywhere, .*transparent"):
        check_views(made.dataset, made.rows, CacheSettings())
    assert check_views(made.dataset, made.rows, CacheSettings(allow_low_contrast=True)).contrast == {
        "looked_at": 28,
        "flat": 28,
    }


@pytest.mark.parametrize("factors", [(16, 257), (257, 16)])
def test_splits_of_other_scales_are_refused(tmp_path, factors):
    for split, factor in zip(("train", "test"), factors, strict=True):
        for index in range(12):
            grey = np.random.default_rng([index, factor]).integers(0, 256, (SIDE, SIDE), np.uint16)
            place = tmp_path / split / "ab"[index % 2] / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((grey * factor).astype(np.uint16)).save(place)
    white = 4095 if factors[0] == 16 else 65535
    with pytest.raises(DataError, match=rf"12 of 12 images looked at in test are on another scale .* white at {white}"):
        arrange(open_dataset(tmp_path), CacheSettings(), DatasetOptions())
    told = DatasetOptions(intensity="0,65535")
    assert arrange(open_dataset(tmp_path, told), CacheSettings(), told).intensity == "0,65535"


def test_the_cosine_is_of_different_images():
    features = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float16)
    units = features / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    pairs = [units[a] @ units[b] for a in range(9) for b in range(9) if a != b]
    assert mean_cosine(features) == pytest.approx(np.mean(pairs))


def checker(load, allow=False):
    asked = SimpleNamespace(
        settings=SimpleNamespace(allow_low_contrast=allow), dataset=SimpleNamespace(name="set"), preprocessing=None
    )
    return FeatureCheck(asked, load)


def numbered(count):
    return np.arange(count * 16, dtype=np.uint8).reshape(count, 16)


def test_copies_of_an_image_and_a_handful_of_images_say_nothing():
    def load():
        raise AssertionError("the teacher is asked in doubt alone")

    alike = np.ones((40, 5), np.float16)
    assert checker(load).look(np.zeros((40, 16), np.uint8), alike) is None
    assert checker(load).look(numbered(4), alike[:4]) is None


class Blind(Teacher):
    """Says nearly the same of whatever it is shown, as some random weights do."""

    def __init__(self):
        pass

    def features(self, pixels, _preprocessing):
        return 1 + 1e-4 * pixels.mean((1, 3)).numpy()


def test_a_teacher_that_tells_nothing_apart_is_no_fault_of_the_images(tiny):
    files = locate_teacher(str(tiny))
    preprocessing = default_preprocessing(files, image_size=SIDE)
    assert pattern_cosine(Blind(), preprocessing) > 0.995
    seeing = Teacher.load(files, feature="cls+mean", precision="fp32", device="cpu")
    assert pattern_cosine(seeing, preprocessing) < 0.9


def test_the_first_features_are_looked_at_once():
    seen = []
    check = checker(lambda: None)
    check.look = lambda key, features: seen.append((len(key), features.shape))
    kind = np.dtype([("key", "u1", 16), ("feature", "f2", (2, 5))])
    for _ in range(5):
        check.early(np.zeros(LOOKED_AT // 2 + 1, kind))
    assert seen == [(LOOKED_AT + 2, (LOOKED_AT + 2, 5))]
