"""Both forms of a cache keep one contract; the raw accessors go round the API under test."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from medal.cache.convert import convert
from medal.cache.errors import CacheCorrupt, CacheIncomplete, CacheMismatch, CacheNotFound
from medal.cache.format.digest import content_digest
from medal.cache.making.writer import write_cache
from medal.cache.reader import Cache, open_cache
from medal.cache.verify import count_repeats, verify


def make_content(seed=0, counts=(20, 6, 5), classes=3, feature=8, task="multiclass", features_kept=True):
    """Arrays and a manifest (without its array table) of a small cache that keeps every rule of format 1."""
    random = np.random.default_rng(seed)
    rows = dict(zip(("train", "val", "test"), counts, strict=True))
    weight = random.normal(size=(3, classes, feature)).astype(np.float32)
    bias = random.normal(size=(3, classes)).astype(np.float32)
    arrays = {"probe/weight": weight, "probe/bias": bias}
    for split, count in rows.items():
        key = random.integers(0, 256, (count, 16), np.uint8)
        key = key[np.lexsort(key.T[::-1])]
        features = random.normal(size=(count, 1, feature)).astype(np.float16)
        fold = random.integers(0, 2, count, np.int8) if split == "train" else np.full(count, -1, np.int8)
        logits = np.einsum("nvf,ncf->nvc", features.astype(np.float32), weight[fold]) + bias[fold][:, None]
        label = (
            random.integers(0, classes, count, np.int32)
            if task == "multiclass"
            else random.integers(0, 2, (count, classes), np.uint8)
        )
        columns = {
            "key": key,
            "label": label,
            "logits": logits.astype(np.float32),
            "view": np.zeros((count, 1, 2), np.float32),
            "view_check": random.random((count, 1, 4), np.float32),
            "domain": np.zeros(count, np.int16),
            "group": np.full(count, -1, np.int32),
            "fold": fold,
        }
        if features_kept:
            columns["feature"] = features
        arrays |= {f"{split}/{name}": column for name, column in columns.items()}
    manifest = {
        "format": 1,
        "medal": "0.1.0",
        "cache_id": "0" * 32,
        "dataset": {
            "name": "made",
            "task": task,
            "classes": [f"class {index}" for index in range(classes)],
            "domains": ["one"],
            "rows": rows,
            "repeats": count_repeats({split: arrays[f"{split}/key"] for split in rows}),
        },
        "teacher": {"name": "none", "feature_dim": feature},
        "preprocessing": {},
        "views": {"count": 1, "parameters": ["zoom", "turn"]},
        "probe": {"probes": 3},
        "features_kept": features_kept,
        "versions": {},
        "a field of tomorrow": {"kept": True},
    }
    return arrays, manifest


class CacheContract:
    """What every form must do."""

    suffix = ""

    def raw_array(self, path: Path, name: str) -> np.ndarray:
        raise NotImplementedError

    @pytest.fixture
    def made(self, tmp_path: Path) -> Cache:
        arrays, manifest = make_content()
        return write_cache(tmp_path / f"made{self.suffix}", arrays, manifest)

    @pytest.mark.parametrize("task", ["multiclass", "multilabel"])
    @pytest.mark.parametrize("features_kept", [True, False])
    def test_reads_back_what_was_written(self, tmp_path, task, features_kept):
        arrays, manifest = make_content(task=task, features_kept=features_kept)
        path = tmp_path / f"made{self.suffix}"
        write_cache(path, arrays, manifest)
        cache = open_cache(path)
        assert verify(cache) == []
        for name, array in arrays.items():
            np.testing.assert_array_equal(self.raw_array(path, name), array)
            if not name.startswith("probe"):
                np.testing.assert_array_equal(cache.read(*name.split("/")), array)
        np.testing.assert_array_equal(cache.read_probe()[0], arrays["probe/weight"])
        assert sorted(path.parent.iterdir()) == [path]

    def test_digest_is_of_the_arrays_alone(self, made, tmp_path):
        arrays, manifest = make_content()
        other = write_cache(tmp_path / f"other{self.suffix}", arrays, {**manifest, "cache_id": "1" * 32})
        assert other.content_digest == made.content_digest == content_digest(made.manifest.raw["arrays"])

    def test_converts_there_and_back(self, made, tmp_path):
        there = convert(made, tmp_path / ("there" + {".zarr": ".h5", ".h5": ".zarr"}[self.suffix]))
        back = convert(there, tmp_path / f"back{self.suffix}")
        assert verify(there) == verify(back) == []
        assert made.content_digest == there.content_digest == back.content_digest
        assert back.manifest.raw == made.manifest.raw
        assert back.manifest.raw["a field of tomorrow"] == {"kept": True}

    def test_convert_refuses_what_is_there(self, made):
        with pytest.raises(CacheMismatch, match="--overwrite"):
            convert(made, made.path)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(CacheNotFound, match="There is no cache at"):
            open_cache(tmp_path / f"none{self.suffix}")

    def test_newer_format_names_its_medal(self, tmp_path):
        arrays, manifest = make_content()
        with pytest.raises(CacheMismatch, match=r"format 2; this medal reads format 1. Read it with medal 9.9"):
            write_cache(tmp_path / f"new{self.suffix}", arrays, {**manifest, "format": 2, "medal": "9.9"})
        assert list(tmp_path.iterdir()) == []

    def test_a_failed_write_leaves_what_was_there(self, made):
        arrays, manifest = make_content(seed=1)
        arrays["train/logits"][0] = np.nan
        with pytest.raises(CacheCorrupt, match="not finite"):
            write_cache(made.path, arrays, manifest)
        assert verify(open_cache(made.path)) == []
        assert list(made.path.parent.iterdir()) == [made.path]

    def test_wrong_contents_are_sentences(self, tmp_path):
        for spoil, problem in (
            (lambda a: a["train/label"].__setitem__(0, 7), "Labels of 'train'"),
            (lambda a: a["val/domain"].__setitem__(0, 1), "Column 'domain' of 'val'"),
            (lambda a: a["test/logits"].__setitem__(0, 100), "Logits of 'test' differ"),
            (lambda a: a["train/key"].__setitem__(0, 255), "Rows of 'train' are not in ascending order"),
        ):
            arrays, manifest = make_content()
            spoil(arrays)
            with pytest.raises(CacheCorrupt, match=problem):
                write_cache(tmp_path / f"bad{self.suffix}", arrays, manifest)


class TestZarr(CacheContract):
    suffix = ".zarr"

    def raw_array(self, path, name):
        return zarr.open_group(path, mode="r")[name][:]

    def test_without_seal(self, made):
        (made.path / "seal.json").unlink()
        with pytest.raises(CacheIncomplete, match="has no seal"):
            open_cache(made.path)

    def test_a_missing_chunk_is_damage(self, made):
        (made.path / "train/logits/c/0/0/0").unlink()
        with pytest.raises(CacheCorrupt, match="'train/logits'"):
            open_cache(made.path).read("train", "logits")
        assert any("train/logits" in problem for problem in verify(open_cache(made.path)))

    def test_a_changed_manifest_is_damage(self, made):
        manifest = json.loads((made.path / "manifest.json").read_bytes())
        manifest["dataset"]["name"] = "other"
        (made.path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(CacheCorrupt, match="not the one that was sealed"):
            open_cache(made.path)

    def test_an_open_cache_looks_at_its_folder_once(self, made):
        cache = open_cache(made.path)
        key = cache.read("train", "key")
        (made.path / "stray").touch()
        np.testing.assert_array_equal(cache.read("train", "key"), key)
        (made.path / "train/logits/c/0/0/0").write_bytes(b"\0" * cache.read("train", "logits").nbytes)
        for opened, problem in ((cache, "SHA-256"), (open_cache(made.path), "stray")):
            with pytest.raises(CacheCorrupt, match=problem):
                opened.read("train", "logits")


class TestHdf5(CacheContract):
    suffix = ".h5"

    def raw_array(self, path, name):
        with h5py.File(path) as file:
            return file[name][:]

    def test_without_seal(self, made):
        with made.path.open("r+b") as file:
            file.write(bytes(1024))
        with pytest.raises(CacheIncomplete, match="has no seal"):
            open_cache(made.path)

    def test_a_flipped_byte_is_damage(self, made):
        content = bytearray(made.path.read_bytes())
        content[5000] ^= 1
        made.path.write_bytes(content)
        with pytest.raises(CacheCorrupt, match="is damaged"):
            open_cache(made.path)
