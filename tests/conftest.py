"""What tests share: the real images and teacher where they are at hand, and one small real cache a session."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# The same draws everywhere, and no verdict that depends on how busy a machine is.
settings.register_profile("medal", deadline=None, derandomize=True)
settings.load_profile("medal")

ROOT = Path(__file__).resolve().parent.parent


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
def teacher(shared) -> Path:
    return shared / "teachers/dinov2-small"


@pytest.fixture(scope="session")
def pneumonia(shared) -> Path:
    return shared / "data/pneumoniamnist/pneumoniamnist.npz"


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
def shell():
    """Run a command in a process of its own, as a user would, and return what it printed and its exit status."""

    def run(*words: object, cwd: Path | None = None, env: dict | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "medal", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            check=False,
            timeout=300,
        )

    return run


@pytest.fixture
def terminal(monkeypatch):
    """Run a command as `shell` does, but in this process, whose libraries are loaded: seconds less each time."""

    def run(*words: object, cwd: Path | None = None, env: dict | None = None) -> subprocess.CompletedProcess:
        from medal.cli import main

        out, err = io.StringIO(), io.StringIO()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
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
def small_npz(pneumonia, tmp_path_factory) -> Path:
    """Three hundred real chest X-rays, 28 px, both classes in every split."""
    sizes = {"train": 180, "val": 60, "test": 60}
    path = tmp_path_factory.mktemp("data") / "chest.npz"
    with np.load(pneumonia) as real:
        part = {
            f"{split}_{kind}": real[f"{split}_{kind}"][:count]
            for split, count in sizes.items()
            for kind in ("images", "labels")
        }
    np.savez(path, **part)
    return path


@pytest.fixture(scope="session")
def small_request(teacher) -> tuple:
    """The options of the small cache: the real teacher at a size that is quick."""
    return ("--teacher", teacher, "--image-size", 56, "--batch-size", 16)


@pytest.fixture(scope="session")
def small_cache(medal, small_npz, small_request, tmp_path_factory) -> Path:
    """A sealed cache of `small_npz` from the real teacher. Not to be changed; copy it first."""
    path = tmp_path_factory.mktemp("cache") / "chest.zarr"
    medal("cache-teacher", small_npz, path, *small_request)
    return path


@pytest.fixture
def one_thread():
    """For many trainings of moments: threads that wait for each other cost more than they do."""
    import torch

    from medal.student.network.speed import threads_restored

    with threads_restored():
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def squares(tmp_path_factory) -> Path:
    """A dataset of noisy squares, its cache in both forms, and a finished run. Not to be changed; copy it first."""
    import student_squares

    return student_squares.furnish(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="session")
def teaching(medal, tmp_path_factory) -> Path:
    """Squares of uneven classes, of patients, some labels unknown in every split, and caches. Not to be changed."""
    import teaching_cases

    return teaching_cases.furnish(medal, tmp_path_factory.mktemp("teaching"))
