"""`medal verify --sample`: images of a cache through the real teacher again."""

import json
import re
import shutil
import socket
from contextlib import nullcontext

import numpy as np
import pytest
from click import UsageError
from PIL import Image

from medal.cache.errors import CacheMismatch, DataError, TeacherError
from medal.cache.making.writer import write_cache
from medal.cache.reader import open_cache
from medal.pipeline.datasets.columns.dataset import DatasetOptions
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.features.recheck import recheck


@pytest.fixture
def silent():
    return lambda *_: nullcontext(lambda _: None)


def test_a_sound_cache_passes(small_cache, small_npz, teacher, medal):
    said = medal("verify", small_cache, small_npz, "--sample", 40, "--teacher", teacher)
    assert said["ok"], said["problems"]
    assert said["sample"]["images"] == 40
    assert said["sample"]["min_cosine"] > 0.9999


def forge(cache, target, change, *, say=lambda _: None):
    """Write a sealed cache, sound to the last byte, with other contents or another manifest."""
    source = open_cache(cache)
    with source.open_arrays() as opened:
        arrays = {path: rows[0 : rows.shape[0]].copy() for path, rows in opened.items()}
    change(arrays)
    for split in source.splits if source.manifest.size.features_kept else ():
        weight, bias = arrays["probe/weight"].astype(np.float64), arrays["probe/bias"].astype(np.float64)
        fold = arrays[f"{split}/fold"]
        given = np.einsum("nvf,ncf->nvc", arrays[f"{split}/feature"].astype(np.float64), weight[fold])
        arrays[f"{split}/logits"] = (given + bias[fold][:, None]).astype(np.float32)
    raw = json.loads(json.dumps({name: value for name, value in source.manifest.raw.items() if name != "arrays"}))
    say(raw)
    return write_cache(target, arrays, raw)


def test_features_of_other_images_are_found_out(small_cache, small_npz, teacher, silent, tmp_path):
    def swap(arrays):
        arrays["train/feature"][[3, 50]] = arrays["train/feature"][[50, 3]]

    forged = forge(small_cache, tmp_path / "forged.zarr", swap)
    found = recheck(forged, str(small_npz), DatasetOptions(), 300, silent, teacher=str(teacher))
    assert found.images == 300
    assert len(found.problems) == 2
    assert all("image " in problem and "expected 0.999" in problem for problem in found.problems)


def test_pixels_that_were_resized_otherwise_are_found_out(small_cache, small_npz, teacher, silent, tmp_path):
    def shift(arrays):
        arrays["val/view_check"][7, 0, 2] += 0.01

    forged = forge(small_cache, tmp_path / "forged.h5", shift)
    found = recheck(forged, str(small_npz), DatasetOptions(), 300, silent, teacher=str(teacher))
    assert len(found.problems) == 1
    assert "differ from those cached by 2.5 of 255" in found.problems[0] or "2.6 of 255" in found.problems[0]


def test_without_features_the_logits_are_compared(
    small_cache, small_npz, small_request, teacher, medal, terminal, tmp_path
):
    out = tmp_path / "lean.h5"
    medal("cache-teacher", small_npz, out, *small_request, "--no-features", "--from", small_cache)
    said = medal("verify", out, small_npz, "--sample", 30, "--teacher", teacher)
    assert said["ok"]
    assert said["sample"]["min_cosine"] > 0.999

    def shuffle(arrays):
        arrays["train/logits"] = arrays["train/logits"][::-1].copy()

    forge(out, tmp_path / "forged.zarr", shuffle)
    done = terminal("verify", tmp_path / "forged.zarr", small_npz, "--sample", 300, "--teacher", teacher)
    assert done.returncode == 1
    assert "has cosine" in done.stdout


def test_features_of_another_length_are_told(small_cache, small_npz, teacher, tmp_path, silent):
    def widen(arrays):
        for split in ("train", "val", "test"):
            arrays[f"{split}/feature"] = np.repeat(arrays[f"{split}/feature"], 2, 2)
        arrays["probe/weight"] = np.repeat(arrays["probe/weight"], 2, 2)

    def say(raw):
        raw["teacher"]["feature_dim"] *= 2

    forged = forge(small_cache, tmp_path / "wide.zarr", widen, say=say)
    with pytest.raises(CacheMismatch, match=r"has features of 480 numbers; its teacher .* makes 240"):
        recheck(forged, str(small_npz), DatasetOptions(), 5, silent, teacher=str(teacher))


