"""Features taken over from sealed caches: only new images meet the (real) teacher."""

import numpy as np
import pytest

from medal.cache.errors import CacheCorrupt, CacheMismatch
from medal.cache.reader import open_cache
from medal.cache.verify import verify_path


@pytest.fixture(scope="module")
def part(small_npz, tmp_path_factory):
    """The small set without every tenth image of train: 282 of 300."""
    path = tmp_path_factory.mktemp("part") / "chest.npz"
    with np.load(small_npz) as real:
        arrays = dict(real)
    keep = np.arange(len(arrays["train_images"])) % 10 != 0
    for kind in ("images", "labels"):
        arrays[f"train_{kind}"] = arrays[f"train_{kind}"][keep]
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def before(part, small_request, medal, tmp_path_factory):
    """A sealed cache of `part`. Not to be changed; copy it first."""
    path = tmp_path_factory.mktemp("before") / "chest.zarr"
    medal("cache-teacher", part, path, *small_request)
    return path


def agree(one, other):
    """Compare two caches of the same request: everything but the last bits of what was computed."""
    one, other = open_cache(one), open_cache(other)
    assert one.cache_id == other.cache_id
    for split in one.splits:
        for name in ("key", "label", "fold", "domain", "group"):
            np.testing.assert_array_equal(one.read(split, name), other.read(split, name))
        np.testing.assert_array_equal(one.read(split, "view_check"), other.read(split, "view_check"))
        a, b = (cache.read(split, "feature")[:, 0].astype(np.float64) for cache in (one, other))
        assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.999
    for split in ("val", "test"):
        for name in ("auroc", "accuracy"):
            figures = [cache.manifest.probe["metrics"][split][name] for cache in (one, other)]
            assert figures[0] == pytest.approx(figures[1], abs=1e-3)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_grown_dataset_costs_its_new_images(
    suffix, before, part, small_npz, small_request, small_cache, medal, tmp_path
):
    out = tmp_path / f"chest{suffix}"
    medal("convert", before, out)
    made = medal("cache-teacher", small_npz, out, *small_request)
    assert (made["action"], made["computed"], made["kept"]) == ("extend", 18, 282)
    assert verify_path(out) == []
    agree(out, small_cache)
    assert list(tmp_path.iterdir()) == [out]
    assert open_cache(out).manifest.raw["taken_over"][0]["content_digest"] == open_cache(before).content_digest
    assert medal("cache-teacher", small_npz, out, *small_request)["action"] == "reuse"
    with pytest.raises(CacheMismatch, match="holds a different cache"):
        medal("cache-teacher", part, out, *small_request)


def test_what_is_taken_over_is_taken_to_the_bit(before, small_npz, small_request, medal, tmp_path):
    out = tmp_path / "chest.zarr"
    made = medal("cache-teacher", small_npz, out, *small_request, "--from", before)
    assert (made["action"], made["computed"]) == ("extend", 18)
    old, new = open_cache(before), open_cache(out)
    for split in old.splits:
        known = {
            key.tobytes(): feature
            for key, feature in zip(old.read(split, "key"), old.read(split, "feature"), strict=True)
        }
        for key, feature in zip(new.read(split, "key"), new.read(split, "feature"), strict=True):
            if key.tobytes() in known:
                np.testing.assert_array_equal(feature, known[key.tobytes()])


def test_another_probe_needs_no_teacher(small_cache, small_npz, small_request, medal, tmp_path):
    out = tmp_path / "chest.h5"
    made = medal("cache-teacher", small_npz, out, *small_request, "--folds", 3, "--from", small_cache)
    assert (made["action"], made["computed"], made["images_per_second"]) == ("extend", 0, None)
    assert verify_path(out) == []
    again = medal("cache-teacher", small_npz, tmp_path / "anew.h5", *small_request, "--folds", 3)
    assert again["computed"] == 300
    assert again["content_digest"] == made["content_digest"]


def test_another_probe_does_not_replace_a_cache_unasked(small_cache, small_npz, small_request, shell):
    asked = shell("cache-teacher", small_npz, small_cache, *small_request, "--folds", 3, "--dry-run")
    assert asked.returncode == 1
    assert "it differs in probe.folds (5, asked for: 3)" in asked.stderr


def test_two_sources_and_other_splits(before, small_cache, small_npz, small_request, medal, tmp_path):
    with np.load(small_npz) as real:
        arrays = dict(real)
    for kind in ("images", "labels"):
        arrays[f"test_{kind}"], arrays[f"val_{kind}"] = arrays[f"val_{kind}"], arrays[f"test_{kind}"]
    arrays["train_images"] = np.concatenate([arrays["train_images"], arrays["train_images"][:2] ^ 1])
    arrays["train_labels"] = np.concatenate([arrays["train_labels"], arrays["train_labels"][:2]])
    np.savez(tmp_path / "other.npz", **arrays)
    out = tmp_path / "other.zarr"
    made = medal("cache-teacher", tmp_path / "other.npz", out, *small_request, "--from", before, "--from", small_cache)
    assert (made["action"], made["computed"], made["kept"]) == ("extend", 2, 300)
    medal("cache-teacher", tmp_path / "other.npz", tmp_path / "anew.zarr", *small_request)
    agree(out, tmp_path / "anew.zarr")


def test_a_dry_run_says_so(before, small_npz, small_request, medal, tmp_path):
    said = medal("cache-teacher", small_npz, tmp_path / "x.zarr", *small_request, "--from", before, "--dry-run")
    assert said["action"] == "extend"
    assert not (tmp_path / "x.zarr.work").exists()


def test_sources_that_do_not_fit(before, small_npz, teacher, small_request, medal, tmp_path):
    with pytest.raises(CacheMismatch, match=r"do not fit: .*preprocessing.image_size \(56, asked for: 70\)"):
        medal(
            "cache-teacher", small_npz, tmp_path / "x.zarr", "--teacher", teacher, "--image-size", 70, "--from", before
        )
    lean = tmp_path / "lean.h5"
    medal("cache-teacher", small_npz, lean, *small_request, "--no-features", "--limit", 20)
    with pytest.raises(CacheMismatch, match=r"lean.h5' was made with --no-features"):
        medal("cache-teacher", small_npz, tmp_path / "x.zarr", *small_request, "--from", lean)
    assert not (tmp_path / "x.zarr.work").exists()


def test_a_damaged_source_is_found_out(before, small_npz, small_request, medal, tmp_path):
    damaged = tmp_path / "damaged.zarr"
    medal("convert", before, damaged)
    victim = max(
        (path for path in (damaged / "train/feature").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(CacheCorrupt, match=r"damaged.zarr"):
        medal("cache-teacher", small_npz, tmp_path / "x.zarr", *small_request, "--from", damaged)
