"""Which HDF5 files are opened here: our own, and what a child process with bounded means has inspected."""

import json
import shutil
from pathlib import Path

import pytest

from medal.cache.convert import convert
from medal.cache.errors import CacheCorrupt, CacheError
from medal.cache.format import hdf5_trust
from medal.cache.format.hdf5_trust import ensure_trusted, inspect_in_child, trust
from medal.cache.format.inspect_hdf5 import inspect
from medal.cache.reader import open_cache
from medal.cache.verify import verify_path

GOLDEN = Path(__file__).parent / "golden"
NOWHERE = Path("nowhere.h5")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def record(home) -> Path:
    return home / "trusted" / "hdf5.json"


def forget() -> None:
    """What a new process knows."""
    hdf5_trust._trusted_here.clear()


def body_of(path: Path) -> str:
    return json.loads(path.read_bytes()[:1024].partition(b"\n")[0])["body_sha256"]


def test_a_strangers_file_is_inspected_once_a_machine(record, tmp_path):
    forget()
    copy = tmp_path / "copy.h5"
    shutil.copyfile(GOLDEN / "format1.h5", copy)
    with pytest.raises(CacheCorrupt, match="refused before it was opened"):
        ensure_trusted(NOWHERE, body_of(copy))
    assert verify_path(copy) == []
    assert json.loads(record.read_bytes())["bodies"] == [body_of(copy)]
    forget()
    ensure_trusted(NOWHERE, body_of(copy))


def test_our_own_file_needs_no_inspection(record, tmp_path):
    made = convert(open_cache(GOLDEN / "format1.zarr"), tmp_path / "own.h5")
    assert body_of(made.path) in json.loads(record.read_bytes())["bodies"]
    forget()
    ensure_trusted(NOWHERE, body_of(made.path))
    inspect(str(made.path))


def test_the_record_stays_small_and_keeps_the_latest(record):
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"rules": 1, "bodies": [str(index) for index in range(5000)]}))
    trust("latest")
    bodies = json.loads(record.read_bytes())["bodies"]
    assert len(bodies) == 1000
    assert bodies[-2:] == ["4999", "latest"]
    assert list(record.parent.iterdir()) == [record]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"rules":1,"bodies":7}', b'{"rules":0,"bodies":["x"]}', b"\xff"]
)
def test_a_damaged_record_is_no_record(record, content):
    forget()
    record.parent.mkdir(parents=True)
    record.write_bytes(content)
    with pytest.raises(CacheCorrupt):
        ensure_trusted(NOWHERE, "x")
    trust("y")
    assert json.loads(record.read_bytes())["bodies"] == ["y"]


def test_a_home_that_cannot_be_written_is_no_error(home):
    forget()
    home.write_bytes(b"a file where the folder would be")
    assert verify_path(GOLDEN / "format1.h5") == []
    assert home.read_bytes() == b"a file where the folder would be"


@pytest.mark.parametrize(
    ("script", "kind", "sentence"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", CacheCorrupt, r"libhdf5 crashed on it.*signal 11"),
        ("while True: pass", CacheCorrupt, r"did not finish reading it within 1 s"),
        ("print('x' * 10_000_000)", CacheCorrupt, r"did not finish reading it within 1 s"),
        ("import sys; print('a' * 9000 + chr(27)); sys.exit(3)", CacheCorrupt, r"opened: a{4096}\."),
        ("import no_such_library", CacheError, r"the inspecting process ended with 1"),
    ],
)
def test_a_child_that_fails(tmp_path, script, kind, sentence):
    file = tmp_path / "script.py"
    file.write_text(script)
    # A slow start must not look like the endless loop it stands beside.
    seconds = 1 if "1 s" in sentence else 60
    with pytest.raises(CacheError, match=sentence) as raised:
        inspect_in_child(GOLDEN / "format1.h5", script=file, seconds=seconds)
    assert raised.type is kind


def test_the_child_has_bounded_means(tmp_path):
    pytest.importorskip("resource")
    file = tmp_path / "script.py"
    file.write_text(
        "import sys\n"
        "from medal.cache.format.inspect_hdf5 import _limit_means\n"
        "_limit_means()\n"
        "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('no memory'); sys.exit(3)\n"
    )
    if Path("/proc/self/statm").exists():
        with pytest.raises(CacheCorrupt, match="no memory"):
            inspect_in_child(GOLDEN / "format1.h5", script=file)
    file.write_text(
        "from medal.cache.format.inspect_hdf5 import _limit_means\n"
        "_limit_means()\nopen(__file__, 'r+b', 0).write(b'x')\n"
    )
    with pytest.raises(CacheError, match="the inspecting process ended with 1"):
        inspect_in_child(GOLDEN / "format1.h5", script=file)
