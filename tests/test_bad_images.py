"""Images that cannot be used in a long run: refused with the whole list, or left out and declared. Real teacher."""

import csv
import shutil
from pathlib import Path

import drawn
import numpy as np
import pytest
from PIL import Image

from medal.cache.errors import CacheCorrupt, CacheMismatch, DataError
from medal.cache.format.digest import canonical_json
from medal.cache.format.manifest import parse_manifest
from medal.cache.making.work import work_path
from medal.cache.reader import open_cache
from medal.cache.verify import verify_path
from medal.pipeline.datasets.columns.dataset import Place, Selection
from medal.pipeline.datasets.kinds.arrays import ArrayImages
from medal.pipeline.datasets.pixels.files import FileImages
from medal.pipeline.planning import skipped

IMAGES, BAD = 72, 5
# A regular file to look at, and an input/output error to read.
UNREADABLE = Path("/proc/self/mem")
RUN = ("--image-size", 32, "--epochs", 1, "--batch-size", 16)


@pytest.fixture
def scans(tmp_path):
    """A folder of 72 drawn scans, five of them bad in four ways, and the bad ones' whole copies."""
    folder, whole = tmp_path / "scans", tmp_path / "whole"
    drawn.save_pictures(folder, {"benign": IMAGES // 2, "malignant": IMAGES // 2})
    files = sorted((folder / "train").rglob("*.png"))
    bad = [files[0], files[9], files[20], files[35], sorted((folder / "test").rglob("*.png"))[3]]
    whole.mkdir()
    for file in bad:
        shutil.copy(file, whole / file.name)
    bad[0].write_bytes(bad[0].read_bytes()[:2000])
    bad[1].write_bytes(b"")
    bad[2].write_text("<html>404</html>")
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(bad[3].with_suffix(".tiff"))
    bad[3].unlink()
    bad[3] = bad[3].with_suffix(".tiff")
    bad[4].write_bytes(bad[4].read_bytes()[:-30])
    return folder, bad, whole


@pytest.fixture
def request_(teacher):
    return ("--teacher", teacher, "--image-size", 56, "--batch-size", 4)


def read_list(out):
    with out.with_name(f"{out.name}.skipped.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_the_list_is_whole_the_others_are_kept_and_skip_goes_on(suffix, scans, request_, medal, tmp_path):
    folder, bad, _ = scans
    out = tmp_path / f"scans{suffix}"
    with pytest.raises(DataError, match=rf"^{BAD} of {IMAGES} images cannot be used.*--on-bad-image skip") as caught:
        medal("cache-teacher", folder, out, *request_)
    assert all(file.name in str(caught.value) for file in bad)
    assert not out.exists()
    assert work_path(out).is_dir()
    made = medal("cache-teacher", folder, out, *request_, "--on-bad-image", "skip")
    assert (made["action"], made["computed"], made["kept"], made["skipped"]) == ("resume", 0, IMAGES - BAD, BAD)
    assert sum(made["rows"].values()) == IMAGES - BAD
    assert verify_path(out) == []
    assert sorted(path.name for path in tmp_path.glob("*scans*")) == ["scans", out.name, f"{out.name}.skipped.csv"]


def test_what_is_left_out_is_declared(scans, request_, medal, tmp_path, capsys):
    folder, bad, _ = scans
    out = tmp_path / "scans.zarr"
    made = medal("cache-teacher", folder, out, *request_, "--on-bad-image", "skip")
    assert f"{BAD} images are left out (" in capsys.readouterr().err
    manifest = open_cache(out).manifest
    assert manifest.skipped.reasons == {"not an image": 2, "damaged": 2, "unusable values": 1}
    assert len(manifest.skipped.keys) == BAD
    assert not any(file.name in str(manifest.raw) for file in bad), "a cache names no files"
    listed = read_list(out)
    assert {row["split"] for row in listed} == {"train", "test"}
    assert sorted(str(file.relative_to(folder)) for file in bad) == sorted(row["file"] for row in listed)
    assert all(row["message"].startswith(f"file '{row['file']}'") for row in listed)
    assert {row["frame"] + row["array"] + row["row"] for row in listed} == {""}
    again = medal("cache-teacher", folder, out, *request_)
    assert (again["action"], again["computed"], again["skipped"]) == ("reuse", 0, BAD)
    assert again["cache_id"] == made["cache_id"]
    assert f"{BAD} images were left out because they could not be read" in capsys.readouterr().err


def test_the_rows_that_are_left_are_those_of_a_set_without_the_bad_ones(scans, request_, medal, tmp_path):
    folder, bad, _ = scans
    medal("cache-teacher", folder, tmp_path / "skipped.zarr", *request_, "--on-bad-image", "skip")
    for file in bad:
        file.unlink()
    medal("cache-teacher", folder, tmp_path / "clean.zarr", *request_)
    fewer, clean = (open_cache(tmp_path / name) for name in ("skipped.zarr", "clean.zarr"))
    assert fewer.cache_id != clean.cache_id
    for split in clean.splits:
        for name in ("key", "label", "fold"):
            np.testing.assert_array_equal(fewer.read(split, name), clean.read(split, name))
        # Other neighbours in a bf16 batch may change the last bits.
        one, other = (cache.read(split, "feature").astype(np.float64)[:, 0] for cache in (fewer, clean))
        cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        assert cosine.min() > 0.999
        np.testing.assert_allclose(fewer.read(split, "view_check"), clean.read(split, "view_check"))


def test_training_knows_them_as_declared_missing(scans, request_, medal, tmp_path, capsys):
    folder, bad, whole = scans
    out = tmp_path / "scans.h5"
    medal("cache-teacher", folder, out, *request_, "--on-bad-image", "skip")
    medal("train-student", out, folder, "--out", tmp_path / "run", *RUN)
    assert f"{BAD} images are left out: the cache was made without them" in capsys.readouterr().err
    # Other images than those that were declared are a mismatch, as ever.
    shutil.copy(whole / bad[0].name, bad[0])
    with pytest.raises(CacheMismatch, match=f"{IMAGES - BAD} of {IMAGES} match, 1 are not in the cache"):
        medal("train-student", out, folder, "--out", tmp_path / "other", *RUN)


@pytest.mark.skipif(not UNREADABLE.exists(), reason="needs a file whose reading fails")
def test_files_that_cannot_even_be_opened(scans, request_, medal, tmp_path):
    folder, bad, _ = scans
    for split in ("train", "val"):
        (folder / split / "benign/broken-disk.png").symlink_to(UNREADABLE)
    out = tmp_path / "scans.zarr"
    with pytest.raises(DataError, match=rf"^2 of {IMAGES + 2} images of dataset .* cannot be read"):
        medal("cache-teacher", folder, out, *request_)
    made = medal("cache-teacher", folder, out, *request_, "--on-bad-image", "skip")
    assert made["skipped"] == BAD + 2
    declared = open_cache(out).manifest.skipped
    assert (declared.reasons["unreadable file"], declared.without_key, len(declared.keys)) == (2, 2, BAD)
    assert {row["split"] for row in read_list(out) if row["reason"] == "unreadable file"} == {"train", "val"}
    medal("train-student", out, folder, "--out", tmp_path / "run", *RUN)
    bad[0].unlink()
    bad[0].symlink_to(UNREADABLE)
    with pytest.raises(DataError, match=rf"^3 of {IMAGES + 2} images of dataset"):
        medal("train-student", out, folder, "--out", tmp_path / "other", *RUN)


def test_what_can_be_read_by_now_is_computed(scans, request_, medal, tmp_path, monkeypatch):
    folder, _, _ = scans
    large = folder / "train/benign/large.png"
    with Image.open(next((folder / "val").rglob("*.png"))) as image:
        image.resize((700, 600)).save(large)
    out = tmp_path / "scans.zarr"
    usual = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    with pytest.raises(DataError, match=r"large.png' is too large"):
        medal("cache-teacher", folder, out, *request_)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", usual)
    made = medal("cache-teacher", folder, out, *request_, "--on-bad-image", "skip")
    assert (made["action"], made["skipped"]) == ("resume", BAD)
    # The whole chunk that lacked it, and nothing else.
    assert made["computed"] <= 32 < made["kept"]
    assert made["computed"] + made["kept"] == IMAGES + 1 - BAD


def test_too_little_is_left(request_, medal, tmp_path):
    folder = drawn.save_pictures(tmp_path / "scans", {"benign": 9, "malignant": 9}, ("train", "val", "test"))
    for file in sorted((folder / "train/malignant").glob("*.png"))[:2]:
        file.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"After 2 images that cannot be used: .* 'malignant' \(1\)"):
        medal("cache-teacher", folder, tmp_path / "out.zarr", *request_, "--on-bad-image", "skip")
    for file in folder.rglob("*.png"):
        file.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"^18 of 18 images cannot be used"):
        medal("cache-teacher", folder, tmp_path / "none.zarr", *request_)
    assert not work_path(tmp_path / "none.zarr").exists()


def test_a_class_that_is_rare_by_what_was_left_out_is_said(scans, request_, medal, tmp_path, capsys):
    folder, _, _ = scans
    for file in (folder / "val/malignant").glob("*.png"):
        file.write_bytes(b"nothing")
    medal("cache-teacher", folder, tmp_path / "out.zarr", *request_, "--on-bad-image", "skip")
    assert "warning: val has no sample of the class 'malignant'" in capsys.readouterr().err


@pytest.mark.skipif(not UNREADABLE.exists(), reason="needs a file whose reading fails")
def test_no_more_are_left_out_than_an_accident_explains(scans, request_, medal, tmp_path, monkeypatch):
    folder, _, _ = scans
    for index in range(3):
        (folder / f"train/benign/broken-disk-{index}.png").symlink_to(UNREADABLE)
    monkeypatch.setattr(skipped, "_MOST_SKIPPED", 2)
    words = ("cache-teacher", folder, tmp_path / "out.zarr", *request_, "--on-bad-image", "skip")
    with pytest.raises(DataError, match=r"^3 images cannot be used, more than the 2 that --on-bad-image skip"):
        medal(*words)  # that cannot even be read
    for file in (folder / "train/benign").glob("broken-disk*"):
        file.unlink()
    with pytest.raises(DataError, match=rf"^{BAD} images cannot be used, more than the 2 that"):
        medal(*words)  # that cannot be decoded


def test_an_image_is_named_for_machines(tmp_path):
    stacks = {"train_images": np.zeros((2, 4, 4), np.uint8), "test_images": np.zeros((3, 4, 4), np.uint8)}
    arrays = ArrayImages(stacks, "file 'x.npz'")
    assert arrays.locate(4) == Place(array="test_images", row=2)
    files = FileImages(tmp_path, ("a/1.dcm", "a/1.dcm", "b/2.png"), frames=(1, 2, 0))
    assert [files.locate(row) for row in range(3)] == [
        Place(file="a/1.dcm", frame=1),
        Place(file="a/1.dcm", frame=2),
        Place(file="b/2.png"),
    ]
    assert FileImages(tmp_path, ("b/2.png",)).locate(0) == Place(file="b/2.png")
    assert Selection(files, np.array([2, 1])).locate(1) == Place(file="a/1.dcm", frame=2)


@pytest.mark.parametrize(
    ("account", "complaint"),
    [
        (3, "dataset.skipped' should be reasons with counts"),
        ({"reasons": []}, "dataset.skipped' should be reasons with counts"),
        ({"reasons": {"damaged": -1}}, "dataset.skipped.reasons' should be a whole number"),
        ({"reasons": {"damaged": True}}, "dataset.skipped.reasons' should be a whole number"),
        ({"keys": {"train": ["00"]}}, "dataset.skipped.keys' should be 32 hexadecimal digits"),
        ({"keys": {"train": 5}}, "dataset.skipped.keys' should be 32 hexadecimal digits"),
    ],
)
def test_a_strangers_account_is_checked(account, complaint, small_cache):
    raw = dict(open_cache(small_cache).manifest.raw)
    raw["dataset"] = {**raw["dataset"], "skipped": account}
    with pytest.raises(CacheCorrupt, match=complaint):
        parse_manifest(canonical_json(raw))
