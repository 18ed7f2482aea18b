"""`--tune` and `--image-size auto`: the teacher's size and recipe for these images."""

import math

import numpy as np
import pytest
from PIL import Image

from medal.cache.reader import open_cache
from medal.pipeline.caching.tuning import TunedTrial, _choose
from medal.pipeline.teacher.demo import tiny_teacher

# Images of each split: the real teacher at 224 px takes its time on a CPU.
FEW = ("--limit", 50)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_teacher(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tuned(medal, small_npz, teacher, tmp_path_factory):
    """A tuned cache of chest X-rays, and what the command said."""
    out = tmp_path_factory.mktemp("tuned") / "chest.zarr"
    return out, medal("cache-teacher", small_npz, out, "--teacher", teacher, *FEW, "--tune")


def test_the_winner_is_made_and_the_choice_recorded(tuned):
    out, made = tuned
    record = open_cache(out).manifest.raw["tuned"]
    assert made["tuned"] == record
    tried = {(trial["image_size"], trial["feature"]) for trial in record["trials"]}
    assert tried == {(size, feature) for size in (112, 224) for feature in ("cls+mean", "last4")}
    assert record["sample"] == {"train": 50, "val": 50}
    assert all(0.7 < trial["val_auroc"] <= 1 for trial in record["trials"])
    manifest = open_cache(out).manifest
    assert manifest.teacher["feature"] == record["chosen"]["feature"]
    assert manifest.preprocessing["image_size"] == record["chosen"]["image_size"]


def test_asking_again_or_for_the_choice_itself_finds_the_cache(tuned, terminal, small_npz, teacher):
    out, made = tuned
    chosen = made["tuned"]["chosen"]
    for words in (["--tune"], ["--feature", chosen["feature"], "--image-size", chosen["image_size"]]):
        again = terminal("cache-teacher", small_npz, out, "--teacher", teacher, *FEW, *words)
        assert "Nothing to do" in again.stdout
        assert "tuned on" not in again.stderr


def test_the_default_is_the_richest_recipe_that_the_teacher_has_blocks_for(tuned, medal, small_npz, teacher, tmp_path):
    asked = ("--image-size", tuned[1]["tuned"]["chosen"]["image_size"], "--dry-run")
    ids = {
        feature: medal("cache-teacher", small_npz, tmp_path / "x.zarr", "--teacher", teacher, *FEW, *asked, *words)[
            "cache_id"
        ]
        for feature, words in {
            "auto": (),
            "last4": ("--feature", "last4"),
            "cls+mean": ("--feature", "cls+mean"),
        }.items()
    }
    assert ids["auto"] == ids["last4"] != ids["cls+mean"]


def test_another_request_does_not_take_the_choice(tuned, terminal, small_npz, teacher):
    again = terminal(
        "cache-teacher", small_npz, tuned[0], "--teacher", teacher, *FEW, "--tune", "--seed", 1, "--dry-run"
    )
    assert "would be tried first" in again.stderr


def test_a_teacher_of_few_blocks_has_one_recipe(terminal, tiny, tmp_path):
    made = terminal("cache-teacher", "phantom", tmp_path / "x.zarr", "--teacher", tiny, *FEW, "--tune")
    assert made.returncode == 0
    assert "tuned on 50 images of train, chosen on 50 of val:" in made.stderr
    assert made.stderr.count("cls+mean: val AUROC") == 2
    assert "last4" not in made.stderr


def test_a_dry_run_tries_nothing_and_says_so(terminal, tiny, tmp_path):
    asked = terminal("cache-teacher", "phantom", tmp_path / "x.zarr", "--teacher", tiny, "--tune", "--dry-run")
    assert asked.returncode == 0
    assert "would be tried first" in asked.stderr
    assert "tuned on" not in asked.stderr


@pytest.mark.parametrize(("side", "size"), [(28, 112), (64, 112), (65, 224)])
def test_auto_size_is_by_the_images_and_has_the_address_of_that_size(side, size, medal, tiny, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(20):
        folder = tmp_path / "scans" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (side, 20), np.uint8)).save(folder / f"{index}.png")
    dry = [
        medal(
            "cache-teacher",
            tmp_path / "scans",
            tmp_path / "x.zarr",
            "--teacher",
            tiny,
            "--image-size",
            asked,
            "--dry-run",
        )
        for asked in ("auto", size)
    ]
    assert dry[0]["cache_id"] == dry[1]["cache_id"]


def test_a_size_that_is_no_number_is_refused(terminal, tiny):
    asked = terminal("cache-teacher", "phantom", "--image-size", "large", "--teacher", tiny)
    assert asked.returncode == 2
    assert "'large' is not a valid integer" in asked.stderr


def trial(size, feature, auroc, loss=0.5):
    return TunedTrial(feature=feature, image_size=size, val_auroc=auroc, val_log_loss=loss, images_per_second=1.0)


def test_the_cheapest_of_those_as_good_as_the_best_wins():
    cheap, better, noise = trial(112, "cls+mean", 0.95), trial(112, "last4", 0.97), trial(224, "cls+mean", 0.9719)
    assert _choose([cheap, better, noise]) is better
    assert _choose([cheap, better, trial(224, "last4", 0.9721)]).image_size == 224


def test_where_no_auroc_is_defined_the_loss_decides():
    assert _choose([trial(112, "a", math.nan, 0.6), trial(224, "a", math.nan, 0.4)]).image_size == 224
