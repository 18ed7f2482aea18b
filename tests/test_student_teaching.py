"""What a student is taught with: other losses, several teachers, rare classes, few and unknown labels."""

import csv
import json
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open

from medal.cache.errors import CacheMismatch, StudentError
from medal.cache.reader import open_cache
from medal.pipeline.demo_teacher import tiny_teacher
from medal.student.checkpoint import Checkpoint
from medal.student.distill import ask
from medal.student.few_labels import choose_labelled
from medal.student.images import StudentImages, load_images
from medal.student.imbalance import check_imbalance
from medal.student.losses import LOSSES
from medal.student.model import build_model
from medal.student.precision import Plan
from medal.student.projection import Projection
from medal.student.settings import StudentSettings
from medal.student.training import Recipe, TrainingData, begin
from medal.student.training import train as train_on

squares = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "student_squares.py")))
QUICK = ("--student", "test_resnet", "--image-size", 32, "--epochs", 1, "--precision", "fp32", "--batch-size", 16)
COLUMNS = ("file", "label", "split", "group")
ROWS = 120

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(medal, tmp_path_factory):
    """Squares of three uneven classes, of patients, some labels unknown in every split, and caches of them."""
    folder = tmp_path_factory.mktemp("teaching")
    random = np.random.default_rng(3)
    rows = []
    for row in range(ROWS):
        kind = [0, 0, 0, 1, 0, 1, 2][row % 7]
        picture = random.integers(0, 150, (16, 16))
        picture[:8, :8] += kind * 45
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{row}.png")
        split = "train" if row < 72 else "val" if row < 96 else "test"
        rows.append([f"{row}.png", "" if row % 11 == 5 else "abc"[kind], split, f"p{row // 2}" if row % 5 else ""])
    write(folder / "all.csv", rows)
    teacher = tiny_teacher(folder)
    request = ("--teacher", teacher, "--image-size", 28, "--precision", "fp32", "--batch-size", 32)
    medal("cache-teacher", folder / "all.csv", folder / "all.h5", *request, "--views", 2, "--augment", "small")
    medal("cache-teacher", folder / "all.csv", folder / "other.h5", *request, "--image-size", 42)
    medal("cache-teacher", folder / "all.csv", folder / "lean.h5", *request, "--no-features")
    return folder


def write(path, rows, columns=COLUMNS):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def prepare(place, run, cache="all.h5", also=(), dataset="all.csv", **changed):
    quick = {"student": "test_resnet", "image_size": 32, "epochs": 1, "precision": "fp32", "batch_size": 16}
    settings = StudentSettings(**{**quick, **changed})
    path, table = str(place / cache), str(place / dataset)
    return ask(path, table, squares.DatasetOptions(), settings, run, overwrite=False, also=also)


def train(medal, place, run, *options, cache="all.h5"):
    return medal("train-student", place / cache, place / "all.csv", "--out", run, *QUICK, *options)


