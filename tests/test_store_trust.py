"""What leaves the machine, and whom to believe: names confirmed, manifests checked, signatures by SSH keys."""

import shutil
import subprocess

import pytest
from store_cases import make_cache, whole

from medal.cache.errors import CacheError, CacheMismatch
from medal.cache.making.writer import write_cache
from medal.cache.reader import open_cache


def remade(cache, path, change):
    """The same cache with something changed in its manifest."""
    import copy

    manifest = copy.deepcopy(dict(cache.manifest.raw))
    change(manifest)
    with cache.open_arrays() as arrays:
        return write_cache(path, arrays, manifest)


@pytest.fixture
def cache(tmp_path):
    return make_cache(tmp_path / "chest.zarr")


# ── Privacy ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_are_shown_and_have_to_be_confirmed(cache, tmp_path, shell):
    refused = shell("push", cache.path, tmp_path / "store")
    assert refused.returncode == 1
    assert "classes: normal, pneumonia" in refused.stderr
    assert "dataset: chest" in refused.stderr
    assert "Nothing was pushed: a person has to check the names above" in refused.stderr
    assert not list((tmp_path / "store").glob("sets"))
    assert shell("push", cache.path, tmp_path / "store", "--yes").returncode == 0
    # What is public already need not be confirmed again.
    assert shell("push", cache.path, tmp_path / "store").returncode == 0


@pytest.mark.parametrize(
    ("field", "value", "refusal"),
    [
        ("dataset.name", "/data/hospital/ward7", r"'dataset.name' holds an absolute path"),
        ("dataset.name", r"D:\\scans\\ward7", r"'dataset.name' holds an absolute path"),
        ("dataset.domains", ["~/scans"], r"'dataset.domains' holds an absolute path"),
        ("dataset.classes", ["normal", "1.2.840.113619.2.55.3"], r"'dataset.classes' holds a DICOM UID"),
        ("dataset.name", "scans of ana@example.org", r"'dataset.name' holds an e-mail address"),
        ("teacher.name", "file:///srv/teacher", r"'teacher.name' holds an absolute path"),
        ("dataset.comment", "anything", r"field 'dataset.comment' is not written by medal"),
        ("patients", ["Ana"], r"field 'patients' is not written by medal"),
        ("versions", {"numpy": "x" * 200}, r"field 'versions.numpy' holds free text"),
        (
            "preprocessing",
            {"image_size": 56, "made by": "Ana; ward 7"},
            r"field 'preprocessing.made by' holds free text",
        ),
    ],
)
def test_what_may_lead_to_a_person_is_refused(field, value, refusal, cache, tmp_path, medal):
    def change(manifest):
        *sections, last = field.split(".")
        for section in sections:
            manifest = manifest[section]
        manifest[last] = value

    changed = remade(cache, tmp_path / "changed.zarr", change)
    with pytest.raises(CacheMismatch, match=refusal):
        medal("push", changed.path, tmp_path / "store", "--yes")
    assert not (tmp_path / "store").exists()


def test_who_pushed_is_no_address(cache, tmp_path, medal):
    with pytest.raises(CacheMismatch, match="'by' holds an e-mail address"):
        medal("push", cache.path, tmp_path / "store", "--yes", "--as", "ana@example.org")


def test_real_caches_may_go(small_cache, tmp_path, medal):
    assert medal("push", small_cache, tmp_path / "store", "--yes")["action"] == "pushed"


def test_so_may_a_reprobed_one_and_one_of_a_device_that_ran_out_of_memory(small_cache, tmp_path, medal):
    medal("reprobe", small_cache, tmp_path / "other.zarr", "--folds", 3)
    other = open_cache(tmp_path / "other.zarr")
    halved = remade(other, tmp_path / "halved.zarr", lambda raw: raw["teacher"].update(smallest_forward=8))
    for path in (other.path, halved.path):
        medal("push", path, tmp_path / "store", "--yes")


def test_nothing_in_a_store_names_machine_or_user(cache, tmp_path, medal):
    import getpass
    import socket

    medal("push", cache.path, tmp_path / "store", "--yes")
    content = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*.json*"))
    assert socket.gethostname().encode() not in content
    assert f'"{getpass.getuser()}"'.encode() not in content
    assert str(tmp_path).encode() not in content


