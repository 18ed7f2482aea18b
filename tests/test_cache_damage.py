"""Damage is always reported: bytes flipped, files truncated, files deleted, over both forms of a cache."""

import errno
import json
import shutil
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from medal.cache.errors import CacheCorrupt, CacheError, CacheNotFound
from medal.cache.format.forms import reading
from medal.cache.making.life import holds_others
from medal.cache.reader import open_cache
from medal.cache.verify import verify_path

GOLDEN = Path(__file__).parent / "golden"
DRAWS = pytest.mark.parametrize("draws", [60, pytest.param(1200, marks=pytest.mark.slow)])
LENGTHS = pytest.mark.parametrize("lengths", [2, pytest.param(20, marks=pytest.mark.slow)])


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))


@pytest.fixture(params=[".zarr", ".h5"])
def copy(request, tmp_path) -> Path:
    path = tmp_path / f"copy{request.param}"
    (shutil.copytree if path.suffix == ".zarr" else shutil.copyfile)(GOLDEN / f"format1{path.suffix}", path)
    assert verify_path(path) == []
    return path


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def read_raw(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays with the library of the form alone."""
    names = [
        "probe/weight",
        "probe/bias",
        *(
            f"{split}/{column}"
            for split in ("train", "val", "test")
            for column in ("key", "label", "logits", "view", "view_check", "domain", "group", "fold", "feature")
        ),
    ]
    if path.suffix == ".zarr":
        group = zarr.open_group(path, mode="r")
        return {name: np.asarray(group[name][:]) for name in names}
    with h5py.File(path) as file:
        return {name: file[name][:] for name in names}


def flips(files: list[Path], draws: int, seed: int):
    """Draw (file, offset, mask): half of the places uniform by byte, half by file."""
    rng = np.random.default_rng(seed)
    sizes = np.array([file.stat().st_size for file in files])
    for draw in range(draws):
        index = rng.choice(len(files), p=sizes / sizes.sum()) if draw % 2 else rng.integers(len(files))
        yield files[index], int(rng.integers(sizes[index])), int(rng.integers(1, 256))


@DRAWS
def test_a_flipped_byte_is_reported_or_harmless(copy, draws, seed):
    original = read_raw(copy)
    unreported = 0
    for file, offset, mask in flips(files_of(copy), draws, seed):
        content = file.read_bytes()
        file.write_bytes(content[:offset] + bytes([content[offset] ^ mask]) + content[offset + 1 :])
        if not verify_path(copy):
            unreported += 1
            for name, array in read_raw(copy).items():
                np.testing.assert_array_equal(array, original[name], err_msg=f"{file} {offset} {mask}")
        file.write_bytes(content)
    assert verify_path(copy) == []
    # What is left are blanks in zarr.json that became other blanks.
    assert unreported <= draws // 50


@LENGTHS
def test_a_truncated_file_is_reported(copy, lengths, seed):
    rng = np.random.default_rng(seed)
    for file in files_of(copy):
        content = file.read_bytes()
        for length in {0, len(content) - 1, *rng.integers(len(content), size=lengths - 2).tolist()}:
            file.write_bytes(content[:length])
            assert verify_path(copy), f"{file} cut to {length} of {len(content)} bytes"
        file.write_bytes(content)
    assert verify_path(copy) == []


def test_a_deleted_file_is_reported(copy):
    for file in files_of(copy):
        content = file.read_bytes()
        file.unlink()
        problems = verify_path(copy)
        assert problems, file
        assert copy.suffix == ".h5" or file.name in problems[0] or file.name.isdigit() or file.name == "seal.json"
        file.write_bytes(content)
    assert verify_path(copy) == []


def test_bytes_appended_to_a_file_are_reported(copy):
    for file in files_of(copy)[::4]:
        content = file.read_bytes()
        file.write_bytes(content + b"\0")
        assert verify_path(copy), file
        file.write_bytes(content)


def test_every_problem_is_named(tmp_path):
    path = tmp_path / "copy.zarr"
    shutil.copytree(GOLDEN / "format1.zarr", path)
    (path / "train/key/c/1/0").unlink()
    (path / "val/label/c/0").write_bytes(b"\7" * (path / "val/label/c/0").stat().st_size)
    (path / "notes.txt").write_bytes(b"mine")
    (path / ".DS_Store").write_bytes(b"the finder's, which comes and goes unasked")
    hidden = path / "train/view_check/c/1/0/0"
    hidden.write_bytes(hidden.read_bytes()[:-1] + b"x")
    sentences = "\n".join(verify_path(path))
    for problem in ("notes.txt", "'train/key' lacks chunk 1", "'val/label' does not", "'train/view_check' hides bytes"):
        assert problem in sentences
    assert ".DS_Store" not in sentences


SYSTEM_FILES = [
    ".DS_Store",
    "._seal.json",
    "Thumbs.db",
    "thumbs.db",
    "desktop.ini",
    "Desktop.ini",
    ".directory",
    ".localized",
    ".nfs000000000abc",
    ".fuse_hidden0000000100000001",
    ".smbdeleteAAA1",
    "seal.json@SynoEAStream",
]
SYSTEM_FOLDERS = ["@eaDir", "#recycle", ".snapshot", "lost+found", "__MACOSX", ".AppleDouble", ".Trash-1000", ".zfs"]


@pytest.mark.parametrize("where", ["", "train", "train/feature", "train/feature/c", "train/feature/c/0"])
def test_what_systems_leave_in_a_cache_is_passed_over(where, tmp_path):
    path = tmp_path / "copy.zarr"
    shutil.copytree(GOLDEN / "format1.zarr", path)
    for name in SYSTEM_FILES:
        (path / where / name).write_bytes(b"the file server's")
    for name in SYSTEM_FOLDERS:
        (path / where / name).mkdir()
        (path / where / name / "0").write_bytes(b"the file server's")
    assert verify_path(path) == []
    assert holds_others(path) is False  # so that a command may still replace it


def test_the_name_of_a_system_file_hides_nothing_else(tmp_path):
    path = tmp_path / "copy.zarr"
    shutil.copytree(GOLDEN / "format1.zarr", path)
    (path / "Thumbs.db").mkdir()
    (path / "@eaDir").write_bytes(b"a file of that name")
    (path / ".snapshot").symlink_to(path / "train")
    (path / "my.DS_Store").write_bytes(b"mine")
    (path / "my@eaDir").mkdir()
    sentences = "\n".join(verify_path(path))
    for name in ("Thumbs.db", "@eaDir", ".snapshot", "my.DS_Store", "my@eaDir"):
        assert f"'{name}'" in sentences
    assert holds_others(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # zarr finds no group in seal.json
@pytest.mark.parametrize("group", [None, "train"])
def test_a_cache_whose_metadata_was_consolidated_is_whole(group, tmp_path):
    path = tmp_path / "copy.zarr"
    shutil.copytree(GOLDEN / "format1.zarr", path)
    zarr.consolidate_metadata(path, path=group)
    assert "consolidated_metadata" in json.loads((path / (group or "") / "zarr.json").read_text())
    assert verify_path(path) == []
    with open_cache(path).open_arrays() as arrays:
        assert arrays["train/key"].shape[1] == 16


@pytest.mark.filterwarnings("ignore::UserWarning")  # zarr finds no group in seal.json
@pytest.mark.parametrize(
    ("member", "field", "value"),
    [("train/label", "shape", [1]), ("train", "attributes", {"a": 1}), ("train/label", "codecs", [{"name": "gzip"}])],
)
def test_consolidated_metadata_that_says_something_else_is_reported(member, field, value, tmp_path):
    path = tmp_path / "copy.zarr"
    shutil.copytree(GOLDEN / "format1.zarr", path)
    zarr.consolidate_metadata(path)
    raw = json.loads((path / "zarr.json").read_text())
    raw["consolidated_metadata"]["metadata"][member][field] = value
    (path / "zarr.json").write_text(json.dumps(raw))
    (problem,) = verify_path(path)
    assert f"'{member}' differently from its own metadata; consolidate again" in problem
    raw["consolidated_metadata"]["metadata"] = {"../other": {}, "extra": {}}
    (path / "zarr.json").write_text(json.dumps(raw))
    assert len(verify_path(path)) == 2


# All errors of zarr, the builtin ones that h5py and zarr raise on damage, and those of the system; with ours.
MAPPED = {
    **dict.fromkeys(
        [
            *(
                value
                for value in vars(zarr.errors).values()
                if isinstance(value, type) and issubclass(value, Exception)
            ),
            *(OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, NotImplementedError),
            *(OverflowError, EOFError, AssertionError, ZeroDivisionError, RecursionError, struct.error),
            *(json.JSONDecodeError, UnicodeDecodeError, NotADirectoryError, IsADirectoryError, StopIteration),
        ],
        CacheCorrupt,
    ),
    FileNotFoundError: CacheCorrupt,
    PermissionError: CacheError,
    MemoryError: CacheError,
    TimeoutError: CacheError,
}
ARGUMENTS = {
    json.JSONDecodeError: ("damaged", "{", 0),
    UnicodeDecodeError: ("utf-8", b"\xff", 0, 1, "damaged"),
    TimeoutError: (errno.ETIMEDOUT, "damaged"),
}


@pytest.mark.parametrize("kind", MAPPED, ids=lambda kind: kind.__name__)
def test_every_error_of_the_libraries_becomes_ours(kind, tmp_path):
    error = kind(*ARGUMENTS.get(kind, ("damaged",)))
    with pytest.raises(CacheError) as raised, reading(tmp_path):
        raise error
    assert raised.type is MAPPED[kind]
    assert raised.value.__cause__ is error
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("number", ["EIO", "ESTALE", "ENOTCONN"])
def test_a_failing_disk_is_not_damage(number, tmp_path):
    with pytest.raises(CacheError, match="The disk or file server failed") as raised, reading(tmp_path):
        raise OSError(getattr(errno, number), "lost")
    assert raised.type is CacheError


def test_what_is_gone_is_not_found(tmp_path):
    with pytest.raises(CacheNotFound), reading(tmp_path / "gone.zarr"):
        raise FileNotFoundError("gone.zarr")


def test_an_error_of_the_callers_own_is_left_alone():
    cache = open_cache(GOLDEN / "format1.zarr")
    with pytest.raises(OSError, match="No space") as raised, cache.open_arrays():
        raise OSError(errno.ENOSPC, "No space left")
    assert not isinstance(raised.value, CacheError)


@pytest.mark.parametrize("name", ["copy.zarr", "copy.h5"])
@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"{}\n", b"PK\3\4" * 1000, bytes(4096)])
def test_what_is_no_cache_at_all(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert len(verify_path(tmp_path / name)) == 1


@pytest.mark.parametrize("name", ["copy.zarr", "copy.h5"])
def test_an_empty_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    assert len(verify_path(tmp_path / name)) == 1