def fit(asked, checkpoint, report=lambda _row: None, sees=None):
    """Train without the run folder around it, going on from a checkpoint that is there; return the state.

    Where `sees` is a list, the rows of each batch of train are added to it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.settings.seed)
        model = build_model(asked.spec, "random", len(asked.targets.classes), asked.image_size)
    plan = Plan(precision="fp32", channels_last=False)
    recipe = Recipe(settings=asked.settings, epochs=asked.epochs, policy=asked.policy, plan=plan, device="cpu")
    images = StudentImages(asked.dataset.images, asked.image_size, asked.preprocessing.resize)
    state = begin(model, recipe, asked.targets.feature_dim)
    kept = Checkpoint(checkpoint, seconds=0)
    kept.load(state)
    with load_images(images, {name: part.row for name, part in asked.targets.splits.items()}) as pixels:
        if sees is not None:
            pixels["train"] = Watched(pixels["train"], sees)
        data = TrainingData(targets=asked.targets, pixels=pixels, mean=asked.spec.mean, std=asked.spec.std)
        train_on(state, data, recipe, checkpoint=kept, report=report, advance=lambda _: None)
    return state


class Watched:
    """Pixels of which it is known who was looked at."""

    def __init__(self, source, seen):
        self.source, self.seen = source, seen

    def batches(self, batches):
        self.seen += batches
        return self.source.batches(batches)


def same(one, other):
    """Compare the models of two states, and what is averaged of them, to the bit."""
    return all(
        torch.equal(value, other.tensors()[name])
        for name, value in one.tensors().items()
        if name.startswith(("model.", "best."))
    )


# ── Losses ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("loss", "targets"),
    [("dkd", "canonical"), ("dist", "canonical"), ("mse", "canonical"), ("kd+0.5*feature", "canonical"),
     ("feature", "stored")],
)  # fmt: skip
def test_each_loss_trains_a_student_of_its_own(loss, targets, place, tmp_path):
    one = fit(prepare(place, tmp_path / "run", loss=loss, targets=targets, alpha=1.0), tmp_path / "one")
    assert not same(one, fit(prepare(place, tmp_path / "run", targets=targets, alpha=1.0), tmp_path / "plain"))
    assert np.isfinite(one.history[0]["train_loss"])
    assert set(one.best) == set(timm.create_model("test_resnet", num_classes=3).state_dict())


class Stop(Exception):
    pass


@pytest.mark.parametrize("average", [0.0, 0.1])
def test_interrupted_with_a_projection_it_ends_with_the_same_bits(average, place, tmp_path):
    def stop(row):
        if row["epoch"] == 2:
            raise Stop

    asked = prepare(place, tmp_path / "run", loss="kd+feature", epochs=3, average=average)
    whole = fit(asked, tmp_path / "whole")
    with pytest.raises(Stop):
        fit(asked, tmp_path / "part", stop)
    resumed = fit(asked, tmp_path / "part")
    assert all(torch.equal(value, resumed.tensors()[name]) for name, value in whole.tensors().items())
    assert {"projection.linear.weight", "projection.linear.bias"} <= set(whole.tensors())


KILL = """
import os, runpy, signal, sys
from pathlib import Path
from medal.student import checkpoint, training
checkpoint.Checkpoint.__init__.__defaults__ = (0.0,)
tests = runpy.run_path({tests!r})
def report(text):
    if text.startswith("epoch 2/"):
        os.kill(os.getpid(), signal.SIGKILL)
from medal.student.distill import train_student
place = Path({place!r})
train_student(tests["prepare"](place, Path({run!r}), loss="kd+feature", epochs=3, average={average}),
              tests["squares"].silent, report)
