"""Keys of files that were read before: looked up, and never believed of a file that has changed."""

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from medal.cache.keys import KeySecret, file_key
from medal.pipeline.datasets import DatasetOptions
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.datasets.pixels import files as module

OLD = 10  # seconds, longer than what counts as just changed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twelve images of three classes that nobody has touched for a while, and a home of their own."""
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))
    for number in range(12):
        place = tmp_path / "scans" / "abc"[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(place / f"{number}.png")
    return tmp_path / "scans"


@pytest.fixture
def later(monkeypatch):
    """Nobody can set a file's time of change, but the clock that it is compared with."""
    clock = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: clock() + OLD * 10**9)


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that were read for their key."""
    seen = []
    original = module._picture_key

    def counted(path, what, frame):
        seen.append(path.name)
        return original(path, what, frame)

    kept = {suffix: kind._replace(key=counted) for suffix, kind in module.FORMATS.items() if kind.facts is None}
    for suffix, kind in kept.items():
        monkeypatch.setitem(module.FORMATS, suffix, kind)
    return seen


def true_keys(folder):
    return {file_key(path.read_bytes()) for path in folder.rglob("*.png")}


def found_keys(folder, **options):
    return {key.tobytes() for key in open_dataset(str(folder), DatasetOptions(**options)).find_keys()[0]}


def memory_of(folder):
    (path,) = (folder.parent / "home/keys").iterdir()
    return path


@pytest.mark.usefixtures("later")
def test_a_second_time_nothing_is_read(folder, reads):
    assert found_keys(folder) == true_keys(folder)
    assert len(reads) == 12
    assert found_keys(folder) == true_keys(folder)
    assert len(reads) == 12


@pytest.mark.usefixtures("later")
def test_selections_and_tables_share_it(folder, reads):
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"a/{n}.png,{n % 2}\n" for n in range(0, 12, 3)))
    found_keys(folder)
    assert found_keys(folder, exclude_classes=("b",)) < true_keys(folder)
    assert found_keys(folder / "labels.csv") < true_keys(folder)
    assert len(reads) == 12


def same_size(path):
    path.write_bytes(path.read_bytes()[::-1])


def put_back_in_time(path):
    """As rsync --times and careful forgers do."""
    status = path.stat()
    same_size(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(path):
    draft = path.with_name("draft")
    draft.write_bytes(path.read_bytes()[::-1])
    draft.rename(path)


def swapped(path):
    other = path.with_name("3.png")
    path.rename(path.with_name("aside"))
    other.rename(path)
    path.with_name("aside").rename(other)


def linked_elsewhere(path):
    (path.parent.parent.parent / "elsewhere.png").write_bytes(b"other bytes")
    path.unlink()
    path.symlink_to(path.parent.parent.parent / "elsewhere.png")


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("change", [same_size, put_back_in_time, replaced, swapped, linked_elsewhere])
def test_a_changed_file_is_read_again(change, folder, reads):
    found_keys(folder)
    names = sorted(path for path in (folder / "a").iterdir())
    change(folder / "a/0.png")
    assert sorted(path for path in (folder / "a").iterdir()) == names
    dataset = open_dataset(str(folder))
    expected = [file_key((folder / name).read_bytes()) for name in dataset.images.names]
    assert [key.tobytes() for key in dataset.find_keys()[0]] == expected
    assert 12 < len(reads) <= 14


def test_what_was_changed_just_now_is_not_remembered(folder, reads):
    found_keys(folder)
    assert not (folder.parent / "home/keys").exists()
    found_keys(folder)
    assert len(reads) == 24


@pytest.mark.usefixtures("later")
def test_what_changes_while_it_is_read_is_not_remembered(folder, monkeypatch):
    original = module._picture_key

    def meanwhile(path, what, frame):
        key = original(path, what, frame)
        same_size(path)
        return key

    kind = module.FORMATS[".png"]
    monkeypatch.setitem(module.FORMATS, ".png", kind._replace(key=meanwhile))
    found_keys(folder)
    monkeypatch.setitem(module.FORMATS, ".png", kind)
    assert found_keys(folder) == true_keys(folder)


DAMAGE = {
    "empty": lambda _: b"",
    "cut": lambda data: data[:-7],
    "flipped": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "of another version": lambda data: data.replace(b"medal:keys:1", b"medal:keys:0"),
    "of something else": lambda data: os.urandom(len(data)),
}


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_memory_counts_for_nothing_and_is_made_anew(damage, folder, reads):
    found_keys(folder)
    memory = memory_of(folder)
    memory.write_bytes(DAMAGE[damage](memory.read_bytes()))
    assert found_keys(folder) == true_keys(folder)
    assert len(reads) == 24
    found_keys(folder)
    assert len(reads) == 24


@pytest.mark.usefixtures("later")
def test_a_home_that_cannot_be_written_changes_nothing(folder, monkeypatch):
    (folder.parent / "home").write_text("a file where a folder should be")
    assert found_keys(folder) == true_keys(folder)
    monkeypatch.setenv("MEDAL_HOME", "/proc/nowhere")
    assert found_keys(folder) == true_keys(folder)


@pytest.mark.usefixtures("later")
def test_no_name_stands_in_it_and_a_secret_is_none_of_its_business(folder, reads, tmp_path):
    (tmp_path / "lab.key").write_text("0123456789" * 4)
    secret = KeySecret.read(tmp_path / "lab.key")
    keyed = found_keys(folder, key_secret=secret)
    assert found_keys(folder) == true_keys(folder)
    assert len(reads) == 12
    content = memory_of(folder).read_bytes()
    assert b".png" not in content
    assert str(folder).encode() not in content
    assert not [key for key in keyed if key in content]


@pytest.mark.usefixtures("later")
def test_it_is_bounded(folder, monkeypatch):
    from medal.pipeline.datasets.pixels import key_memory

    found_keys(folder)
    first = memory_of(folder)
    os.utime(first, (1, 1))
    monkeypatch.setattr(key_memory, "_MOST_BYTES", 1000)
    monkeypatch.setattr(key_memory, "_MOST_BYTES_OF_ONE", 300)
    shutil.copytree(folder, folder.parent / "more")
    found_keys(folder.parent / "more")
    assert memory_of(folder) != first
    assert memory_of(folder).stat().st_size <= 300 + 64


# Asks for the same folder again and again, by a clock that has every file long unchanged.
ASK = """
import sys, time
from medal.cache.keys import file_key
from medal.pipeline.datasets import open_dataset
clock = time.time_ns
time.time_ns = lambda: clock() + 10 * 10**9
for _ in range(30):
    dataset = open_dataset(sys.argv[1])
    for name, key in zip(dataset.images.names, dataset.keys(), strict=True):
        assert bytes(key) == file_key((dataset.images.folder / name).read_bytes()), name
"""


def test_several_processes_at_once(folder):
    crowd = [subprocess.Popen([sys.executable, "-c", ASK, folder], stderr=subprocess.PIPE) for _ in range(3)]
    while any(process.poll() is None for process in crowd):
        for path in (folder.parent / "home/keys").glob("*.keys"):
            path.unlink(missing_ok=True)  # so that all of them go on writing it
    failed = [process.communicate()[1] for process in crowd]
    assert [process.returncode for process in crowd] == [0] * 3, failed
    assert [path.suffix for path in (folder.parent / "home/keys").iterdir() if path.suffix != ".keys"] == []
