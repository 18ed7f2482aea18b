"""Keys keyed with a lab's secret: the same commands with it, one sentence without it, and the secret nowhere."""

import json
import secrets

import numpy as np
import pytest

from medal.cache.errors import CacheMismatch, DataError, StudentError
from medal.cache.join import image_members
from medal.cache.keys import KeySecret
from medal.cache.reader import open_cache
from medal.pipeline.datasets.opening import open_dataset

WRONG, MISSING = (
    r"were made with another secret than that of --key-secret",
    r"give the file with the secret: --key-secret",
)
QUICK = ("--student", "test_resnet", "--epochs", 1, "--image-size", 32)


def secret_file(path):
    path.write_text(secrets.token_hex(32) + "\n")
    return path


@pytest.fixture(scope="module")
def lab(medal, small_npz, small_cache, small_request, tmp_path_factory):
    """A cache keyed with the lab's secret, whose features come from the plain one, a student of it, and the secret."""
    folder = tmp_path_factory.mktemp("lab")
    own, other = secret_file(folder / "own.key"), secret_file(folder / "other.key")
    words = ("cache-teacher", small_npz, folder / "keyed.zarr", *small_request, "--key-secret", own)
    made = medal(*words, "--from", small_cache)
    assert (made["action"], made["computed"], made["kept"]) == ("extend", 0, 300)
    medal("train-student", folder / "keyed.zarr", small_npz, "--out", folder / "run", *QUICK, "--key-secret", own)
    return folder, own, other, made


def keys_of(cache):
    return np.concatenate([cache.read(split, "key") for split in cache.splits])


def test_keys_are_those_of_the_page_of_the_format(lab, small_npz, small_cache):
    folder, own, _, made = lab
    from hashlib import blake2b

    derived = blake2b(own.read_bytes().strip(), person=b"medal:key-secret").digest()
    expected = {blake2b(bytes(key), key=derived, digest_size=16).digest() for key in keys_of(open_cache(small_cache))}
    keyed = open_cache(folder / "keyed.zarr")
    assert {bytes(key) for key in keys_of(keyed)} == expected
    assert keyed.manifest.key_check == blake2b(b"medal:key-check", key=derived, digest_size=16).hexdigest()
    assert open_cache(small_cache).manifest.key_check is None
    assert made["cache_id"] != open_cache(small_cache).cache_id
    # Nobody without the secret finds an image of theirs.
    assert not image_members(open_dataset(str(small_npz)).keys(), keys_of(keyed)).any()


@pytest.mark.slow
def test_computed_with_the_secret_is_the_same_as_taken_over(lab, medal, small_npz, small_request, tmp_path):
    folder, own, _, made = lab
    again = medal("cache-teacher", small_npz, tmp_path / "again.zarr", *small_request, "--key-secret", own)
    assert (again["cache_id"], again["computed"]) == (made["cache_id"], 300)
    one, two = (open_cache(place) for place in (folder / "keyed.zarr", tmp_path / "again.zarr"))
    assert np.array_equal(keys_of(one), keys_of(two))
    for split in one.splits:
        # Batches are others, so that a bfloat16 feature may differ in its last bits.
        cosine = (one.read(split, "feature").astype(float) * two.read(split, "feature").astype(float)).sum(-1)
        norms = [np.linalg.norm(cache.read(split, "feature").astype(float), axis=-1) for cache in (one, two)]
        assert (cosine / norms[0] / norms[1]).min() > 0.999


def commands(folder, dataset, tmp_path, teacher):
    cache, run = folder / "keyed.zarr", folder / "run"
    return {
        "train-student": ("train-student", cache, dataset, "--out", tmp_path / "run", *QUICK),
        "show": ("show", cache, dataset),
        "audit": ("audit", cache, dataset),
        "verify": ("verify", cache, dataset, "--sample", 3, "--teacher", teacher),
        "evaluate": ("evaluate", run, dataset, "--split", "val"),
        "cache-teacher --from": (
            "cache-teacher",
            dataset,
            tmp_path / "x.zarr",
            "--teacher",
            teacher,
            "--image-size",
            56,
            "--from",
            cache,
        ),
    }


NAMES = ["train-student", "show", "audit", "verify", "evaluate", "cache-teacher --from"]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_or_wrong_secret_is_one_sentence(name, lab, medal, small_npz, teacher, tmp_path):
    folder, _, other, _ = lab
    words = commands(folder, small_npz, tmp_path, teacher)[name]
    with pytest.raises(CacheMismatch, match=MISSING):
        medal(*words)
    with pytest.raises(CacheMismatch, match=WRONG):
        medal(*words, "--key-secret", other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["show", "audit", "verify", "evaluate"])
def test_with_the_secret_all_is_as_without_one(name, lab, medal, small_npz, teacher, tmp_path):
    folder, own, _, _ = lab
    found = medal(*commands(folder, small_npz, tmp_path, teacher)[name], "--key-secret", own)
    if name == "show":
        assert found["fit"]["fits"]
        assert sum(found["fit"]["matched"].values()) == 300
    if name == "verify":
        assert (found["ok"], found["sample"]["images"]) == (True, 3)
    if name == "evaluate":
        assert found["images"] == 60
        assert any("60 of 60 images are in val of the run" in warning for warning in found["warnings"])


