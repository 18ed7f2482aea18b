"""`medal train-student` from the outside, on caches of drawn scans."""

import csv
import json
import subprocess
import sys

import drawn
import numpy as np
import pytest
import timm
import torch

from medal.cache.errors import CacheMismatch, StudentError
from medal.cache.reader import open_cache

# One small network, small images, two epochs, one arithmetic: what is compared to the bit has to be the same work.
QUICK = ("--student", "resnet10t", "--image-size", 32, "--epochs", 2, "--precision", "fp32", "--seed", 3)


@pytest.fixture(scope="module")
def run(medal, small_cache, small_npz, tmp_path_factory):
    """A finished run and its printed result."""
    path = tmp_path_factory.mktemp("runs") / "run"
    return path, medal("train-student", small_cache, small_npz, "--out", path, *QUICK)


def read_predictions(path):
    with (path / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def same_figures(one, other):
    return all(one[split] == other[split] for split in ("val", "test"))


def test_what_a_run_reports(run, small_cache):
    _, result = run
    probe = open_cache(small_cache).manifest.probe["metrics"]["test"]
    assert result["teacher"]["test"]["auroc"] == pytest.approx(probe["auroc"], abs=1e-9)
    low, high = result["test"]["ci95"]["auroc"]
    assert 0 <= low <= result["test"]["auroc"] <= high <= 1
    assert result["baseline"] is None
    assert result["images_per_second"] > 0


def test_a_run_is_a_folder_that_timm_loads_with_the_logits_it_recorded(run, small_npz):
    path, _ = run
    student = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    config = json.loads((path / "config.json").read_text())["pretrained_cfg"]
    assert config["input_size"] == [3, 32, 32]
    with np.load(small_npz) as data:
        images = data["test_images"]
    pixels = torch.from_numpy(images).float()[:, None]
    from medal.cache.keys import array_key
    from medal.pipeline.views.transforms import normalise, resize_images

    pixels = resize_images([image[..., None] for image in images], 32, "squash")
    with torch.inference_mode():
        logits = student(normalise(pixels, config["mean"], config["std"]))
    recorded = {
        row["key"]: [float(row[name]) for name in row if name.startswith("logit")]
        for row in read_predictions(path)
        if row["split"] == "test"
    }
    for image, answer in zip(images, logits.numpy(), strict=True):
        np.testing.assert_allclose(recorded[array_key(image).hex()], answer, atol=1e-4)


def test_both_forms_give_the_same_student(run, medal, small_cache, small_npz, tmp_path):
    medal("convert", small_cache, tmp_path / "chest.h5")
    other = medal("train-student", tmp_path / "chest.h5", small_npz, "--out", tmp_path / "run", *QUICK)
    assert same_figures(run[1], other)
    assert (tmp_path / "run/predictions.csv").read_bytes() == (run[0] / "predictions.csv").read_bytes()
    assert (tmp_path / "run/model.safetensors").read_bytes() == (run[0] / "model.safetensors").read_bytes()


def test_the_order_of_the_dataset_does_not_matter(run, medal, small_cache, small_npz, tmp_path):
    shuffled, random = tmp_path / "shuffled.npz", np.random.default_rng(0)
    with np.load(small_npz) as data:
        arrays = dict(data)
    for split in ("train", "val", "test"):
        order = random.permutation(len(arrays[f"{split}_labels"]))
        arrays |= {f"{split}_{kind}": arrays[f"{split}_{kind}"][order] for kind in ("images", "labels")}
    np.savez(shuffled, **arrays)
    other = medal("train-student", small_cache, shuffled, "--out", tmp_path / "run", *QUICK)
    assert same_figures(run[1], other)


def test_other_images_are_refused_with_their_number(medal, small_cache, small_npz, tmp_path):
    altered = tmp_path / "altered.npz"
    with np.load(small_npz) as data:
        arrays = dict(data)
    arrays["train_images"] = arrays["train_images"].copy()
    arrays["train_images"][:23, 0, 0] ^= 1
    np.savez(altered, **arrays)
    with pytest.raises(CacheMismatch, match=r"277 of 300 match, 23 are not in the cache.*--on-missing drop"):
        medal("train-student", small_cache, altered, "--out", tmp_path / "run", *QUICK)
    assert not (tmp_path / "run").exists()
    assert medal("train-student", small_cache, altered, "--out", tmp_path / "run", *QUICK, "--on-missing", "drop")


def test_other_labels_are_refused_with_their_number(medal, small_cache, small_npz, tmp_path):
    altered = tmp_path / "altered.npz"
    with np.load(small_npz) as data:
        arrays = dict(data)
    arrays["val_labels"] = arrays["val_labels"].copy()
    arrays["val_labels"][:7] = 1 - arrays["val_labels"][:7]
    np.savez(altered, **arrays)
    with pytest.raises(CacheMismatch, match=r"(?s)7.*--labels"):
        medal("train-student", small_cache, altered, "--out", tmp_path / "run", *QUICK)


def test_a_finished_run_is_not_overwritten_unasked(run, medal, small_cache, small_npz):
    before = (run[0] / "model.safetensors").read_bytes()
    with pytest.raises(StudentError, match="--overwrite"):
        medal("train-student", small_cache, small_npz, "--out", run[0], *QUICK, "--lr", 0.01)
    assert (run[0] / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("more", [[], ["--label-fraction", "0.4"]], ids=["all labels", "few labels"])
def test_there_is_no_teacher_in_the_loop(more, small_cache, small_npz, tmp_path):
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'transformers':\n"
        "            raise ImportError('blocked')\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from medal.cli import group\n"
        "group.main(sys.argv[1:], standalone_mode=False)\n"
    )
    words = ["train-student", small_cache, small_npz, "--out", tmp_path / "run", *QUICK, *more, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["test"]["auroc"] > 0.4


def test_an_unknown_student_names_the_closest(medal, small_cache, small_npz, tmp_path):
    with pytest.raises(StudentError, match="resnet18"):
        medal("train-student", small_cache, small_npz, "--out", tmp_path / "run", "--student", "resnet118")
    assert list(tmp_path.iterdir()) == []


def test_a_table_with_several_labels_through_both_stages(medal, small_request, tmp_path):
    table = drawn.save_smears(tmp_path / "smears")
    labels = ("--label-columns", "Platelets,RBC_many,Platelets_several")
    made = medal("cache-teacher", table, tmp_path / "b.h5", *small_request, *labels, "--limit", 40)
    assert made["rows"] == {"train": 40, "val": 40, "test": 40}
    result = medal("train-student", tmp_path / "b.h5", table, "--out", tmp_path / "run", *QUICK, "--on-missing", "drop")
    assert set(result["test"]["per_class"]) == {"Platelets", "RBC_many", "Platelets_several"}


def test_a_table_with_domains_through_both_stages(medal, small_request, tmp_path):
    table = drawn.save_cells(tmp_path / "cells")
    columns = ("--domain-column", "domain", "--exclude-class", "basophil")
    medal("cache-teacher", table, tmp_path / "w.zarr", *small_request, *columns)
    cache = open_cache(tmp_path / "w.zarr")
    assert set(cache.manifest.domains) == {"tecom", "cellavision"}
    assert sum(cache.manifest.rows.values()) == 272
    # Splits, classes and what was left out come from the cache: nothing has to be said again.
    result = medal("train-student", tmp_path / "w.zarr", table, "--out", tmp_path / "run", *QUICK)
    assert result["test"]["n"] > 30
    # Figures by domain and by how rare a class is, for the student and for its teacher.
    for arm in (result, result["teacher"]):
        domains = arm["test"]["domains"]
        assert sum(part["n"] for part in domains.values()) == arm["test"]["n"]
        assert set(domains) == {"tecom", "cellavision"}
        tiers = arm["test"]["rarity"]
        assert sorted(name for part in tiers.values() for name in part["classes"]) == sorted(cache.manifest.classes)
        assert tiers["rare"]["train_images"] < tiers["common"]["train_images"]


def test_the_label_column_comes_from_the_cache(medal, small_request, tmp_path):
    folder = drawn.save_pictures(tmp_path / "scans", {"benign": 44, "malignant": 44, "normal": 44})
    renamed = tmp_path / "renamed.csv"
    files = sorted(folder.rglob("*.png"))
    rows = "".join(f"{file},{file.parts[-2]},{file.parts[-3]}\n" for file in files)
    renamed.write_text("file,diagnosis,suggested_split\n" + rows)
    columns = ("--label-column", "diagnosis", "--split-column", "suggested_split")
    medal("cache-teacher", renamed, tmp_path / "b.zarr", *small_request, *columns)
    trained = medal("train-student", tmp_path / "b.zarr", renamed, "--out", tmp_path / "run", *QUICK)
    assert set(trained["test"]["per_class"]) == {"benign", "malignant", "normal"}


def test_another_task_is_refused(medal, small_cache, tmp_path, tmp_path_factory):
    table = drawn.save_smears(tmp_path_factory.mktemp("smears"))
    labels = ("--label-columns", "Platelets,RBC_many")
    with pytest.raises(CacheMismatch, match="names 0/1 columns, but the cache is multi-class"):
        medal("train-student", small_cache, table, "--out", tmp_path / "run", *QUICK, *labels)
    assert list(tmp_path.iterdir()) == []


def test_images_that_changed_split_are_told(small_cache, small_npz, shell, tmp_path):
    swapped = tmp_path / "swapped.npz"
    with np.load(small_npz) as data:
        arrays = dict(data)
    for kind in ("images", "labels"):
        arrays[f"val_{kind}"], arrays[f"test_{kind}"] = arrays[f"test_{kind}"], arrays[f"val_{kind}"]
    np.savez(swapped, **arrays)
    said = shell("train-student", small_cache, swapped, "--out", tmp_path / "run", *QUICK)
    assert said.returncode == 0, said.stderr
    assert "120 images are in another split here than in the cache; the cache's splits are used" in said.stderr


def test_a_model_that_cannot_take_the_size_is_said(small_cache, small_npz, medal, tmp_path):
    with pytest.raises(StudentError, match=r"cannot be trained at 8 px here: .* Give another --image-size"):
        medal(
            "train-student", small_cache, small_npz, "--out", tmp_path / "run", "--student", "vgg11", "--image-size", 8
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", [".", "/", ""])
def test_a_run_needs_a_name(out, small_cache, small_npz, medal):
    with pytest.raises(StudentError, match="is not a folder name; give --out a folder"):
        medal("train-student", small_cache, small_npz, "--out", out)


def test_files_of_ones_own_in_a_run_are_not_lost(small_cache, small_npz, medal, tmp_path):
    words = ("train-student", small_cache, small_npz, "--out", tmp_path / "run", "--epochs", 1, "--image-size", 32)
    medal(*words)
    (tmp_path / "run/notes.md").write_text("mine")
    with pytest.raises(StudentError, match="files that medal did not write, which --overwrite would lose"):
        medal(*words, "--overwrite")
    assert (tmp_path / "run/notes.md").read_text() == "mine"
