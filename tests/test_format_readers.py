"""The format's page is enough to write a reader: two that do not know medal read what it wrote."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import medal as library

ROOT = Path(__file__).resolve().parent.parent
READERS = ROOT / "docs/readers"


@pytest.fixture(scope="module")
def both_forms(medal, small_cache, tmp_path_factory):
    path = tmp_path_factory.mktemp("forms") / "chest.h5"
    medal("convert", small_cache, path)
    return small_cache, path


def expected(cache):
    opened = library.open_cache(cache)
    lines = [
        f"{split} {'x'.join(map(str, opened.manifest.arrays[f'{split}/logits'].shape))} "
        f"{opened.manifest.sha256[f'{split}/logits']}"
        for split in sorted(opened.splits)
    ]
    return [*lines, f"content_digest {opened.content_digest}"]


def run(*words, cwd):
    return subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def test_python_with_h5py_alone(both_forms, tmp_path):
    _, path = both_forms
    done = run(sys.executable, READERS / "read_cache.py", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected(path)
    assert set(re.findall(r"^import (\w+)", (READERS / "read_cache.py").read_text(), re.MULTILINE)) == {
        "hashlib",
        "json",
        "sys",
        "h5py",
    }


def test_python_refuses_a_changed_byte(both_forms, tmp_path):
    _, path = both_forms
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "changed.h5").write_bytes(changed)
    done = run(sys.executable, READERS / "read_cache.py", tmp_path / "changed.h5", cwd=tmp_path)
    assert done.returncode == 1
    assert "not what was sealed" in done.stderr


def test_javascript_with_zarrita(both_forms, tmp_path):
    path, _ = both_forms
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js and npm are not installed")
    shutil.copy(READERS / "read_cache.mjs", tmp_path)
    environment = {**os.environ, "npm_config_cache": str(tmp_path / "cache"), "npm_config_update_notifier": "false"}
    try:
        installed = subprocess.run(
            [npm, "install", "zarrita@0.7", "--no-audit", "--no-fund", "--fetch-retries=0"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm could not install zarrita within a minute")
    if installed.returncode:
        pytest.skip(f"npm cannot install zarrita here: {installed.stderr.strip()[-200:]}")
    done = run(node, "read_cache.mjs", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected(path)
    shutil.copytree(path, tmp_path / "changed.zarr")
    chunk = tmp_path / "changed.zarr/train/logits/c/0/0/0"
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    assert run(node, "read_cache.mjs", tmp_path / "changed.zarr", cwd=tmp_path).returncode == 1


@pytest.mark.parametrize("name", ["read_cache.py", "read_cache.mjs"])
def test_a_reader_is_short(name):
    assert len((READERS / name).read_text().splitlines()) <= 60


def test_the_page_names_every_array_and_what_a_manifest_must_have(small_cache):
    page = (ROOT / "docs/FORMAT.md").read_text(encoding="utf-8")
    opened = library.open_cache(small_cache)
    for path in opened.manifest.arrays:
        assert f"`{re.sub('^(train|val|test)/', 'SPLIT/', path)}`" in page
    assert "`content_digest`" in page