"""


@pytest.mark.slow
@pytest.mark.parametrize("average", [0.0, 0.1])
def test_killed_with_a_projection_it_ends_with_the_same_bits(average, place, tmp_path):
    from medal.student.distill import train_student

    asked = {"loss": "kd+feature", "epochs": 3, "average": average}
    train_student(prepare(place, tmp_path / "whole", **asked), squares.silent, lambda _: None)
    script = KILL.format(tests=__file__, place=str(place), run=str(tmp_path / "run"), average=average)
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with safe_open(tmp_path / "run.unfinished/checkpoint.safetensors", "np") as file:
        assert {"projection.linear.weight", "projection.linear.bias"} <= set(file.keys())
    heard = []
    train_student(prepare(place, tmp_path / "run", **asked), squares.silent, heard.append)
    assert "resuming after epoch 2 of 3" in heard
    assert squares.same_bits(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_the_embedding_is_what_the_classifier_sees(name):
    model = timm.create_model(name, num_classes=3).eval()
    projection = Projection(model, 7, seed=0)
    size = model.default_cfg["input_size"][1] if name == "test_vit" else 64
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model(images)
        pooled = model.forward_head(model.forward_features(images), pre_logits=True)
        model(images)
        torch.testing.assert_close(projection(), projection.linear(pooled))
    assert all(not name.startswith("linear") for name in model.state_dict())


def test_a_model_without_a_classifier_is_refused():
    with pytest.raises(StudentError, match="ends in Identity; give another --student, or --loss kd"):
        Projection(timm.create_model("test_resnet", num_classes=0), 7, seed=0)


@pytest.mark.parametrize("options", [("--loss", "feature"), ("--label-fraction", 0.5)])
def test_without_features_the_remedy_is_said(options, place, medal, tmp_path):
    with pytest.raises(CacheMismatch, match=r"lean.h5' was made with --no-features.*make it anew without that option"):
        train(medal, place, tmp_path / "run", *options, cache="lean.h5")
    assert list(tmp_path.iterdir()) == []


def test_features_are_loaded_only_where_they_are_needed(place, tmp_path):
    for changed, needed in (
        ({}, False),
        ({"loss": "kd+feature"}, True),
        ({"loss": "feature", "alpha": 0.0}, False),
        ({"label_fraction": 0.5}, False),
        ({"label_fraction": 0.5, "loss": "feature"}, True),
    ):
        found = prepare(place, tmp_path / "run", **changed).targets.splits["train"].feature
        assert (found is not None) == needed, changed


# ── Several teachers ─────────────────────────────────────────────────────────────────────────────────────────────


def test_logits_are_averaged_by_key(place, tmp_path):
    also = [(str(place / "other.h5"), 3.0), (str(place / "lean.h5"), 0.5)]
    found = prepare(place, tmp_path / "run", also=also).targets
    caches = [open_cache(place / name) for name in ("all.h5", "other.h5", "lean.h5")]
    for split, part in found.splits.items():
        expected = np.zeros(part.teacher.shape)
        for cache, weight in zip(caches, (1, 3, 0.5), strict=True):
            by_key = dict(zip(map(bytes, cache.read(split, "key")), cache.read(split, "logits")[:, 0], strict=True))
            expected += weight / 4.5 * np.array([by_key[bytes(key)] for key in part.key])
        np.testing.assert_allclose(part.teacher, expected, atol=1e-5)
    described = [(cache.content_digest, weight) for cache, weight in zip(caches[1:], (3.0, 0.5), strict=True)]
    assert [(one["content_digest"], one["weight"]) for one in found.also] == described


def test_a_run_with_two_teachers(place, medal, tmp_path):
    result = train(medal, place, tmp_path / "run", "--also-cache", f"{place / 'other.h5'}=3")
    record = (tmp_path / "run/run.json").read_text()
    digest = open_cache(place / "other.h5").content_digest
    assert json.loads(record)["request"]["also"] == [{"content_digest": digest, "weight": 3.0}]
    assert result["teacher"]["test"]["auroc"] != open_cache(place / "all.h5").manifest.probe["metrics"]["test"]["auroc"]
    assert str(place) not in record


def test_classes_in_another_order_are_put_in_the_first_ones(tmp_path):
    arrays = squares.draw_arrays()
    np.savez(tmp_path / "squares.npz", **arrays)
    dataset = squares.hold(arrays)
    teacher = squares.teach(dataset)
    squares.seal(tmp_path / "squares.zarr", dataset, teacher)
    turned = [2, 0, 1]
    moved = np.argsort(turned)[dataset.label].astype(np.int32)
    other = replace(
        dataset,
        classes=tuple(np.array(dataset.classes)[turned]),
        label=moved,
    )
    squares.seal(tmp_path / "turned.zarr", other, teacher[:, turned])
    alone = squares.ask_for(tmp_path, tmp_path / "run").targets.splits
    both = squares.ask_for(tmp_path, tmp_path / "run", also=[(str(tmp_path / "turned.zarr"), 1.0)]).targets.splits
    np.testing.assert_allclose(both["train"].logits, alone["train"].logits, atol=1e-6)


def test_teachers_of_something_else_are_refused(place, medal, tmp_path):
    for name, options, expected in (
        ("classes", ("--exclude-class", "c"), r"is multiclass of a, b; expected multiclass of a, b, c"),
        ("fewer", ("--exclude-keys", tmp_path / "gone"), r"lacks 2 of the 72 images that stand in 'train'"),
    ):
        key = open_cache(place / "other.h5").read("train", "key")
        (tmp_path / "gone").write_text("\n".join(row.tobytes().hex() for row in key[:2]))
        medal("reprobe", place / "other.h5", tmp_path / f"{name}.zarr", *options)
        with pytest.raises(CacheMismatch, match=expected):
            train(medal, place, tmp_path / "run", "--also-cache", tmp_path / f"{name}.zarr")
    with pytest.raises(CacheMismatch, match="has other stored views of the images"):
        prepare(place, tmp_path / "run", targets="stored", also=[(str(place / "other.h5"), 1.0)])
    medal("reprobe", place / "all.h5", tmp_path / "two.zarr", "--folds", 2)
    prepare(place, tmp_path / "run", targets="stored", also=[(str(tmp_path / "two.zarr"), 1.0)])
    with pytest.raises(StudentError, match="--label-fraction and --also-cache exclude each other"):
        train(medal, place, tmp_path / "run", "--also-cache", place / "other.h5", "--label-fraction", 0.5)


def test_a_weight_that_is_none(place, medal, tmp_path):
    with pytest.raises(click.BadParameter, match=r"'-1' is no weight; expected a positive number, as in other.zarr"):
        train(medal, place, tmp_path / "run", "--also-cache", "x.h5=-1")


# ── Rare classes ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("changed", [{"class_weight": "balanced"}, {"sampler": "balanced"}, {"logit_adjustment": True}])
def test_what_is_done_for_rare_classes_changes_the_student(changed, place, tmp_path):
    one, again = (fit(prepare(place, tmp_path / "run", **changed), tmp_path / name) for name in ("one", "again"))
    assert same(one, again)
    assert not same(one, fit(prepare(place, tmp_path / "run"), tmp_path / "plain"))


@pytest.mark.parametrize("changed", [{"class_weight": "balanced"}, {"logit_adjustment": True}])
def test_the_teacher_s_part_knows_nothing_of_rare_classes(changed, place, tmp_path):
    one = fit(prepare(place, tmp_path / "run", alpha=1.0, **changed), tmp_path / "one")
    assert same(one, fit(prepare(place, tmp_path / "run", alpha=1.0), tmp_path / "plain"))


def test_several_labels_have_weights_alone():
    for settings in (StudentSettings(sampler="balanced"), StudentSettings(logit_adjustment=True)):
        with pytest.raises(StudentError, match=r"for classes that exclude each other.*give --class-weight balanced"):
            check_imbalance(settings, "multilabel")
    check_imbalance(StudentSettings(class_weight="balanced"), "multilabel")


def test_one_correction_at_a_time():
    with pytest.raises(StudentError, match=r"corrects all of a class imbalance, and 2 of them are asked for; give one"):
        StudentSettings(class_weight="balanced", sampler="balanced")


# ── Few and unknown labels ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("views", ["canonical", "stored"])
def test_the_probe_of_a_share_has_seen_that_share_alone(views, place, medal, tmp_path):
    """The same probe from the other end: all other labels made unknown in the cache itself."""
    few = prepare(place, tmp_path / "run", label_fraction=0.4, targets=views).targets
    train_part = few.splits["train"]
    cache = open_cache(place / "all.h5")
    before = cache.read("train", "label")
    forgotten = (train_part.label == -1) & (before != -1)
    assert 0.3 < 1 - (train_part.label == -1).mean() < 0.6
    np.testing.assert_array_equal(train_part.label[~forgotten], before[~forgotten])
    write(tmp_path / "forget.csv", [[key.tobytes().hex(), ""] for key in train_part.key[forgotten]], ("key", "label"))
    medal("reprobe", place / "all.h5", tmp_path / "few.zarr", "--labels", tmp_path / "forget.csv")
    reprobed = open_cache(tmp_path / "few.zarr")
    for split in ("val", "test"):
        np.testing.assert_array_equal(few.splits[split].logits, reprobed.read(split, "logits"))
    weight, bias = (reprobed.read("probe", name)[-1] for name in ("weight", "bias"))
    feature = cache.read("train", "feature")[:, : train_part.logits.shape[1]].astype(np.float64)
    full = feature @ weight.T.astype(np.float64) + bias
    np.testing.assert_allclose(train_part.logits[train_part.label == -1], full[train_part.label == -1], atol=1e-4)
    # Out of fold: of those that the full probe has seen, none has its answer.
    assert (np.abs(train_part.logits - full)[train_part.label != -1].max((1, 2)) > 1e-3).all()


def test_the_share_is_stratified_grouped_seeded_and_nested(place):
    cache = open_cache(place / "all.h5")
    key, group, label = (cache.read("train", name) for name in ("key", "group", "label"))

    def choose(fraction, seed=0, rows=slice(None)):
        return choose_labelled(key[rows], group[rows], label[rows], "multiclass", fraction=fraction, seed=seed)

    chosen = {fraction: choose(fraction) for fraction in (0.05, 0.2, 0.5, 1.0)}
    assert (chosen[0.05] <= chosen[0.2]).all()
    assert (chosen[0.2] <= chosen[0.5]).all()
    for code in np.unique(group[group >= 0]):
        assert len(set(chosen[0.5][group == code])) == 1
    for kind in range(3):
        total = (label == kind).sum()
        assert chosen[0.05][label == kind].sum() >= 2
        # A patient more at most, who may be of the other classes' as well.
        assert abs(chosen[0.5][label == kind].sum() - total / 2) <= 4
        assert chosen[1.0][label == kind].all()
    assert not np.array_equal(chosen[0.2], choose(0.2, seed=1))
    turned = np.random.default_rng(0).permutation(len(key))
    np.testing.assert_array_equal(choose(0.2, rows=turned), chosen[0.2][turned])


def test_a_share_of_several_labels():
    random = np.random.default_rng(1)
    key, group = random.integers(0, 256, (200, 16), dtype=np.uint8), np.full(200, -1)
    label = (random.random((200, 3)) < (0.5, 0.2, 0.03)).astype(np.uint8)
    label[:20] = 255
    chosen = choose_labelled(key, group, label, "multilabel", fraction=0.1, seed=0)
    assert not chosen[:20].any()
    assert (label[chosen] == 1).sum(0).min() >= 2
    assert 15 <= chosen.sum() <= 24


def test_a_run_with_few_labels(place, medal, tmp_path):
    options = ("--label-fraction", 0.4, "--loss", "kd+feature", "--sampler", "balanced")
    result = train(medal, place, tmp_path / "run", *options)
    probe = open_cache(place / "all.h5").manifest.probe["metrics"]["test"]
    assert result["teacher"]["test"]["auroc"] != probe["auroc"]
    assert result["test"]["n"] == probe["n"] < 24  # some labels of test are unknown
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["request"]["label_fraction"], record["request"]["loss"]) == (0.4, "kd+feature")
    assert record["fit"]["labelled"] == pytest.approx(0.4 * 65, abs=8)
    # The projection is thrown away: a plain timm model is left.
    timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    with safe_open(tmp_path / "run/model.safetensors", "np") as file:
        assert set(file.keys()) == set(timm.create_model("test_resnet", num_classes=3).state_dict())


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_unlabelled_images_learn_from_the_teacher_alone(loss, place, tmp_path):
    """Whatever stands behind an unknown label: with the soft part alone, labels change nothing but `dkd`'s target."""
    asked = prepare(place, tmp_path / "run", loss=loss, alpha=1.0)
    part = asked.targets.splits["train"]
    hidden = replace(part, label=np.full_like(part.label, -1))
    blind = replace(asked, targets=replace(asked.targets, splits={**asked.targets.splits, "train": hidden}))
    assert same(fit(asked, tmp_path / "one"), fit(blind, tmp_path / "blind")) == (loss != "dkd")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"label_fraction": 0.0}, "'--label-fraction' must be a share above 0, up to 1, got 0.0"),
        ({"label_fraction": 1.5}, "'--label-fraction' must be a share above 0"),
        ({"labelled_share": 1.5}, "'--labelled-share' must be a share from 0 to 1, got 1.5"),
    ],
)
def test_shares_that_are_none(changed, expected):
    with pytest.raises(StudentError, match=expected):
        StudentSettings(**changed)


def test_settings_of_teaching_belong_to_the_request(place, tmp_path):
    base = dict(prepare(place, tmp_path / "run").request)
    for changed in (
        {"loss": "dist"}, {"class_weight": "balanced"}, {"sampler": "balanced"}, {"logit_adjustment": True},
        {"label_fraction": 0.5}, {"also": [(str(place / "other.h5"), 1.0)]},
        {"also": [(str(place / "other.h5"), 2.0)]},
    ):  # fmt: skip
        other = dict(prepare(place, tmp_path / "run", **changed).request)
        assert other != base, changed


def test_alpha_is_chosen_for_a_loss_that_compares_features(place, medal, tmp_path):
    """Trials with and without a projection stand side by side, and the chosen one goes on as it is."""
    options = ("--loss", "feature", "--alpha", "auto", "--epochs", 2, "--label-fraction", 0.5)
    result = train(medal, place, tmp_path / "run", *options)
    assert 0 <= result["choice"]["alpha"] <= 1