# ── Signatures ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def keys(tmp_path):
    """Keys of two members, and a file that allows the first."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    for name in ("ana", "eve"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (tmp_path / "signers").write_text(f"ana {(tmp_path / 'ana.pub').read_text()}")
    return tmp_path


@pytest.mark.parametrize(
    ("key", "revoked", "refusal"),
    [
        ("ana", False, None),
        (None, False, "is not signed, and .* requires a signature"),
        ("eve", False, "has no valid signature of anyone in"),
        ("ana", True, "may be unknown or revoked"),
    ],
)
def test_signers(key, revoked, refusal, cache, keys, medal, tmp_path):
    medal("push", cache.path, tmp_path / "store", "--yes", *(("--sign", keys / key) if key else ()))
    words = ["pull", "chest", tmp_path / "store", tmp_path / "got.zarr", "--signers", keys / "signers"]
    if revoked:
        words += ["--revoked", keys / "ana.pub"]
    if refusal:
        with pytest.raises(CacheMismatch, match=refusal):
            medal(*words)
        assert not (tmp_path / "got.zarr").exists()
        # Who names no signers takes it on their own judgement.
        medal(*words[:4])
        found = refused_verdict(tmp_path / "got.zarr", *words[4:])
        assert (found["ok"], len(found["problems"])) == (False, 1)
        return
    medal(*words)
    assert whole(tmp_path / "got.zarr").seal == cache.seal
    assert medal("verify", tmp_path / "got.zarr", "--signers", keys / "signers")["ok"]


def refused_verdict(*words):
    """Verify, which says its verdict by its exit status as well."""
    import contextlib
    import io
    import json

    from medal.cli import group

    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        group.main(["verify", *map(str, words), "--json"], prog_name="medal", standalone_mode=False)
    return json.loads(out.getvalue().splitlines()[-1])


@pytest.fixture
def signed(small_cache, keys, medal, tmp_path, monkeypatch):
    """A store with the real small cache, signed by whom the parameter of the test names."""
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))

    def push(key):
        medal("push", small_cache, tmp_path / "store", "--yes", *(("--sign", keys / key) if key else ()))
        return tmp_path / "store"

    return push


@pytest.mark.parametrize(
    ("key", "revoked", "refusal"),
    [
        ("ana", False, None),
        (None, False, "is not signed"),
        ("eve", False, "has no valid signature of anyone in"),
        ("ana", True, "may be unknown or revoked"),
    ],
)
def test_whatever_takes_from_a_store_asks_who_signed(
    key, revoked, refusal, signed, small_cache, small_npz, small_request, keys, medal, tmp_path
):
    store = signed(key)
    trust = ("--signers", keys / "signers", *(("--revoked", keys / "ana.pub") if revoked else ()))
    name = f"{store}#chest"
    commands = [
        ("show", name),
        ("train-student", name, small_npz, "--out", tmp_path / "run", "--dry-run"),
        ("cache-teacher", small_npz, tmp_path / "mine.zarr", *small_request, "--store", store),
    ]
    for words in commands:
        if refusal is None:
            assert medal(*words, *trust)
        else:
            with pytest.raises(CacheMismatch, match=refusal):
                medal(*words, *trust)
            assert not (tmp_path / "mine.zarr").exists()
    if refusal is None:
        assert whole(tmp_path / "mine.zarr").seal == open_cache(small_cache).seal
    elif key is None:
        # A copy that was taken on one's own judgement is not believed either.
        medal("show", name)
        with pytest.raises(CacheMismatch, match=refusal):
            medal("show", name, *trust)
        # Features of it are no better than itself: the images are computed.
        made = medal(*commands[2], "--folds", 3, "--limit", 30, *trust)
        assert (made["action"], made["computed"]) == ("create", 90)


def test_who_published_first_unsigned_keeps_nobody_from_what_was_signed(cache, keys, medal, tmp_path):
    other = make_cache(tmp_path / "other.zarr", rounding=0.25)
    medal("push", other.path, tmp_path / "store", "--yes")
    medal("push", cache.path, tmp_path / "store", "--yes", "--sign", keys / "ana")
    medal("pull", "chest", tmp_path / "store", tmp_path / "got.zarr", "--signers", keys / "signers")
    assert whole(tmp_path / "got.zarr").seal == cache.seal
    medal("pull", "chest", tmp_path / "store", tmp_path / "first.zarr")
    assert whole(tmp_path / "first.zarr").seal == other.seal


def test_a_project_does_not_say_whom_to_believe(shell, tmp_path):
    (tmp_path / "medal.toml").write_text("[cache-teacher]\nsigners = 'theirs'\n")
    refused = shell("cache-teacher", "phantom", "--dry-run", cwd=tmp_path)
    assert (refused.returncode, "this option is not allowed in a file" in refused.stderr) == (1, True)


def test_a_signature_of_another_cache_counts_for_nothing(cache, keys, medal, tmp_path):
    assert cache.path == tmp_path / "chest.zarr"
    make_cache(tmp_path / "other.zarr", 1, name="other")
    for name in ("chest", "other"):
        medal("push", tmp_path / f"{name}.zarr", tmp_path / "store", "--yes", "--sign", keys / "ana")
    one, other = (
        next((tmp_path / "store/sets").glob(f"{open_cache(tmp_path / f'{name}.zarr').content_digest}.*/*.sig"))
        for name in ("chest", "other")
    )
    one.write_bytes(other.read_bytes())
    with pytest.raises(CacheMismatch, match="has no valid signature of anyone in"):
        medal("pull", "chest", tmp_path / "store", tmp_path / "got.zarr", "--signers", keys / "signers")


def test_what_was_pushed_unsigned_can_be_signed_later(cache, keys, medal, tmp_path):
    medal("push", cache.path, tmp_path / "store", "--yes", "--sign", keys / "eve")
    assert medal("push", cache.path, tmp_path / "store", "--sign", keys / "ana")["action"] == "there"
    medal("pull", "chest", tmp_path / "store", tmp_path / "got.h5", "--signers", keys / "signers")


def test_no_key_and_no_file_of_signers(cache, keys, medal, tmp_path):
    with pytest.raises(CacheError, match=r"Key '.*nokey' cannot sign .* give the file of an SSH private key"):
        medal("push", cache.path, tmp_path / "store", "--yes", "--sign", keys / "nokey")
    medal("push", cache.path, tmp_path / "store", "--yes", "--sign", keys / "ana")
    with pytest.raises(CacheError, match="There is no file of signers"):
        medal("pull", "chest", tmp_path / "store", tmp_path / "got.h5", "--signers", keys / "nofile")
