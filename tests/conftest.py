"""What tests share: the real images and teacher where they are at hand, and one small real cache a session."""

import contextlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# Two workers share two cores, and models this small are no faster with more threads: before torch is imported, and for
# the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

# The same draws everywhere, and no verdict that depends on how busy a machine is. `make test-slow` takes the other one:
# other draws each time, of which one that fails is printed, and more of them (draws.py).
settings.register_profile("medal", deadline=None, derandomize=True)
settings.register_profile("slow", deadline=None, derandomize=False, print_blob=True, max_examples=1000)
settings.load_profile("medal")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    """Keep each file's tests on one worker, whose fixtures they share; what is marked as serial goes first, on one.

    Serial is what measures, fills or holds something that the machine has once: a disk, a lock's clock, Ray, a rate.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args != ("serial",))


def once(factory, name, make) -> Path:
    """Return a folder that `make(folder)` fills in the first worker to ask, and that the other one waits for."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.with_suffix(".made").exists():
            folder.mkdir()
            make(folder)
            folder.with_suffix(".made").touch()
    return folder


def seal_small(medal, npz, request, factory, name) -> Path:
    """Return the cache of the small set that a request gives, made once a session."""

    def make(folder):
        medal("cache-teacher", npz, folder / "chest.zarr", *request)

    return once(factory, name, make) / "chest.zarr"


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory) -> Path:
    """A folder of medal's own for this session: tests leave nothing in the user's, nor heed what is there."""
    folder = tmp_path_factory.mktemp("home")
    os.environ["MEDAL_HOME"] = str(folder)
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights, as ../shared or where MEDAL_SHARED says."""
    folder = Path(os.environ.get("MEDAL_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real images and weights are not at hand ('{folder}'; set MEDAL_SHARED)")
    return folder


@pytest.fixture(scope="session")
def real_teacher(shared) -> Path:
    """DINOv2 ViT-S/14 with its real weights: for tests whose point is its numbers."""
    return shared / "teachers/dinov2-small"


@pytest.fixture(scope="session")
def pneumonia(shared) -> Path:
    """Chest X-rays of MedMNIST, as their file: for tests whose point is that it is real."""
    return shared / "data/pneumoniamnist/pneumoniamnist.npz"


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    """A DINOv2 of six narrow blocks with random weights, which is there on every machine."""
    import drawn

    return once(tmp_path_factory, "drawn-dinov2", drawn.draw_teacher)


@pytest.fixture(scope="session")
def medal():
    """Run a command in this process and return its JSON result; errors of medal are raised as they are."""

    def run(*words: object) -> dict:
        from medal.cli import group

        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            group.main([*map(str, words), "--json"], prog_name="medal", standalone_mode=False)
        return json.loads(out.getvalue().splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def forks():
    """The process whose forks run commands (`forks.py`)."""
    from forks import Forks

    made = Forks()
    yield made
    made.close()


@pytest.fixture(scope="session")
def shell(forks):
    """Run a command in a process of its own, as a user would, and return what it printed and its exit status."""

    def run(*words: object, cwd: Path | None = None, env: dict | None = None) -> subprocess.CompletedProcess:
        return forks.run([str(word) for word in words], cwd or Path.cwd(), {**os.environ, **(env or {})})

    return run


@pytest.fixture
def terminal(monkeypatch):
    """Run a command as `shell` does, but in this process, whose libraries are loaded: seconds less each time."""

    def run(*words: object, cwd: Path | None = None, env: dict | None = None) -> subprocess.CompletedProcess:
        from medal.cli import main

        out, err = io.StringIO(), io.StringIO()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
        with monkeypatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", ["medal", *map(str, words)])
            patch.chdir(cwd or Path.cwd())
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return subprocess.CompletedProcess(words, ended.value.code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def small_npz(tmp_path_factory) -> Path:
    """Three hundred drawn scans, 28 px, two classes in every split."""
    import drawn

    return once(tmp_path_factory, "data", lambda folder: drawn.save_small(folder / "chest.npz")) / "chest.npz"


@pytest.fixture(scope="session")
def small_request(teacher) -> tuple:
    """The options of the small cache: the tiny teacher at a size that is quick."""
    return ("--teacher", teacher, "--image-size", 56, "--batch-size", 16)


@pytest.fixture(scope="session")
def small_cache(medal, small_npz, small_request, tmp_path_factory) -> Path:
    """A sealed cache of `small_npz` from the tiny teacher. Not to be changed; copy it first."""
    return seal_small(medal, small_npz, small_request, tmp_path_factory, "cache")


@pytest.fixture(scope="session")
def steady_request(tmp_path_factory) -> tuple:
    """The options of a cache that takes seconds: of a wider teacher, for tests that stop it on the way."""
    import drawn

    teacher = once(tmp_path_factory, "steady-dinov2", lambda folder: drawn.draw_teacher(folder, blocks=12, width=192))
    return ("--teacher", teacher, "--image-size", 56, "--batch-size", 16)


@pytest.fixture(scope="session")
def steady_cache(medal, small_npz, steady_request, tmp_path_factory) -> Path:
    """The sealed cache that `steady_request` gives. Not to be changed; copy it first."""
    return seal_small(medal, small_npz, steady_request, tmp_path_factory, "steady-cache")


@pytest.fixture(scope="session")
def cells(tmp_path_factory) -> Path:
    """A table of cells of two laboratories, one class too rare for some."""
    import drawn

    return once(tmp_path_factory, "cells", drawn.save_cells) / "labels.csv"


@pytest.fixture
def seed(request) -> int:
    """The seed of a draw: ever the same in `make test`, and in a slow test another each time, which it prints."""
    if request.node.get_closest_marker("slow") is None:
        return 1
    drawn = int(os.environ.get("MEDAL_TEST_SEED") or secrets.randbits(32))
    sys.stdout.write(f"These draws again: MEDAL_TEST_SEED={drawn}\n")
    return drawn


@pytest.fixture
def one_thread():
    """For many trainings of moments: threads that wait for each other cost more than they do."""
    import torch

    from medal.pipeline.threads import threads_restored

    with threads_restored():
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def squares(tmp_path_factory) -> Path:
    """A dataset of noisy squares, its cache in both forms, and a finished run. Not to be changed; copy it first."""
    import student_squares

    return once(tmp_path_factory, "squares", student_squares.furnish)


@pytest.fixture(scope="session")
def teaching(medal, tmp_path_factory) -> Path:
    """Squares of uneven classes, of patients, some labels unknown in every split, and caches. Not to be changed."""
    import teaching_cases

    return once(tmp_path_factory, "teaching", lambda folder: teaching_cases.furnish(medal, folder))
