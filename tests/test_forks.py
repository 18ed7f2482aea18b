"""Commands in forks end and speak as those of `python -m medal` do."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from forks import Forks, start_cold

from medal.cache.making.work import work_path

COMMANDS = [
    ("--version",),
    ("show", "none.zarr"),
    ("show", "--no-such-option"),
    ("clean", "--json"),
    ("doctor", "--config"),
    ("--log-json", "show", "none.zarr"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_fork_ends_and_speaks_as_a_cold_start_does(words, shell, tmp_path, monkeypatch):
    (tmp_path / "medal.toml").write_text("[cache-teacher]\nlimit = 30\n")
    monkeypatch.setenv("MEDAL_TRAIN_STUDENT_EPOCHS", "7")
    forked = shell(*words, cwd=tmp_path)
    cold = start_cold(list(words), tmp_path, dict(os.environ))
    timeless = [(done.returncode, done.stdout, "" if "--log-json" in words else done.stderr) for done in (forked, cold)]
    assert timeless[0] == timeless[1]
    assert bool(forked.stderr) == bool(cold.stderr)


def test_what_is_read_at_the_import_gets_a_cold_start(shell, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os; os.write(1, b'read at the start ')")
    done = shell("--version", env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout.startswith("read at the start medal ")
    assert not shell("--version", env={"MEDAL_HOME": str(tmp_path)}).stdout.startswith("read")


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_fork_that_is_stopped_says_by_what(sent, status, teacher, tmp_path):
    # A process of its own: what other tests left in the environment would let commands of the shared one start cold.
    forks, out = Forks(), tmp_path / "x.zarr"
    words = [
        "cache-teacher",
        "phantom",
        str(out),
        "--teacher",
        str(teacher),
        "--batch-size",
        "1",
        "--image-size",
        "224",
    ]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(forks.run, words, tmp_path, dict(os.environ))
        while not work_path(out).exists():
            assert not running.done(), running.result().stderr
            time.sleep(0.01)
        os.kill(forks.child, sent)
        done = running.result()
    forks.close()
    assert done.returncode == status, done.stderr
    assert ("Stopped by" in done.stderr) == (sent != signal.SIGKILL)
    assert not out.exists()
