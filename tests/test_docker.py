"""The Dockerfile: read for what goes wrong with such files, and built and run where there is a container tool."""

import fnmatch
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def instructions():
    """The instructions of the Dockerfile with their arguments, in order."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def arguments(name):
    return [words for instruction, words in instructions() if instruction == name]


def test_the_base_is_pinned_and_of_a_python_that_medal_runs_on():
    (base,) = arguments("FROM")
    version = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-\w+", base)
    assert version, base
    least = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert tuple(map(int, version.groups())) >= tuple(map(int, least.split(".")))


def test_it_runs_as_a_user_without_rights():
    names = [name for name, _ in instructions()]
    (user,) = arguments("USER")
    assert user.split(":")[0] not in ("0", "root")
    assert names.index("USER") > max(place for place, name in enumerate(names) if name in ("RUN", "COPY"))


def test_what_it_installs_and_runs_exists():
    known = PROJECT["project"]["optional-dependencies"]
    (installed,) = [words for words in arguments("RUN") if "/src" in words]
    extras = re.search(r"/src\[([\w,]+)\]", installed)[1].split(",")
    assert set(extras) <= set(known)
    assert "--torch-backend cpu" in installed
    for words in arguments("RUN"):
        assert re.search(r"pip install", words) is None or "--no-cache" in words
        assert re.findall(r"pip install --no-cache-dir (\S+)", words) == re.findall(r"\S+==[\d.]+", words)
    assert {json.loads(words)[0] for words in arguments("ENTRYPOINT")} <= set(PROJECT["project"]["scripts"])


def test_the_build_gets_the_package_and_nothing_of_the_person_who_builds():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = {path.name for path in ROOT.iterdir() for rule in rules[1:] if fnmatch.fnmatch(f"!{path.name}", rule)}
    packages = {name.split(".")[1] for name in PROJECT["tool"]["setuptools"]["packages"] if "." in name}
    files = {path.name for path in ROOT.glob("*.py")} | {"pyproject.toml", "py.typed", "LICENSE", "README.md"}
    assert kept == packages | files


def _tool():
    """A container tool whose service answers; None where there is none."""
    for name in ("docker", "podman"):
        if shutil.which(name) and not subprocess.run([name, "info"], capture_output=True, check=False).returncode:
            return name
    return None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_it_is_built_and_runs_the_demo(tmp_path):
    tool = _tool()
    if tool is None:
        pytest.skip("no container tool, or its service does not run")
    subprocess.run([tool, "build", "--tag", "medal-test", ROOT], check=True)
    tmp_path.chmod(0o777)
    run = [tool, "run", "--rm", "--volume", f"{tmp_path}:/data", "medal-test"]
    said = subprocess.run([*run, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["medal", PROJECT["project"]["version"]]
    subprocess.run([*run, "demo", "--quick"], check=True)
    assert list(tmp_path.rglob("model.safetensors"))
