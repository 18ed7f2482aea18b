"""What may not be written is refused before the work; what cannot be cleared away after it is a warning. Real users."""

import json
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest
import student_squares
from store_cases import make_cache

# The users, their folders and commands are those of the tests of stores.
from test_store_members import ANA, BEN, LAB, LIBRARIES, QUICK, as_user, lab, pytestmark, python_for_all, room, run  # noqa: F401

from medal.cache.errors import MedalError
from medal.cache.machine.permission import require_place
from medal.cache.making.writer import beside, move_into_place
from medal.cache.progress import Alert


@pytest.fixture
def squares(room):  # noqa: F811
    folder = room / "squares"
    folder.mkdir()
    folder.chmod(0o755)
    student_squares.furnish(folder)
    return folder


def words(squares, out):
    return ("train-student", squares / "squares.zarr", squares / "squares.npz", "--out", out, *QUICK)


def test_a_colleagues_run_is_added_to_in_a_shared_folder(lab, squares, as_user):  # noqa: F811
    as_user(ANA, *words(squares, lab / "run"))
    assert all(path.stat().st_mode & stat.S_IWGRP for path in (lab / "run", *(lab / "run").rglob("*")))
    added = as_user(BEN, *words(squares, lab / "run"), "--baseline")
    assert added["action"] == "extend"
    assert added["baseline"] is not None
    assert sorted(path.name for path in lab.iterdir()) == ["run"]


def test_permission_is_checked_before_anything_is_trained(room, lab, squares, as_user):  # noqa: F811
    as_user(ANA, *words(squares, lab / "run"))
    subprocess.run(["chmod", "-R", "g-w", lab / "run"], check=True)
    for option in ("--baseline", "--overwrite"):
        done = run(BEN, room, *words(squares, lab / "run"), option)
        assert done.returncode == 1
        assert f"'{lab / 'run'}' cannot be written: '{lab / 'run'}' belongs to '{ANA}'" in done.stderr
        assert f"ask '{ANA}' to run: chmod" in done.stderr
        assert "epoch 1/" not in done.stderr
    assert sorted(path.name for path in lab.iterdir()) == ["run"]
    # Nothing to do is nothing to write.
    assert as_user(BEN, *words(squares, lab / "run"))["action"] == "reuse"


def test_a_cache_and_an_export_are_refused_before_the_work_as_well(room, squares):  # noqa: F811
    (room / "own").mkdir()
    begun = time.monotonic()
    cached = run(BEN, room, "cache-teacher", "phantom", room / "own/x.zarr", "--teacher", "nowhere")
    assert cached.returncode == 1
    reprobed = run(BEN, room, "export", squares / "run", "--out", room / "own/x.pt2", "--format", "exported-program")
    assert reprobed.returncode == 1
    assert f"'{room / 'own/x.pt2'}' cannot be written" in reprobed.stderr
    assert "Nothing was done" in reprobed.stderr
    assert time.monotonic() - begun < 120
    assert list((room / "own").iterdir()) == []


def test_the_sticky_bit_keeps_what_others_own(room):  # noqa: F811
    (room / "tmp").mkdir()
    (room / "tmp").chmod(0o1777)
    (room / "tmp/x").mkdir()
    (room / "tmp/x").chmod(0o777)
    script = "import sys, pathlib; from medal.cache.machine.permission import require_place\n"
    script += "require_place(pathlib.Path(sys.argv[1]))"
    asked = [python_for_all(), "-c", script, room / "tmp/x"]
    said = {"capture_output": True, "text": True, "env": {"PYTHONPATH": LIBRARIES}}
    done = subprocess.run(asked, user=BEN, group=LAB, check=False, **said)
    assert "in a folder with the sticky bit only its owner may replace it" in done.stderr
    require_place(room / "tmp/x")  # root may


def test_what_cannot_be_cleared_away_is_a_warning(tmp_path):
    target, draft, said = tmp_path / "run", tmp_path / "run.unfinished", []
    for folder in (target, draft):
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"of": folder.name}))
    mounted = target / "busy"
    mounted.mkdir()
    # A folder that something is mounted on, as one that a file server holds, cannot be removed.
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=False, capture_output=True).returncode:
        pytest.skip("needs a root that may mount")
    try:
        move_into_place(draft, target, said.append)
    finally:
        subprocess.run(["umount", beside(target, "replaced") / "busy"], check=True)
    assert json.loads((target / "run.json").read_text()) == {"of": "run.unfinished"}
    assert len(said) == 1
    assert isinstance(said[0], Alert)
    assert "is finished, but its former content could not be removed" in said[0]
    move_into_place(_make(tmp_path / "again"), target, said.append)
    assert len(said) == 1
    assert not beside(target, "replaced").exists()


def _make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_what_is_written_alone_is_refused_by_name(tmp_path):
    make_cache(tmp_path / "chest.zarr")
    require_place(tmp_path / "chest.zarr")
    require_place(tmp_path / "new/deeper/chest.zarr")
    if os.geteuid() != 0:
        tmp_path.chmod(0o555)
        with pytest.raises(MedalError, match="cannot be written"):
            require_place(tmp_path / "chest.zarr")
