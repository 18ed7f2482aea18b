"""Fuzzed manifests and caches: an error of our own tree or a valid cache, nothing else.

Cases that were found stand in REGRESSIONS, and as caches in tests/hostile.
"""

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from medal.cache.errors import CacheError
from medal.cache.format.manifest import parse_manifest
from medal.cache.making.life import differences
from medal.cache.verify import verify_path
from medal.pipeline.commands.show import show

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden/format1.zarr"
MANIFEST = (GOLDEN / "manifest.json").read_bytes()
SMALL = settings(
    max_examples=1000, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
FULL = settings(SMALL, max_examples=50_000, derandomize=False, print_blob=True)
# What the parser let through before these tests were written: numbers that JSON cannot write again, text that UTF-8
# cannot, numbers equal to others in Python alone, and what the commands took for granted.
REGRESSIONS = (
    b'{"format":1,"x":1e999}',
    b'{"format":1,"x":"\\ud800"}',
    MANIFEST.replace(b'"shape":[6,16]', b'"shape":[6.0,16]'),
    MANIFEST.replace(b'"shape":[6,1,2]', b'"shape":[6,true,2]'),
    MANIFEST.replace(b'"metrics":{', b'"metrics":"none","was":{'),
    MANIFEST.replace(b'"metrics":{', b'"metrics":{"x":1,'),
    MANIFEST.replace(b'"request":{"task":"multiclass"}', b'"request":[1]'),
    MANIFEST.replace(b'"excluded_classes":[]', b'"excluded_classes":7'),
    MANIFEST.replace(b'"name":"golden"', b'"name":"\\u001b[2J"'),
    MANIFEST.replace(b'"domains":["one","two"]', b'"domains":[]'),
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 3, 6, 2**31, 2**53, 2**63, 2**64, 10**30]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["train", "val", "float32", "object", "../x", "multilabel", "0" * 64, "\x1b[2J", "\u202e"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def places(value, path=()):
    """Every place in a JSON value, as the keys that lead there."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


PLACES = places(json.loads(MANIFEST))


@st.composite
def changed_manifests(draw):
    """The golden manifest with up to three places replaced, renamed or doubled."""
    raw = json.loads(MANIFEST)
    for *path, last in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
        holder = raw
        try:
            for key in path:
                holder = holder[key]
            if draw(st.booleans()):
                holder[last] = draw(values)
            elif isinstance(holder, dict):
                holder[draw(st.text(max_size=6))] = holder.pop(last)
            else:
                holder.append(holder[last])
        except (KeyError, IndexError, TypeError, AttributeError):
            continue
    return json.dumps(raw, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def changed_bytes(draw):
    """The golden manifest's text with a stretch of it replaced."""
    start = draw(st.integers(0, len(MANIFEST)))
    end = min(len(MANIFEST), start + draw(st.integers(0, 40)))
    return MANIFEST[:start] + draw(st.binary(max_size=12) | st.text(max_size=6).map(str.encode)) + MANIFEST[end:]


manifests = st.one_of(
    changed_manifests(), changed_manifests(), changed_bytes(), values.map(lambda v: json.dumps(v).encode()), st.binary()
)


def seal_of(manifest: bytes) -> bytes:
    """A right seal, for manifests that parse."""
    try:
        content = parse_manifest(manifest).content_digest
    except CacheError:
        content = "0" * 64
    seal = {"format": 1, "content_digest": content, "manifest_sha256": sha256(manifest).hexdigest()}
    return json.dumps(seal).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "cache.zarr"
    shutil.copytree(GOLDEN, path)
    return path


def check_manifest(manifest: bytes, folder: Path, thoroughly: bool | None = None) -> None:
    """Check one manifest, and of those that parse one in eight as the manifest of a cache."""
    try:
        parsed = parse_manifest(manifest)
    except CacheError:
        return
    assert parse_manifest(parsed.to_bytes()) == parsed
    assert differences(parsed.raw.get("request", {}), {"task": "multiclass"}) is not None
    if not (sha256(manifest).digest()[0] < 32 if thoroughly is None else thoroughly):
        return
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "seal.json").write_bytes(seal_of(manifest))
    assert all(isinstance(problem, str) for problem in verify_path(folder))
    for words in ([], ["--json"]):
        shown = CliRunner().invoke(show, [str(folder), *words])
        assert shown.exception is None, shown.exception
        assert "\x1b" not in shown.output


@pytest.mark.parametrize("manifest", [MANIFEST, *REGRESSIONS])
def test_manifests_that_were_let_through(manifest, folder):
    check_manifest(manifest, folder, thoroughly=True)


@given(manifest=manifests)
@SMALL
def test_fuzzed_manifests(folder, manifest):
    check_manifest(manifest, folder)


@pytest.mark.slow
@given(manifest=manifests)
@FULL
def test_many_fuzzed_manifests(folder, manifest):
    check_manifest(manifest, folder)


# The two files of an array that a Zarr reader believes: its metadata and its chunks.
METADATA = (GOLDEN / "train/key/zarr.json").read_bytes()


@st.composite
def changed_metadata(draw):
    raw = json.loads(METADATA)
    for *path, last in draw(st.lists(st.sampled_from(places(raw)), min_size=1, max_size=2)):
        holder = raw
        try:
            for key in path:
                holder = holder[key]
            holder[last] = draw(values)
        except (KeyError, IndexError, TypeError):
            continue
    if draw(st.booleans()):
        raw[draw(st.text(max_size=6))] = draw(values)
    return json.dumps(raw).encode()


def check_zarr(path: Path, metadata: bytes, chunk: bytes | None) -> None:
    original = (path / "train/key/c/0/0").read_bytes()
    (path / "train/key/zarr.json").write_bytes(metadata)
    (path / "train/key/c/0/0").write_bytes(original if chunk is None else chunk)
    try:
        problems = verify_path(path)
        assert problems or (json.loads(metadata)["shape"] == [6, 16] and chunk in (None, original))
        assert all(isinstance(problem, str) and len(problem) < 1000 for problem in problems)
    finally:
        (path / "train/key/zarr.json").write_bytes(METADATA)
        (path / "train/key/c/0/0").write_bytes(original)


@pytest.fixture(scope="module")
def fuzzed_zarr(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fuzzed") / "cache.zarr"
    shutil.copytree(GOLDEN, path)
    return path


@given(metadata=changed_metadata() | st.binary() | st.just(METADATA), chunk=st.none() | st.binary(max_size=80))
@example(metadata=METADATA.replace(b'"shape": [\n    6', b'"shape": [\n    6.0'), chunk=None)
@settings(SMALL, max_examples=100)
def test_fuzzed_zarr(fuzzed_zarr, metadata, chunk):
    check_zarr(fuzzed_zarr, metadata, chunk)


@pytest.mark.slow
@given(metadata=changed_metadata() | st.binary() | st.just(METADATA), chunk=st.none() | st.binary(max_size=80))
@settings(FULL, max_examples=5000)
def test_much_fuzzed_zarr(fuzzed_zarr, metadata, chunk):
    check_zarr(fuzzed_zarr, metadata, chunk)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each case needs a process of its own, made by fork")
@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_fuzzed_hdf5(count, seed, tmp_path):
    done = subprocess.run(
        [sys.executable, TESTS / "fuzz_readers.py", str(seed), str(count), tmp_path],
        capture_output=True,
        check=True,
        env={**os.environ, "MEDAL_HOME": str(tmp_path / "home")},
    )
    result = json.loads(done.stdout)
    assert result["found"] == []
    assert result["refused"] > count // 3
    assert np.sum([number for number in result.values() if isinstance(number, int)]) == count
