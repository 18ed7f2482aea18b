"""What imports what: start-up stays quick, the cache knows no framework, the student no teacher."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from modules import MODULES
from store_cases import make_cache

from medal.cache.convert import convert

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {
    "PIL",
    "h5py",
    "huggingface_hub",
    "matplotlib",
    "medmnist",
    "numpy",
    "onnx",
    "pandas",
    "rich",
    "scipy",
    "sklearn",
    "timm",
    "torch",
    "torchvision",
    "transformers",
    "zarr",
}


def imported_by(code, *words):
    """Run code in an interpreter of its own and return the top-level names of what it imported."""
    ending = "\nimport sys; print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code + ending, *words], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def import_all(package):
    """Code that imports every module of a package."""
    folder = ROOT.joinpath(*package.split(".")[1:])
    names = [
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        for path in folder.rglob("*.py")
    ]
    return "\n".join(f"import {name}" for name in names)


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_the_table_of_commands_imports_nothing_heavy(words):
    code = f"from medal.cli import group; group.main({words}, prog_name='medal', standalone_mode=False)"
    assert imported_by(code) & HEAVY == set()


def test_import_medal_imports_nothing_heavy():
    assert imported_by("import medal") & HEAVY == set()


def test_the_cache_knows_no_framework_and_no_images():
    seen = imported_by(import_all("medal.cache"))
    assert seen & (HEAVY - {"numpy", "zarr", "h5py", "rich"}) == set()
    assert "medal" in seen


def test_a_cache_is_opened_from_python_without_torch_or_click(tmp_path):
    convert(make_cache(tmp_path / "a.zarr"), tmp_path / "a.h5")
    code = "import sys, medal\nfor path in sys.argv[1:]: medal.open_cache(path).read('train', 'logits')"
    seen = imported_by(code, tmp_path / "a.zarr", tmp_path / "a.h5")
    assert {"zarr", "h5py"} <= seen
    assert seen & {"torch", "click", "rich"} == set()


def test_planning_needs_no_torch():
    seen = imported_by(import_all("medal.pipeline.planning"))
    assert seen & {"torch", "torchvision", "transformers", "timm", "sklearn", "click"} == set()


def test_datasets_are_listed_without_torch():
    assert imported_by(import_all("medal.pipeline.datasets")) & {"torch", "transformers", "timm", "medmnist"} == set()


def test_locating_a_teacher_needs_no_torch():
    seen = imported_by("import medal.pipeline.teacher.files, medal.pipeline.commands.demo")
    assert seen & {"torch", "transformers"} == set()


def test_the_student_never_imports_the_teacher():
    seen = imported_by(import_all("medal.student"))
    assert "torch" in seen
    assert "transformers" not in seen


def test_help_of_every_command_needs_no_framework():
    code = "\n".join(
        (
            "from medal.cli import COMMANDS, group",
            "for name in COMMANDS: group.main([name, '--help'], prog_name='medal', standalone_mode=False)",
        )
    )
    assert imported_by(code) & {"torch", "transformers", "timm", "sklearn", "matplotlib", "medmnist"} == set()


def test_import_directions_hold():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_is_exact():
    """`__all__` lists names that exist and are public; nothing public is imported from elsewhere past it."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    listing = {path: listed for path, tree in trees.items() if (listed := exported(tree)) is not None}
    assert len(listing) > len(MODULES) / 2
    for path, listed in listing.items():
        assert len(set(listed)) == len(listed), path
        assert not [name for name in listed if name.startswith("_") and name != "__version__"], path
        if path != ROOT / "__init__.py":  # its names are looked up on first use
            assert set(listed) <= defined(trees[path]), path


def exported(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return ast.literal_eval(node.value)
    return None


def defined(tree):
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_the_public_names_of_medal_are_all_there():
    import medal

    assert [name for name in medal.__all__ if not hasattr(medal, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = medal.nothing


def test_startup_benchmark_runs():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/startup.py", "--runs", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"ratio"' in done.stdout.splitlines()[-1]
