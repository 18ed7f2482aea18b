"""The documentation is true: every command stands in the page of commands, and what the README says runs."""

import ast
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
from modules import MODULES
from PIL import Image

from medal.cli import COMMANDS, group

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))

# What the README's commands run with here: a tiny teacher and a set that need no network, and a short training.
STAND_INS = {
    "medmnist:pneumoniamnist": "chest.npz",
    "facebook/dinov2-small": "tiny",
    "pneumoniamnist": "chest",
    "/mnt/lab/caches": "lab",
}
SHORTER = {"train-student": ["--student", "test_resnet", "--epochs", "1", "--image-size", "32"], "push": ["--yes"]}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands():
    """The README's command lines, comments cut off."""
    lines = "".join(blocks("console")).splitlines()
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.startswith("$ ")]


@pytest.fixture
def every_command():
    context = click.Context(group, info_name="medal")
    return {name: group.get_command(context, name) for name in COMMANDS}


def test_every_command_has_help(every_command):
    for name, made in every_command.items():
        assert made.help, name
        assert made.short_help == COMMANDS[name][1]
        assert len(COMMANDS[name][1]) <= 60, name


def test_every_option_has_help(every_command):
    silent = [
        f"{name} {parameter.name}"
        for name, made in every_command.items()
        for parameter in made.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert silent == []


def test_help_shows_an_example(every_command):
    assert [name for name, made in every_command.items() if f"medal {name}" not in made.help] == []


def test_every_command_stands_in_the_page_of_commands(every_command):
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    assert [name for name in every_command if f"| `medal {name}" not in page] == []


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_every_option_that_pages_name_exists():
    context = click.Context(group, info_name="medal")
    known = {
        "--help",
        "--help-all",
        "--version",
        "--requirement",
        "--editable",
        "--update",
        "--tag",
        "--strict",
        "--ignore-vcs",
        "--nproc-per-node",
    }
    # Of pip, the hub's command, torchrun, Slurm and timm.
    known |= {
        "--wheel-dir",
        "--no-index",
        "--find-links",
        "--local-dir",
        "--nnodes",
        "--rdzv-backend",
        "--rdzv-endpoint",
    }
    known |= {"--job-name", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--time", "--requeue"}
    known |= {"--signal", "--shm-size"}
    known |= {"--smoothing"}
    for script in (ROOT / "benchmarks").rglob("*.py"):
        known.update(re.findall(r'"(--[a-z-]+)"', script.read_text(encoding="utf-8")))
    known.update(flag for parameter in group.params for flag in parameter.opts)
    for name in COMMANDS:
        for parameter in group.get_command(context, name).params:
            known.update((*parameter.opts, *parameter.secondary_opts))
    for page in PAGES:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")))
        assert named <= known, page.name


def test_readme_opens_with_the_two_commands():
    assert [words[:2] for words in commands()[:2]] == [["make", "demo"], ["make", "test"]]
    assert "Research software, not a medical device" in README


def test_make_targets_that_pages_name_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:`|\$ )make ([a-z-]+)", page.read_text(encoding="utf-8"))) <= known, page.name


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_what_contributing_says_how_to_add_names_files_and_names_that_exist():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.split("## How to add")[1].split("\n## ")[0]
    places = [*MODULES, *(ROOT / "tests").glob("*.py"), *(ROOT / "docs").rglob("*.md")]
    code = "".join(path.read_text(encoding="utf-8") for path in places)
    quoted = re.findall(r"`([^`\n]+)`", section)
    assert len(quoted) > 60
    for word in quoted:
        if re.fullmatch(r"[\w/]+\.(py|md)", word) and "NEW" not in word and "NAME" not in word:
            assert (ROOT / word).exists() or (ROOT / "tests" / word).exists(), word
        elif re.fullmatch(r"_?[A-Za-z]\w+", word):
            assert re.search(rf"\b{word}\b", code), word


@pytest.fixture
def reader_of_the_readme(tmp_path, monkeypatch):
    """A folder with what the README's commands need under their stand-ins' names."""
    from medal.pipeline.teacher.demo import tiny_teacher

    random = np.random.default_rng(0)
    arrays = {}
    for split, count in {"train": 48, "val": 16, "test": 16}.items():
        labels = np.arange(count) % 2
        noise = random.integers(0, 120, (count, 28, 28))
        arrays[f"{split}_images"] = (noise + 100 * labels[:, None, None]).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(tmp_path / "chest.npz", **arrays)
    tiny_teacher(tmp_path).rename(tmp_path / "tiny")
    (tmp_path / "scans").mkdir()
    Image.fromarray(arrays["test_images"][0]).save(tmp_path / "scans/first.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.docs
@pytest.mark.usefixtures("reader_of_the_readme")
def test_what_the_readme_says_runs():
    ran = []
    for words in commands():
        # make, pip and the demo are run by .ci/run and by tests of their own.
        if words[0] != "medal" or words[1] == "demo":
            continue
        typed = [STAND_INS.get(word, word) for word in words[1:]] + SHORTER.get(words[1], [])
        try:
            group.main(typed, prog_name="medal", standalone_mode=False)
        except SystemExit as ended:
            assert not ended.code, words  # noqa: PT017 - a command may say its exit status
        ran.append(words[1])
    first = ["doctor", "cache-teacher", "train-student"]
    use = ["predict", "report", "export"]
    share = ["push", "list", "pull", "cache-teacher", "verify"]
    assert ran == [*first, *use, *share]
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own page


# ── The code's own documentation ─────────────────────────────────────────────────────────────────────────────────


def definitions(path):
    """Functions and classes at module level, and methods, with the name they are known by."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node, None
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{inner.name}", inner, node) for inner in node.body if is_function(inner))


def is_function(node):
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def is_public(name):
    return not any(part.startswith("_") for part in name.split("."))


def test_modules_are_documented_and_typed():
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) or not tree.body, f"{path}: no docstring at the top"
        untyped = [name for name, node, _ in definitions(path) if is_function(node) and node.returns is None]
        silent = [name for name, node, owner in definitions(path) if owner is None and is_public(name) and bare(node)]
        assert (untyped, silent) == ([], []), path


def bare(node):
    return not ast.get_docstring(node)


def test_files_and_functions_stay_readable():
    for path in MODULES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, path
        functions = [(name, node) for name, node, _ in definitions(path) if is_function(node)]
        lines = [(name, node.end_lineno - node.body[0].lineno + 1) for name, node in functions]
        assert [(name, count) for name, count in lines if count > 60] == [], path
