"""A store that somebody tampered with: each way is refused with its own sentence, and nothing is taken over."""

import json
import os
import shutil

import pytest
from store_cases import make_cache

from medal.cache.errors import CacheCorrupt, CacheMismatch, CacheNotFound
from medal.cache.format.digest import canonical_json
from medal.cache.store.place.layout import PART_BYTES, parse_entry, parse_entry_name, sha256_hex


@pytest.fixture(scope="module")
def sound(tmp_path_factory, medal):
    """A store of two caches, not to be changed."""
    folder = tmp_path_factory.mktemp("sound")
    for seed, name in enumerate(("chest", "breast")):
        medal("push", "--yes", make_cache(folder / f"{name}.zarr", seed, name=name).path, folder / "store")
    return folder / "store"


@pytest.fixture
def store(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "store")


@pytest.fixture
def pull(store, medal, tmp_path):
    """Pull a cache and see that nothing of it stays if that is refused."""

    def run(name="chest"):
        out = tmp_path / "out" / "got.zarr"
        try:
            return medal("pull", name, store, out)
        finally:
            assert not out.exists()

    return run


def entry_of(store, name):
    for path in filter(lambda path: parse_entry_name(path.name), (store / "entries").iterdir()):
        entry = parse_entry(path.read_bytes(), "entry")
        if entry.summary["dataset"] == name:
            return path, entry
    raise AssertionError(name)


def set_of(store, name):
    return store / "sets" / entry_of(store, name)[1].set


def part_of(store, name):
    (part,) = set_of(store, name).glob("*.part")
    return part


def rewrite(store, name, **changes):
    """Write an entry anew, in the index as well, as somebody would who may write to the store."""
    path, _ = entry_of(store, name)
    raw = json.loads(path.read_bytes()) | changes
    path.write_bytes(canonical_json(raw))
    (store / "index.jsonl").unlink()
    return raw


def test_a_flipped_byte(store, pull):
    part = part_of(store, "chest")
    data = bytearray(part.read_bytes())
    data[99] ^= 1
    part.write_bytes(data)
    with pytest.raises(CacheCorrupt, match=r"'sets/.*\.part' of store .* does not have the SHA-256 that was published"):
        pull()


def test_swapped_objects(store, pull):
    one, other = part_of(store, "chest"), part_of(store, "breast")
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    for name in ("chest", "breast"):
        with pytest.raises(CacheCorrupt, match="was damaged or exchanged"):
            pull(name)


def test_swapped_manifests(store, pull):
    shutil.copy(set_of(store, "breast") / "manifest.json", set_of(store, "chest") / "manifest.json")
    with pytest.raises(CacheCorrupt, match=r"manifest\.json' of store .* does not have the SHA-256"):
        pull()


def test_an_entry_under_another_ones_name(store, medal, capsys):
    one, other = entry_of(store, "chest")[0], entry_of(store, "breast")[0]
    one.write_bytes(other.read_bytes())
    (store / "index.jsonl").unlink()
    found = medal("list", store)
    assert [cache["dataset"] for cache in found["caches"]] == ["breast"]
    assert "was redirected: it says that it is" in found["problems"][0]
    assert "was redirected" in capsys.readouterr().err


def test_an_entry_that_leads_to_another_cache(store, pull):
    """The whole set is another cache's, and every digest of the entry that can be is made to fit."""
    other = entry_of(store, "breast")[1]
    shutil.rmtree(set_of(store, "chest"))
    shutil.copytree(set_of(store, "breast"), set_of(store, "chest"))
    rewrite(store, "chest", manifest_sha256=other.manifest_sha256, listing_sha256=other.listing_sha256)
    with pytest.raises(CacheCorrupt, match=r"was redirected: its entry leads to cache"):
        pull()


def test_a_cache_that_claims_the_id_of_another_request(store, pull):
    """Forged through and through: the manifest itself claims the id."""
    folder, entry = set_of(store, "chest"), entry_of(store, "chest")[1]
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["request"]["seed"] = 99
    data = canonical_json(manifest)
    (folder / "manifest.json").write_bytes(data)
    rewrite(store, "chest", manifest_sha256=sha256_hex(data))
    with pytest.raises(CacheCorrupt, match=r"has the wrong id"):
        pull(entry.cache_id)


