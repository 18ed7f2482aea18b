"""The fit report: what of a dataset a cache has, by split, with the commands that would mend the rest."""

import numpy as np
import pytest


@pytest.fixture
def changed(small_npz, tmp_path):
    """The small set with five train images gone, three new ones, two labels of test turned and a val image in train."""
    path = tmp_path / "changed.npz"
    with np.load(small_npz) as original:
        part = {name: original[name].copy() for name in original.files}
    new = np.random.default_rng(0).integers(0, 255, (3, 28, 28)).astype(np.uint8)
    part["train_images"] = np.concatenate([part["train_images"][5:], new, part["val_images"][:1]])
    part["train_labels"] = np.concatenate([part["train_labels"][5:], [[0], [1], [1]], part["val_labels"][:1]])
    part["val_images"], part["val_labels"] = part["val_images"][1:], part["val_labels"][1:]
    part["test_labels"][:2] = 1 - part["test_labels"][:2]
    np.savez(path, **part)
    return path


def test_a_dataset_that_fits(small_cache, small_npz, medal, shell):
    found = medal("show", small_cache, small_npz)["fit"]
    assert found["fits"]
    assert found["matched"] == {"train": 180, "val": 60, "test": 60}
    assert sum(found["missing"].values()) + sum(found["extra"].values()) + found["moved"] == 0
    told = shell("show", small_cache, small_npz)
    assert told.stdout.splitlines()[-1] == f"'{small_npz}' fits '{small_cache}'."


def test_what_does_not_fit_is_counted_with_its_remedy(small_cache, changed, medal, shell):
    found = medal("show", small_cache, changed)["fit"]
    assert not found["fits"]
    assert found["matched"] == {"train": 175, "val": 60, "test": 60}
    assert found["missing"] == {"train": 3}
    assert found["extra"] == {"train": 5, "val": 0, "test": 0}
    assert found["disagree"] == {"train": 0, "val": 0, "test": 2}
    assert found["moved"] == 1
    told = shell("show", small_cache, changed).stdout
    assert f"medal cache-teacher {changed} {small_cache}" in told
    assert "--on-missing drop" in told
    assert "--labels dataset" in told
