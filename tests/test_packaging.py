"""The root is the package `medal`: what is installed is what stands here, and nothing else."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
NOT_OURS = {"build", "dist", "demo", "caches", "runs", "tests", "benchmarks", "docs"}


def folder_of(package):
    return ROOT.joinpath(*package.split(".")[1:])


def our_folders():
    """Folders of the tree that are no tool's: hidden ones and what make makes are left out."""
    for top in ROOT.iterdir():
        if top.is_dir() and top.name not in NOT_OURS and not top.name.startswith((".", "__")):
            yield top
            yield from (path for path in top.rglob("*") if path.is_dir() and path.name != "__pycache__")


def our_files():
    """Every file that belongs to the repository."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            yield path


def test_package_list_is_the_folders_with_init():
    found = {"medal"} | {
        ".".join(("medal", *folder.relative_to(ROOT).parts))
        for folder in our_folders()
        if (folder / "__init__.py").exists()
    }
    assert set(PACKAGES) == found


def test_every_template_is_package_data():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    inside = [path for package in PACKAGES if package != "medal" for path in folder_of(package).iterdir()]
    found = {path for path in inside if path.suffix in (".html", ".jinja")}
    assert found == {folder_of(package) / name for package, names in data.items() for name in names} - {
        ROOT / "py.typed"
    }


def test_every_folder_with_modules_is_a_package():
    with_modules = {folder for folder in our_folders() if any(folder.glob("*.py"))}
    assert with_modules == {folder_of(package) for package in PACKAGES} - {ROOT}


def test_root_has_exactly_the_modules_of_the_layout():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "cli.py"}


def test_tests_are_no_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the tree: setuptools would leave its build folder in the tree itself."""
    place = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", *NOT_OURS - {"tests", "benchmarks", "docs"})
    shutil.copytree(ROOT, place / "another name", ignore=unwanted, symlinks=True)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, place / "another name"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = place.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_wheel_holds_what_is_listed_and_nothing_else(wheel):
    data = PROJECT["tool"]["setuptools"]["package-data"]
    expected = {"/".join((*package.split("."), name)) for package, names in data.items() for name in names} | {
        "/".join((*package.split("."), path.name)) for package in PACKAGES for path in folder_of(package).glob("*.py")
    }
    assert {name for name in wheel if ".dist-info/" not in name} == expected


def test_wheel_carries_licence_entry_point_and_readme(wheel):
    described = {name.rpartition("/")[2]: content.decode() for name, content in wheel.items() if "dist-info" in name}
    assert described["LICENSE"] == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "medal = medal.cli:main" in described["entry_points.txt"]
    assert (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[2] in described["METADATA"]


def test_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_one_version_everywhere():
    version = PROJECT["project"]["version"]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_has_a_lower_bound_and_no_upper_one():
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in PROJECT["project"]["dependencies"] + [one for extra in extras.values() for one in extra]:
        assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", requirement), requirement


# Put together here, so that this file does not find itself.
REGISTRIES = [".".join(words) for words in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"))]
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:root|work|opt|home/\w+|Users/\w+)/")


def test_no_file_names_a_registry_host_or_a_path_of_one_machine():
    found = []
    for path in our_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        words = [host for host in REGISTRIES if host in text] + MACHINE_PATH.findall(text)
        found += [f"{path.relative_to(ROOT)}: {word}" for word in words]
    assert found == []


def test_ci_calls_what_people_call():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "\nmake lint\nmake test\n" in script
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