def test_the_secret_can_come_from_the_environment_and_plain_caches_do_not_mind(
    lab, medal, small_npz, small_cache, monkeypatch
):
    folder, own, _, _ = lab
    monkeypatch.setenv("MEDAL_KEY_SECRET", str(own))
    assert medal("show", folder / "keyed.zarr", small_npz)["fit"]["fits"]
    assert medal("show", small_cache, small_npz)["fit"]["fits"]


def test_only_its_owner_may_name_a_secret_in_a_file(lab, shell, small_npz, tmp_path):
    folder, own, other, _ = lab
    project, user = tmp_path / "project", tmp_path / "config/medal"
    project.mkdir()
    user.mkdir(parents=True)
    env = {"XDG_CONFIG_HOME": str(user.parent)}
    (user / "medal.toml").write_text(f"[show]\nkey-secret = '{own}'\n")
    assert shell("show", folder / "keyed.zarr", small_npz, cwd=project, env=env).returncode == 0
    # A folder from somebody else would key with what they know.
    (project / "medal.toml").write_text(f"[show]\nkey-secret = '{other}'\n")
    refused = shell("show", folder / "keyed.zarr", small_npz, cwd=project, env=env)
    assert (refused.returncode, "this option is not allowed in a file" in refused.stderr) == (1, True)


def test_neither_the_secret_nor_its_path_is_written_anywhere(lab, medal, tmp_path):
    folder, own, _, _ = lab
    medal("push", "--yes", folder / "keyed.zarr", tmp_path / "store")
    secret = own.read_bytes().strip()
    hidden = (secret, bytes.fromhex(secret.decode()), str(own).encode(), own.name.encode())
    for place in (folder / "keyed.zarr", folder / "run", tmp_path / "store"):
        for path in place.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert not [text for text in hidden if text in content], path
    assert secret.decode() not in repr(KeySecret.read(own))


def test_what_is_recorded_of_images_is_keyed_too(lab):
    folder, own, _, _ = lab
    from medal.student.run.predictions import read_predictions

    keyed = keys_of(open_cache(folder / "keyed.zarr"))
    recorded = np.concatenate([part.key for part in read_predictions(folder / "run").values()])
    assert image_members(recorded, keyed).all()
    described = json.loads((folder / "run/run.json").read_text())
    assert described["cache"]["key_check"] == KeySecret.read(own).check


def test_a_reprobe_needs_no_secret_and_stays_keyed(lab, medal, tmp_path):
    folder, own, _, _ = lab
    medal("reprobe", folder / "keyed.zarr", tmp_path / "other.zarr", "--folds", 3)
    assert open_cache(tmp_path / "other.zarr").manifest.key_check == KeySecret.read(own).check


def test_what_is_keyed_in_different_ways_is_not_mixed(lab, medal, small_npz, small_cache, small_request, tmp_path):
    folder, own, _, _ = lab
    keyed, word = folder / "keyed.zarr", ("--key-secret", own)
    with pytest.raises(CacheMismatch, match="have keys that cannot be compared"):
        medal("train-student", keyed, small_npz, "--out", tmp_path / "run", *QUICK, *word, "--also-cache", small_cache)
    with pytest.raises(CacheMismatch, match="holds a cache with keys made with a secret, and plain ones are asked"):
        medal("cache-teacher", small_npz, keyed, *small_request)
    medal("train-student", small_cache, small_npz, "--out", tmp_path / "plain", *QUICK)
    with pytest.raises(StudentError, match="made with different secrets"):
        medal("compare", tmp_path / "plain", folder / "run")


def test_from_python(lab, small_npz):
    folder, own, other, _ = lab
    import medal as library

    with np.load(small_npz) as data:
        images = data["train_images"]
    items = list(range(len(images)))
    pairs = library.SoftTargets(folder / "keyed.zarr", "train", items, arrays=images, key_secret=own)
    assert len(pairs) == 180
    with pytest.raises(CacheMismatch, match=WRONG):
        library.SoftTargets(folder / "keyed.zarr", "train", items, arrays=images, key_secret=other)


@pytest.mark.parametrize("content", [b"", b"lab2026\n", b" " * 40, b"x" * 31 + b"\n", b"x" * (1 << 17)])
def test_what_can_be_guessed_is_no_secret(content, tmp_path):
    (tmp_path / "weak").write_bytes(content)
    with pytest.raises(DataError, match=r"is not a secret for --key-secret: expected 32 to 65536 .* openssl rand"):
        KeySecret.read(tmp_path / "weak")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        KeySecret.read(tmp_path / "nowhere")


def test_white_space_at_the_ends_is_no_part_of_a_secret(tmp_path):
    found = set()
    for name, content in {"a": "0" * 32, "b": "0" * 32 + "\n", "c": "0" * 32 + "\r\n"}.items():
        (tmp_path / name).write_bytes(content.encode())
        found.add(KeySecret.read(tmp_path / name).check)
    assert len(found) == 1
