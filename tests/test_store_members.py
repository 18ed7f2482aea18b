"""One store and two real users of one group, under the usual umask; and places that can be read and not written."""

import grp
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from store_cases import make_cache, whole

from medal.cache.errors import StoreUnusable
from medal.cache.store.place.store import open_store
from medal.pipeline.teacher.demo import tiny_teacher

ANA, BEN, CLEO, LAB, OWN = 54001, 54002, 54003, 54100, 54200
# The one that runs, or one of its version that lies where every user gets at it.
PYTHONS = (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}")
# The link `.typing/medal` of `make`: what an editable install adds is not read off PYTHONPATH.
LIBRARIES = os.pathsep.join(
    [str(Path(__file__).resolve().parent.parent / ".typing"), *(path for path in sys.path if "site-packages" in path)]
)
pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be two users at once"
)
QUICK = ("--student", "test_resnet", "--epochs", 1, "--image-size", 32, "--workers", 0)


@pytest.fixture
def room():
    """A folder that every user of the machine can enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="medal-"))
    folder.chmod(0o755)
    for user in (ANA, BEN, CLEO):
        (folder / str(user)).mkdir()
        os.chown(folder / str(user), user, OWN)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def lab(room):
    """The folder that a PI makes: `mkdir caches; chgrp lab caches; chmod 2775 caches`."""
    (room / "caches").mkdir()
    os.chown(room / "caches", -1, LAB)
    (room / "caches").chmod(0o2775)
    return room / "caches"


def run(user, room, *words, groups=(LAB,)):
    """Run a command as a user of some groups with the usual umask, in their own folder."""
    home = room / str(user)
    return subprocess.run(
        [python_for_all(), "-m", "medal", *map(str, words)],
        user=user,
        group=OWN,
        extra_groups=list(groups),
        umask=0o022,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": LIBRARIES, "MEDAL_HOME": f"{home}/medal", "HOME": str(home)},
    )


@cache
def python_for_all():
    for python in PYTHONS:
        with suppress(OSError):
            done = subprocess.run(
                [python, "-c", "import medal, numpy, torch, zarr"],
                user=BEN,
                group=OWN,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                check=False,
                env={"PYTHONPATH": LIBRARIES},
            )
            if done.returncode == 0:
                return python
    return pytest.skip("other users of this machine cannot run a Python of this version with this clone")


@pytest.fixture
def as_user(room):
    def call(user, *words, groups=(LAB,)):
        done = run(user, room, *words, "--json", groups=groups)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return call


@pytest.fixture
def chest(room):
    made = make_cache(room / "chest.zarr")
    make_cache(room / "more.zarr", 1, name="more")
    return made


def test_two_members_of_a_group_do_everything_with_one_store(lab, room, chest, as_user):
    pushed = as_user(ANA, "push", "--yes", chest.path, lab, "--as", "Ana")
    assert as_user(BEN, "push", "--yes", chest.path, lab)["action"] == "there"
    as_user(BEN, "push", "--yes", room / "more.zarr", lab)
    assert [one["dataset"] for one in as_user(ANA, "list", lab)["caches"]] == ["chest", "more"]
    assert as_user(BEN, "pull", "chest", lab, room / str(BEN) / "got.zarr")["action"] == "pulled"
    assert whole(room / str(BEN) / "got.zarr").seal == chest.seal
    assert as_user(BEN, "show", f"{lab}#chest")["cache_id"] == pushed["cache_id"]
    # What one has pushed the other may take out, with its data, and push again.
    assert as_user(BEN, "remove", "chest", lab)["waiting"] == 1
    assert as_user(BEN, "gc", lab, "--now")["removed"] == 1
    assert as_user(ANA, "push", "--yes", chest.path, lab)["action"] == "pushed"
    assert as_user(BEN, "remove", "chest", lab, "--now")["freed"] > 0
    assert as_user(ANA, "remove", "more", lab, "--now")["freed"] > 0


def test_everything_in_a_store_takes_the_modes_of_its_folder(lab, chest, as_user):
    as_user(ANA, "push", "--yes", chest.path, lab)
    for path in (lab, *lab.rglob("*")):
        status = path.stat()
        expected = 0o2775 if path.is_dir() else 0o664
        assert (status.st_gid, oct(stat.S_IMODE(status.st_mode))) == (LAB, oct(expected)), path


@pytest.mark.parametrize(
    ("mode", "folder", "file"), [(0o770, 0o770, 0o660), (0o755, 0o755, 0o644), (0o700, 0o700, 0o600)]
)
def test_modes_of_a_store_are_those_that_its_owner_chose(mode, folder, file, lab, chest, as_user):
    os.chown(lab, ANA, LAB)
    lab.chmod(mode)
    as_user(ANA, "push", "--yes", chest.path, lab)
    for path in lab.rglob("*"):
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(folder if path.is_dir() else file), path
        assert path.stat().st_gid == LAB


def test_a_store_made_inside_a_shared_folder_is_shared(lab, chest, as_user):
    as_user(ANA, "push", "--yes", chest.path, lab / "new")
    assert oct(stat.S_IMODE((lab / "new").stat().st_mode)) == "0o2775"
    assert as_user(BEN, "remove", "chest", lab / "new", "--now")["freed"] > 0


def test_who_may_only_read_reads_everything(lab, room, small_npz, small_cache, as_user):
    os.chown(lab, ANA, LAB)
    lab.chmod(0o2755)
    images = shutil.copyfile(small_npz, room / "scans.npz")
    shutil.copytree(small_cache, room / "small.zarr")
    pushed = as_user(ANA, "push", "--yes", room / "small.zarr", lab)
    before = sorted((path, path.stat().st_mtime_ns) for path in (lab, *lab.rglob("*")))
    name = f"{lab}#{pushed['cache_id'][:10]}"
    assert len(as_user(BEN, "list", lab)["caches"]) == 1
    assert as_user(BEN, "pull", pushed["cache_id"], lab, room / str(BEN) / "got.h5")["action"] == "pulled"
    assert as_user(BEN, "show", name)["cache_id"] == pushed["cache_id"]
    done = as_user(BEN, "train-student", name, images, "--out", room / str(BEN) / "run", *QUICK)
    assert done["test"]["auroc"] > 0
    assert sorted((path, path.stat().st_mtime_ns) for path in (lab, *lab.rglob("*"))) == before


def test_who_may_not_write_is_told_why_before_anything_is_done(lab, room, chest, as_user):
    as_user(ANA, "push", "--yes", room / "more.zarr", lab)
    (lab / "sets").chmod(0o2755)
    done = run(BEN, room, "push", "--yes", chest.path, lab)
    assert done.returncode == 1
    assert f"'{lab}/sets' belongs to '{ANA}' and group '{LAB}' with mode drwxr-sr-x, and you are '{BEN}'" in done.stderr
    assert f"ask '{ANA}' to run: chmod g+rwxs {lab}/sets" in done.stderr
    seen = json.loads(run(BEN, room, "doctor", "--store", lab, "--json").stdout.splitlines()[-1])["store"]
    assert seen["access"].startswith("can be read, not pushed to: Store")
    assert seen["why_not"] is None
    (lab / "sets").chmod(0o2775)
    done = run(BEN, room, "remove", "more", lab, groups=())
    assert "who is not in that group; ask to be added to it" in done.stderr
    lab.chmod(0o2770)
    done = run(CLEO, room, "pull", "more", lab, groups=())
    assert done.returncode == 1
    assert f"'{lab}' belongs to" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("broken", ["no way in", "unreadable parts"])
def test_stage_one_computes_where_the_store_lets_nobody_in(broken, lab, room, small_npz, as_user):
    images = shutil.copyfile(small_npz, room / "scans.npz")
    teacher = tiny_teacher(room)
    words = ("cache-teacher", images, "--teacher", teacher, "--image-size", 28, "--limit", 8, "--store", lab)
    mine = room / str(ANA) / "a.zarr"
    as_user(ANA, *words[:2], mine, *words[2:], "--push", "--yes")
    if broken == "no way in":
        lab.chmod(0o2700)
    else:
        for part in lab.glob("sets/*/*.part"):
            part.chmod(0o600)
    theirs = room / str(BEN) / "b.zarr"
    done = run(BEN, room, *words[:2], theirs, *words[2:], "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["action"] == "create"
    assert "warning: Store" in done.stderr
    assert f"belongs to '{'root' if broken == 'no way in' else ANA}'" in done.stderr
    assert "Going on without it." in done.stderr
    assert whole(theirs).content_digest == whole(mine).content_digest


def test_a_read_only_mount_serves_who_reads(lab, room, chest, as_user):
    pushed = as_user(ANA, "push", "--yes", chest.path, lab)
    (room / "mount").mkdir()
    mounted = f"mount --bind {lab} {room}/mount && mount -o remount,ro,bind {room}/mount"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount anything")

    def call(*words):
        line = f"{mounted} && exec {sys.executable} -m medal {' '.join(map(str, words))}"
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", line],
            capture_output=True,
            text=True,
            check=False,
            cwd=room,
            env={**os.environ, "MEDAL_HOME": str(room / "home")},
        )

    for words in (
        ("list", room / "mount"),
        ("pull", "chest", room / "mount", room / "got.zarr"),
        ("show", f"'{room}/mount#chest'"),
    ):
        done = call(*words)
        assert done.returncode == 0, done.stderr
    assert whole(room / "got.zarr").cache_id == pushed["cache_id"]
    for words in (("push", "--yes", room / "more.zarr"), ("remove", "chest"), ("gc",)):
        done = call(*words, room / "mount")
        assert done.returncode == 1
        assert f"'{room}/mount' is mounted read only here" in done.stderr


def test_names_of_groups_are_shown_where_there_are_any(room):
    (room / "store").mkdir()
    os.chown(room / "store", -1, grp.getgrnam("daemon").gr_gid)
    (room / "store").chmod(0o2700)
    done = run(BEN, room, "list", room / "store", groups=())
    assert f"'{room}/store' belongs to 'root' and group 'daemon' with mode drwx--S---" in done.stderr


def test_what_cannot_be_used_is_an_error_of_its_own(tmp_path):
    with pytest.raises(StoreUnusable, match=r"could not be used"):
        open_store(str(tmp_path / ("x" * 300))).check()
