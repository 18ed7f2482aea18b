"""The work directory and what is decided about it, without a teacher."""

import os
from pathlib import Path

import numpy as np
import pytest

from medal.cache.errors import CacheMismatch
from medal.cache.making.life import Found, decide, find_at
from medal.cache.making.work import ChunkedRows, WorkDirectory, work_path
from medal.cache.making.writer import put_back


@pytest.fixture
def work(tmp_path):
    directory = WorkDirectory(work_path(tmp_path / "x.zarr"))
    directory.begin({"cache_id": "a", "request": {"seed": 0}})
    return directory


def make_chunks(work, count, rows=4):
    record = np.dtype([("feature", "<f2", (1, 3))])
    files = []
    for index in range(count):
        chunk = np.zeros(rows, record)
        chunk["feature"] = index * rows + np.arange(rows)[:, None, None]
        files.append(work.write_chunk("train", index * rows, chunk))
    return files


def test_chunks_read_as_one_array(work):
    rows = ChunkedRows(make_chunks(work, 5), "feature")
    assert rows.shape == (20, 1, 3)
    for start, stop in ((0, 20), (3, 5), (4, 8), (7, 18), (19, 20), (6, 6)):
        np.testing.assert_array_equal(rows[start:stop][:, 0, 0], np.arange(start, stop))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to count open files")
def test_many_chunks_hold_no_files_open(work):
    files = make_chunks(work, 40)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a listing of descriptors, not of paths)
    fields = [ChunkedRows(files, "feature") for _ in range(3)]
    assert all(rows[0:160].shape == (160, 1, 3) for rows in fields)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


def test_unfinished_work_of_something_else_is_not_thrown_away_unasked(work, tmp_path):
    make_chunks(work, 2)
    found = find_at(tmp_path / "x.zarr")
    assert decide(found, "a", {"seed": 0}) == "resume"
    with pytest.raises(CacheMismatch, match=r"different unfinished cache: it differs in seed \(0, asked for: 1"):
        decide(found, "b", {"seed": 1})
    assert decide(found, "b", {"seed": 1}, overwrite=True) == "create"
    assert len(work.chunks()) == 2


def test_what_is_not_medals_is_never_touched(tmp_path):
    place = work_path(tmp_path / "x.zarr")
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    found = find_at(tmp_path / "x.zarr")
    for overwrite in (False, True):
        with pytest.raises(CacheMismatch, match="medal did not make it; move it away"):
            decide(found, "a", {}, overwrite=overwrite)
    assert (place / "notes.txt").read_text() == "mine"


def test_a_start_that_was_killed_is_no_stranger(tmp_path):
    place = work_path(tmp_path / "x.zarr")
    place.mkdir()
    (place / ".work.json.part").write_text("{")
    assert decide(find_at(tmp_path / "x.zarr"), "a", {}) == "create"


def test_a_replacement_killed_between_its_renames_is_undone(tmp_path):
    target = tmp_path / "x.zarr"
    (tmp_path / ".x.medal-replaced.zarr").mkdir()
    put_back(target)
    assert list(tmp_path.iterdir()) == [target]
    put_back(target)
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_there_is_created(tmp_path):
    assert decide(Found(target=tmp_path / "x.zarr"), "a", {}) == "create"


def test_counting_beside_a_writer_removes_nothing(work):
    make_chunks(work, 2)
    draft = work.path / ".train-000000008-4-0123456789abcdef.npy.part"
    draft.write_bytes(b"being written")
    assert work.count() == (2, 8)
    assert draft.exists()
