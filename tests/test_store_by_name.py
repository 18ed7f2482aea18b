"""Without the teacher's weights: a cache is found by images, settings and the teacher's name on the hub."""

import json
import shutil

import pytest
from store_cases import member, whole

from medal.cache.errors import CacheCorrupt, CacheMismatch, TeacherError
from medal.pipeline.teacher.demo import tiny_teacher

FIRST, SECOND = "a" * 40, "b" * 40
SETTINGS = ("--image-size", 56, "--batch-size", 64, "--limit", 40)


@pytest.fixture(scope="module")
def lab(medal, small_npz, tmp_path_factory):
    """A store with a cache by `lab/tiny`, made by somebody in whose hub cache that teacher is."""
    folder = tmp_path_factory.mktemp("lab")
    snapshot = folder / "hub/models--lab--tiny/snapshots" / FIRST
    snapshot.parent.mkdir(parents=True)
    tiny_teacher(folder).rename(snapshot)
    made = medal("cache-teacher", small_npz, folder / "ana.zarr", "--teacher", snapshot, *SETTINGS)
    medal("push", "--yes", folder / "ana.zarr", folder / "store", "--as", "Ana")
    return folder, snapshot, made


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    # What the environment says is read once, and perhaps long ago.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))


def ask(dataset, out, store, *more, teacher="lab/tiny"):
    return ("cache-teacher", dataset, out, "--teacher", teacher, *SETTINGS, "--store", store, *more)


def test_it_is_pulled_and_the_weights_are_told(lab, small_npz, shell, tmp_path):
    folder, _, made = lab
    env = {**member(tmp_path / "ben"), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    copy = tmp_path / "scans of mine.npz"
    shutil.copy(small_npz, copy)
    words = (*ask(copy, tmp_path / "got.h5", folder / "store"), "--json")
    foreseen = json.loads(shell(*words, "--dry-run", env=env).stdout.splitlines()[-1])
    assert (foreseen["action"], foreseen["cache_id"]) == ("pulled", made["cache_id"])
    done = shell(*words, env=env)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert (got["action"], got["computed"], got["content_digest"]) == ("pulled", 0, made["content_digest"])
    weights = whole(tmp_path / "got.h5").manifest.teacher["weights_sha256"]
    assert f"weights with the SHA-256 {weights}, revision {FIRST}" in done.stderr
    again = shell(*words, env=env)
    assert json.loads(again.stdout.splitlines()[-1])["action"] == "reuse"


@pytest.mark.parametrize(
    "more",
    [
        ("--folds", 3),
        ("--image-size", 70),
        ("--feature", "last4"),
        ("--seed", 1),
        ("--revision", SECOND),
        ("--no-features",),
    ],
)
def test_anything_else_is_not_it(more, lab, small_npz, medal, tmp_path):
    folder, _, _ = lab
    with pytest.raises(TeacherError, match=r"has no cache of these images by a teacher of that name either"):
        medal(*ask(small_npz, tmp_path / "got.zarr", folder / "store", *more))
    with pytest.raises(TeacherError, match=r"has no cache of these images by a teacher of that name either"):
        medal(*ask(small_npz, tmp_path / "got.zarr", folder / "store", teacher="lab/other"))
    assert not (tmp_path / "got.zarr").exists()


def test_the_beginning_of_a_commit_will_do(lab, small_npz, medal, tmp_path):
    folder, _, made = lab
    got = medal(*ask(small_npz, tmp_path / "got.zarr", folder / "store", "--revision", FIRST[:7]))
    assert got["cache_id"] == made["cache_id"]


def test_two_of_one_name_are_told_apart_by_revision(lab, small_npz, medal, tmp_path):
    folder, snapshot, made = lab
    shutil.copytree(folder / "store", tmp_path / "store")
    other = tmp_path / "hub/models--lab--tiny/snapshots" / SECOND
    shutil.copytree(snapshot, other)
    change_weights(other)
    medal("cache-teacher", small_npz, tmp_path / "b.zarr", "--teacher", other, *SETTINGS)
    medal("push", "--yes", tmp_path / "b.zarr", tmp_path / "store")
    with pytest.raises(CacheMismatch, match=r"has 2 caches of these images by teachers of that name: .* --revision"):
        medal(*ask(small_npz, tmp_path / "got.zarr", tmp_path / "store"))
    got = medal(*ask(small_npz, tmp_path / "got.zarr", tmp_path / "store", "--revision", FIRST))
    assert got["cache_id"] == made["cache_id"]


def change_weights(folder):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] * 1.5}, folder / "model.safetensors", metadata={"format": "pt"})


def test_an_entry_that_lies_is_refused_before_anything_is_fetched(lab, small_npz, medal, tmp_path):
    folder, _, _ = lab
    medal("reprobe", folder / "ana.zarr", tmp_path / "other.zarr", "--folds", 3)
    medal("push", "--yes", tmp_path / "other.zarr", tmp_path / "store")
    (place,) = (tmp_path / "store/entries").iterdir()
    (true,) = (folder / "store/entries").iterdir()
    entry = json.loads(place.read_bytes())
    entry["summary"] = json.loads(true.read_bytes())["summary"]
    place.write_text(json.dumps(entry))
    (tmp_path / "store/index.jsonl").unlink()
    with pytest.raises(CacheCorrupt, match=r"is not what its entry says; nothing was taken over"):
        medal(*ask(small_npz, tmp_path / "got.zarr", tmp_path / "store"))
    assert not (tmp_path / "got.zarr").exists()


def test_without_a_store_or_with_a_folder_it_is_as_ever(lab, small_npz, medal, tmp_path):
    folder, _, _ = lab
    with pytest.raises(TeacherError, match="could not be downloaded"):
        medal("cache-teacher", small_npz, tmp_path / "x.zarr", "--teacher", "lab/tiny", *SETTINGS)
    with pytest.raises(TeacherError, match="neither a folder that exists nor a Hugging Face id"):
        medal(*ask(small_npz, tmp_path / "x.zarr", folder / "store", teacher="./no such teacher"))