def test_arrays_that_are_not_the_manifests(store, pull):
    """Parts and listing agree with each other and with the entry, and not with the manifest's digests."""
    folder = set_of(store, "chest")
    data = bytes(part_of(store, "chest").stat().st_size)
    part_of(store, "chest").unlink()
    (folder / f"{sha256_hex(data)}.part").write_bytes(data)
    listing = canonical_json({"medal_store": 1, "parts": [[sha256_hex(data), len(data)]]})
    (folder / "listing.json").write_bytes(listing)
    rewrite(store, "chest", listing_sha256=sha256_hex(listing))
    with pytest.raises(CacheCorrupt, match=r"does not match its manifest; nothing was pulled"):
        pull()


@pytest.mark.parametrize(
    "name", ["../../escaped.json", "..", "evil\nname.json", "x" * 200, f"{'a' * 32}.{'b' * 64}.{'..':0<16}.json"]
)
def test_names_of_no_entry_are_told_and_left_alone(name, store, medal, pull):
    if "/" not in name and name != "..":
        (store / "entries" / name).write_bytes(b"{}")
        assert any("is no entry of a store; left alone" in problem for problem in medal("list", store)["problems"])
    raw = rewrite(store, "chest", token=name)
    assert any("16 hexadecimal digits in 'token'" in problem for problem in medal("list", store)["problems"])
    (store / "index.jsonl").write_bytes(canonical_json(raw) + b"\n")
    with pytest.raises(CacheNotFound, match="has no cache 'chest'"):
        pull()


def test_dots_in_a_listing(store, pull):
    listing = canonical_json({"medal_store": 1, "parts": [["../../secret", 12]]})
    (set_of(store, "chest") / "listing.json").write_bytes(listing)
    rewrite(store, "chest", listing_sha256=sha256_hex(listing))
    with pytest.raises(CacheCorrupt, match=r"should have 64 hexadecimal digits in 'parts', got '../../secret'"):
        pull()


def test_a_symbolic_link_for_a_part(store, pull, tmp_path):
    part = part_of(store, "chest")
    shutil.move(part, tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheCorrupt, match="is a symbolic link"):
        pull()


def test_a_symbolic_link_for_a_set(store, pull, tmp_path):
    folder = set_of(store, "chest")
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheCorrupt, match="is a symbolic link"):
        pull()


def test_a_pipe_is_not_waited_for(store, pull):
    part = part_of(store, "chest")
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(CacheCorrupt, match="is a pipe"):
        pull()


def test_a_part_that_has_grown(store, pull):
    with part_of(store, "chest").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(CacheCorrupt, match=r"is 1099511627776 bytes long; expected at most"):
        pull()


def test_a_listing_of_more_than_the_arrays_have(store, pull):
    parts = [["0" * 64, PART_BYTES]] * 3000
    listing = canonical_json({"medal_store": 1, "parts": parts})
    (set_of(store, "chest") / "listing.json").write_bytes(listing)
    rewrite(store, "chest", listing_sha256=sha256_hex(listing), size=3000 * PART_BYTES)
    with pytest.raises(CacheCorrupt, match=r"lists parts of 50331648000 bytes, but its arrays have .* nothing was"):
        pull()


def test_nested_json_is_refused(store, medal):
    path, _ = entry_of(store, "chest")
    path.write_bytes(b'{"medal_store":' + b"[" * 10000 + b"]" * 10000 + b"}")
    (store / "index.jsonl").unlink()
    assert any("nested deeper" in problem for problem in medal("list", store)["problems"])


def test_a_newer_store_says_what_to_do(store, medal, pull):
    rewrite(store, "chest", medal_store=2)
    assert any("pip install --upgrade" in problem for problem in medal("list", store)["problems"])
    (store / "medal-store.json").write_bytes(b'{"medal_store":7}')
    with pytest.raises(CacheMismatch, match="has version 7; this medal reads version 1: pip install --upgrade"):
        pull()