def test_a_cache_does_not_decide_what_is_downloaded(small_cache, small_npz, shell, tmp_path):
    def say(raw):
        raw["teacher"] |= {"name": "stranger/model", "revision": None}

    forge(small_cache, tmp_path / "x.zarr", lambda _: None, say=say)
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.settimeout(0.1)
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}", "MEDAL_TEACHER": ""}
        done = shell("verify", tmp_path / "x.zarr", small_npz, "--sample", 5, env=env)
        with pytest.raises(TimeoutError):
            hub.accept()
    assert done.returncode == 1
    assert "is not at hand, and is not downloaded on a cache's word; give its folder" in done.stderr


def test_the_persons_own_teacher_is_found_by_its_weights(small_cache, small_npz, teacher, terminal):
    done = terminal("verify", small_cache, small_npz, "--sample", 3, env={"MEDAL_TEACHER": str(teacher)})
    assert done.returncode == 0, done.stderr
    told = re.search(r"3 images were sent .*: the features agree, cosine at least (\d\.\d{5})\.", done.stdout)
    assert told, done.stdout
    assert 0.999 <= float(told[1]) <= 1.0  # equal to the bit or not, which is the machine's affair


def test_what_dataset_and_cache_do_not_share_is_told(small_cache, small_npz, teacher, silent, tmp_path):
    with np.load(small_npz) as real:
        other = dict(real.items())
    other["val_images"][:7] ^= 1
    np.savez(tmp_path / "other.npz", **other)
    found = recheck(
        open_cache(small_cache), str(tmp_path / "other.npz"), DatasetOptions(), 5, silent, teacher=str(teacher)
    )
    assert not found.problems
    missing, extra = found.notes
    assert missing.startswith("7 images of")
    assert extra.startswith("7 images of the cache are not in")


def test_a_sample_that_cannot_be_read_has_no_cosine(teacher, medal, silent, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for index in range(24):
        folder = tmp_path / "scans" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        files.append(folder / f"{index}.png")
        Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(files[-1])
    cache = tmp_path / "x.zarr"
    medal("cache-teacher", tmp_path / "scans", cache, "--teacher", teacher, "--image-size", 28)

    def broken(_, row):
        raise DataError(f"image {row} is torn")

    monkeypatch.setattr(type(open_dataset(str(tmp_path / "scans")).images), "read", broken)
    found = recheck(open_cache(cache), str(tmp_path / "scans"), DatasetOptions(), 4, silent, teacher=str(teacher))
    assert found.min_cosine is None
    assert len(found.problems) == 4
    assert all(problem.startswith("Image not read again: image") for problem in found.problems)


def test_another_teacher_is_refused(small_cache, small_npz, teacher, medal, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    weights = other / "model.safetensors"
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(TeacherError, match=r"has other weights .* give that one with --teacher"):
        medal("verify", small_cache, small_npz, "--sample", 1, "--teacher", other)


def test_another_dataset_is_refused(small_cache, small_npz, teacher, medal, tmp_path):
    with np.load(small_npz) as real:
        other = {name: array ^ 1 if name.endswith("images") else array for name, array in real.items()}
    np.savez(tmp_path / "other.npz", **other)
    with pytest.raises(CacheMismatch, match=r"^None of the images"):
        medal("verify", small_cache, tmp_path / "other.npz", "--sample", 1, "--teacher", teacher)


def test_a_damaged_cache_costs_no_teacher(small_cache, small_npz, terminal, tmp_path):
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(small_cache, damaged)
    victim = max((path for path in damaged.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    done = terminal("verify", damaged, small_npz, "--sample", 5, "--teacher", "/nowhere", "--json")
    assert done.returncode == 1
    assert '"sample": null' in done.stdout


def test_sample_and_dataset_go_together(small_cache, small_npz, medal):
    for words in ((small_npz,), ("--sample", 3)):
        with pytest.raises(UsageError, match="go together"):
            medal("verify", small_cache, *words)


def test_the_sample_is_drawn_anew(small_cache, small_npz, teacher, silent, monkeypatch):
    dataset = open_dataset(str(small_npz))
    seen = []
    monkeypatch.setattr(type(dataset.images), "read", _watching(type(dataset.images).read, seen))
    for _ in range(2):
        recheck(open_cache(small_cache), str(small_npz), DatasetOptions(), 8, silent, teacher=str(teacher))
    assert len(seen) == 16
    assert set(seen[:8]) != set(seen[8:])


def _watching(read, seen):
    def watched(self, row):
        seen.append(row)
        return read(self, row)

    return watched
