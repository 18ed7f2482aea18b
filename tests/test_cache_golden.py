"""Format 1 opens for ever: golden caches in both forms, made once by tests/golden/make.py and never again."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from medal.cache.convert import convert
from medal.cache.errors import CacheMismatch
from medal.cache.reader import open_cache
from medal.cache.verify import verify

GOLDEN = Path(__file__).parent / "golden"
DIGEST = "5694f2ed80fef78e78751adc20613872f36a27ce49c3697042126a14cb9d3c4c"
BOTH = pytest.mark.parametrize("suffix", [".zarr", ".h5"])


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    """A machine that has never seen a cache."""
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))


@BOTH
def test_opens_for_ever(suffix):
    cache = open_cache(GOLDEN / f"format1{suffix}")
    assert verify(cache) == []
    assert cache.content_digest == DIGEST
    assert cache.cache_id == "0123456789abcdef" * 2
    assert cache.manifest.classes == ("no finding", "Pneumonie, möglich")
    assert dict(cache.manifest.rows) == {"train": 6, "val": 3, "test": 3}
    np.testing.assert_array_equal(cache.read("train", "fold"), [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(cache.read("val", "feature")[0, 0], np.array([-2.5, -2, -1.5, -1], np.float16))
    np.testing.assert_array_equal(cache.read_probe()[1], np.arange(6, dtype=np.float32).reshape(3, 2) / 8)


def test_both_forms_hold_the_same():
    folder = zarr.open_group(GOLDEN / "format1.zarr", mode="r")
    cache = open_cache(GOLDEN / "format1.h5")
    with h5py.File(GOLDEN / "format1.h5") as file:
        for name in cache.manifest.arrays:
            np.testing.assert_array_equal(folder[name][:], file[name][:])
    assert open_cache(GOLDEN / "format1.zarr").manifest.to_bytes() == cache.manifest.to_bytes()


@BOTH
def test_converts_with_all_its_fields(suffix, tmp_path):
    source = open_cache(GOLDEN / f"format1{suffix}")
    made = convert(source, tmp_path / f"other{'.h5' if suffix == '.zarr' else '.zarr'}")
    assert verify(made) == []
    assert made.content_digest == DIGEST
    assert made.manifest.to_bytes() == source.manifest.to_bytes()
    assert made.manifest.raw["a field of tomorrow"] == {"kept": [True, None, 1.5, "ja"]}


def test_a_newer_format_is_refused_by_name(tmp_path):
    path = tmp_path / "newer.zarr"
    shutil.copytree(GOLDEN / "format1.zarr", path)
    seal = json.loads((path / "seal.json").read_bytes())
    (path / "seal.json").write_text(json.dumps({**seal, "format": 2, "medal": "3.1"}))
    with pytest.raises(CacheMismatch, match=r"format 2; this medal reads format 1. Read it with medal 3.1 or newer"):
        open_cache(path)
