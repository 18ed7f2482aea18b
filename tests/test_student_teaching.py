"""What a student is taught with: other losses, several teachers, rare classes."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import click
import numpy as np
import pytest
import teaching_cases
import timm
import torch
from safetensors import safe_open
from teaching_cases import fit, prepare, same, squares, train

from medal.cache.errors import CacheMismatch, StudentError
from medal.cache.reader import open_cache
from medal.student.settings import StudentSettings
from medal.student.training.imbalance import check_imbalance
from medal.student.training.projection import Projection

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(teaching):
    """Squares of three uneven classes, of patients, and their caches."""
    return teaching


# ── Losses ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        ("dkd", "canonical"),
        ("dist", "canonical"),
        ("mse", "canonical"),
        ("kd+0.5*feature", "canonical"),
        ("feature", "stored"),
    ],
)
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
from medal.student.training import checkpoint
checkpoint.Checkpoint.__init__.__defaults__ = (0.0,)
tests = runpy.run_path({tests!r})
def report(text):
    if text.startswith("epoch 2/"):
        os.kill(os.getpid(), signal.SIGKILL)
from medal.student.distill import carry_out
place = Path({place!r})
carry_out(tests["prepare"](place, Path({run!r}), loss="kd+feature", epochs=3, average={average}),
              tests["squares"].silent, report)
"""


@pytest.mark.slow
@pytest.mark.parametrize("average", [0.0, 0.1])
def test_killed_with_a_projection_it_ends_with_the_same_bits(average, place, tmp_path):
    from medal.student.distill import carry_out

    asked = {"loss": "kd+feature", "epochs": 3, "average": average}
    carry_out(prepare(place, tmp_path / "whole", **asked), squares.silent, lambda _: None)
    script = KILL.format(tests=teaching_cases.__file__, place=str(place), run=str(tmp_path / "run"), average=average)
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with safe_open(tmp_path / "run.unfinished/checkpoint.safetensors", "np") as file:
        assert {"projection.linear.weight", "projection.linear.bias"} <= set(file.keys())
    heard = []
    carry_out(prepare(place, tmp_path / "run", **asked), squares.silent, heard.append)
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
    with pytest.raises(StudentError, match=r"ends in Identity\. Give another --student, or --loss kd"):
        Projection(timm.create_model("test_resnet", num_classes=0), 7, seed=0)


@pytest.mark.parametrize("options", [("--loss", "feature"), ("--label-fraction", 0.5)])
def test_without_features_the_remedy_is_said(options, place, medal, tmp_path):
    with pytest.raises(CacheMismatch, match=r"lean.h5' was made with --no-features.*make it again without that option"):
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
    other = replace(dataset, classes=tuple(np.array(dataset.classes)[turned]), label=moved)
    squares.seal(tmp_path / "turned.zarr", other, teacher[:, turned])
    alone = squares.ask_for(tmp_path, tmp_path / "run").targets.splits
    both = squares.ask_for(tmp_path, tmp_path / "run", also=[(str(tmp_path / "turned.zarr"), 1.0)]).targets.splits
    np.testing.assert_allclose(both["train"].logits, alone["train"].logits, atol=1e-6)


def test_teachers_of_something_else_are_refused(place, medal, tmp_path):
    for name, options, expected in (
        ("classes", ("--exclude-class", "c"), r"is multiclass of a, b; expected multiclass of a, b, c"),
        ("fewer", ("--exclude-keys", tmp_path / "gone"), r"lacks 2 of the 72 images in 'train'"),
    ):
        key = open_cache(place / "other.h5").read("train", "key")
        (tmp_path / "gone").write_text("\n".join(row.tobytes().hex() for row in key[:2]))
        medal("reprobe", place / "other.h5", tmp_path / f"{name}.zarr", *options)
        with pytest.raises(CacheMismatch, match=expected):
            train(medal, place, tmp_path / "run", "--also-cache", tmp_path / f"{name}.zarr")
    with pytest.raises(CacheMismatch, match="stores other views of the images"):
        prepare(place, tmp_path / "run", targets="stored", also=[(str(place / "other.h5"), 1.0)])
    medal("reprobe", place / "all.h5", tmp_path / "two.zarr", "--folds", 2)
    prepare(place, tmp_path / "run", targets="stored", also=[(str(tmp_path / "two.zarr"), 1.0)])
    with pytest.raises(StudentError, match="--label-fraction and --also-cache exclude each other"):
        train(medal, place, tmp_path / "run", "--also-cache", place / "other.h5", "--label-fraction", 0.5)


def test_a_weight_that_is_none(place, medal, tmp_path):
    with pytest.raises(click.BadParameter, match=r"'-1' is not a weight; expected a positive number, as in other.zarr"):
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
        with pytest.raises(StudentError, match=r"needs classes that exclude each other.*give --class-weight balanced"):
            check_imbalance(settings, "multilabel")
    check_imbalance(StudentSettings(class_weight="balanced"), "multilabel")


def test_one_correction_at_a_time():
    with pytest.raises(
        StudentError, match=r"each correct the whole class imbalance, and 2 of them were given; give one"
    ):
        StudentSettings(class_weight="balanced", sampler="balanced")


@pytest.mark.parametrize("fast", [False, True])
def test_cudnn_is_on_while_a_student_trains(fast, place, tmp_path):
    """Its context turns it off unless told otherwise."""
    seen = []

    def look(_row):
        kernels = torch.backends.cudnn
        seen.append((kernels.enabled, kernels.benchmark, kernels.deterministic, kernels.allow_tf32))

    fit(prepare(place, tmp_path / "run", fast_kernels=fast), tmp_path / "checkpoint", look)
    assert seen == [(True, fast, not fast, fast)]
