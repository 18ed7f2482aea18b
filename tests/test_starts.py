"""Commands and scripts that are started oddly: left-over variables, no guard, a small /dev/shm, a quoted ~."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from medal.cache.errors import MedalError
from medal.cache.machine.processes import count_ranks
from medal.cache.reader import open_cache
from medal.cache.terminal.command import _expand

QUICK = ("--student", "test_resnet", "--image-size", "32", "--precision", "fp32", "--epochs", "1")


def test_one_process_is_what_no_variable_contradicts(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert count_ranks() == 1
    for said in ("", " ", "1"):
        monkeypatch.setenv("WORLD_SIZE", said)
        assert count_ranks() == 1


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'; expected the number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2'"),
        ({"WORLD_SIZE": "4"}, "but RANK, MASTER_ADDR, MASTER_PORT is not set: WORLD_SIZE is left over"),
        ({"WORLD_SIZE": "4", "RANK": "1", "MASTER_PORT": "29500"}, "but MASTER_ADDR is not set"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "RANK is '2'; expected a number from 0",
        ),
    ],
)
def test_what_is_left_over_of_another_command_is_named(variables, said, monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MedalError, match=said) as raised:
        count_ranks()
    assert "unset WORLD_SIZE" in str(raised.value)


@pytest.mark.parametrize(
    "words", [("cache-teacher", "phantom", "x.zarr"), ("train-student", "x.zarr", "x.npz", "--out", "r")]
)
def test_a_command_says_it_in_one_sentence(words, terminal, tmp_path):
    done = terminal(*words, cwd=tmp_path, env={"WORLD_SIZE": "4"})
    assert done.returncode == 1
    assert "WORLD_SIZE is left over from another command" in done.stderr
    assert len(done.stderr.splitlines()) == 1


SCRIPT = """
import medal
{guard}
medal.train_student({cache!r}, {images!r}, {out!r}, student="test_resnet", image_size=32, epochs=1, workers=1)
"""


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        ("", "would run the script again from its first line"),
        ('print(__name__ == "__main__")', 'outside of `if __name__ == "__main__":`'),
    ],
)
def test_a_script_without_a_guard_is_named_as_the_cause(guard, said, squares, tmp_path):
    script = tmp_path / "script.py"
    paths = {
        "cache": str(squares / "squares.zarr"),
        "images": str(squares / "squares.npz"),
        "out": str(tmp_path / "run"),
    }
    script.write_text(SCRIPT.format(guard=guard, **paths))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert said in done.stderr
    assert "workers=0" in done.stderr
    assert "--no-wait" not in done.stderr
    assert "is being made by process" not in done.stderr


MOUNTS = {"read-only": "-o ro", "tiny": "-o size=4k"}


def _can_mount():
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        return False
    tried = [unshare, "-m", "sh", "-c", "mount -t tmpfs -o ro tmpfs /dev/shm"]
    return subprocess.run(tried, check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="needs root that may mount, to change /dev/shm")
@pytest.mark.parametrize("kind", list(MOUNTS))
def test_a_small_or_read_only_dev_shm_is_named(kind, squares, tmp_path):
    words = [sys.executable, "-m", "medal", "train-student", squares / "squares.zarr", squares / "squares.npz"]
    words += ["--out", tmp_path / "run", *QUICK, "--workers", "1"]
    mount = f'mount -t tmpfs {MOUNTS[kind]} tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    assert "Probably '/dev/shm' is full, missing or read-only. Give --workers 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_quoted_tilde_is_the_users_own_folder(small_cache, tmp_path, monkeypatch, terminal):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(small_cache, tmp_path / "chest.zarr")
    assert open_cache("~/chest.zarr").path == tmp_path / "chest.zarr"
    done = terminal("show", "~/chest.zarr", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert _expand("--out=~/x") == f"--out={tmp_path}/x"
    for word in ("a~b", "--out", "~nobody-of-this-name/x", "STORE#~"):
        assert _expand(word) == word


def test_a_tilde_in_a_file_of_defaults_is_expanded(small_cache, tmp_path, monkeypatch, terminal):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "medal.toml").write_text(
        textwrap.dedent(
            """
            [convert]
            digests = "~/never"
            """
        )
    )
    refused = terminal("convert", small_cache, tmp_path / "x.h5", cwd=tmp_path)
    assert "no such option" in refused.stderr  # the file is read; what is in it is refused by name
    (tmp_path / "medal.toml").write_text('[list]\nstore = "~/lab"\n')
    (tmp_path / "lab").mkdir()
    done = terminal("list", cwd=tmp_path)
    assert "~" not in done.stdout + done.stderr
    assert Path("~").exists() is False
