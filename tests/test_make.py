"""`make` installs with uv where the machine has it, and else with pip."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("sh", "awk", "touch", "echo", "ln", "mkdir", "cat")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def clone(tmp_path):
    """A clone whose .venv has been made, with an interpreter and tools that note how they are called."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in (tmp_path / ".venv/bin", tmp_path / "path"):
        folder.mkdir(parents=True)
    for name in TOOLS:
        (tmp_path / "path" / name).symlink_to(shutil.which(name))
    noting(tmp_path / ".venv/bin/python", "python", tmp_path)
    (tmp_path / ".venv/.created").touch()
    return tmp_path


def noting(path, name, clone):
    path.write_text(f'#!/bin/sh\necho {name} "$@" >> {clone}/called\n')
    path.chmod(0o755)


def make(clone, *words):
    path = {**os.environ, "PATH": str(clone / "path"), "MAKEFLAGS": ""}
    return subprocess.run(
        [shutil.which("make"), *words], cwd=clone, env=path, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(("stamp", "extra"), [("demo", "demo"), ("dev", "dev"), ("docs", "docs")])
@pytest.mark.parametrize("there", [True, False], ids=["uv", "pip"])
def test_uv_where_it_is_and_else_pip(there, stamp, extra, clone):
    if there:
        noting(clone / "path/uv", "uv", clone)
    make(clone, f".venv/.{stamp}")
    *_, called = (clone / "called").read_text().splitlines()
    how = "uv pip install --python .venv/bin/python" if there else "python -m pip install --disable-pip-version-check"
    assert called == f"{how} --editable .[{extra}]"
    (clone / "called").unlink()
    make(clone, f".venv/.{stamp}")
    assert not (clone / "called").exists(), "installed twice"


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_of_the_readme_install_first(target, clone):
    lines = make(clone, "--dry-run", target).splitlines()
    install = next(number for number, line in enumerate(lines) if "--editable" in line)
    run = next(number for number, line in enumerate(lines) if "medal demo" in line or "-m pytest" in line)
    assert install < run
