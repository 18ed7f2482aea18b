"""`medal` as people meet it in an editor: its names with their types, listed, explained, and checked by mypy."""

import ast
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import medal

ROOT = Path(__file__).resolve().parent.parent
# Of other libraries only their names are read: that takes seconds, and what is asked about is medal's own.
CONFIG = """
[mypy]
strict = true
follow_imports = silent
[mypy-PIL.*,accelerate.*,click.*,fsspec.*,h5py.*,huggingface_hub.*,jinja2.*,matplotlib.*,numpy.*,pandas.*,rich.*,scipy.*,
    sklearn.*,timm.*,torch.*,torchvision.*,transformers.*,zarr.*]
follow_imports = skip
follow_imports_for_stubs = true
"""
# Lines that are wrong say how mypy calls that; the others are right.
SCRIPT = """
import medal

lab = medal.open_lab("/mnt/lab", push=True)
made = medal.cache_teacher("folder", "chest.zarr", teacher="facebook/dinov2-small", image_size=56, lab=lab)
kept: int = made.kept
said = medal.predict("runs/chest", ["a.png", "more"])
first: str = said.decisions[0] + str(said.to_pandas().shape)
worth = medal.evaluate("runs/chest", "folder", split="val")
auroc: float | None = worth.auroc
trained = medal.train_student(made.cache, "folder", "runs/chest", epochs=3)
place: str = medal.__version__ + str(trained.run)
soft = medal.SoftTargets("chest.zarr", "train", [1, 2, 3], files=["a.png"])
try:
    medal.open_cache("chest.zarr").read("train", "logits")
except medal.MedalError as error:
    print(error)

medal.train_student(1, 2)  # call-arg arg-type
medal.cache_teacher("folder", 3)  # arg-type
medal.open_cache()  # call-arg
medal.open_lab("/mnt/lab", pushes=True)  # call-arg
medal.nothing  # attr-defined
made.nothing  # attr-defined
count: str = made.kept  # assignment
medal.predict("runs/chest", 3)  # arg-type
medal.evaluate("runs/chest", "folder", split="tset")  # arg-type
worth.aurocs  # attr-defined
number: int = said.temperature  # assignment
"""


def test_a_users_script_is_checked(tmp_path):
    (tmp_path / "medal").symlink_to(ROOT)
    (tmp_path / "mypy.ini").write_text(CONFIG)
    (tmp_path / "script.py").write_text(SCRIPT)
    words = ("-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "script.py")
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found = set(re.findall(r"script.py:(\d+): error: .*\[(.*)\]", done.stdout))
    lines = enumerate(SCRIPT.splitlines(), 1)
    assert found == {(str(number), kind) for number, line in lines for kind in line.partition("  # ")[2].split()}


def test_what_types_say_is_what_is_looked_up():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    imports = [node for node in typed.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == medal._PUBLIC
    assert sorted([*medal._PUBLIC, "__version__"]) == medal.__all__


def test_completion_and_help_have_the_public_names_alone():
    assert dir(medal) == sorted(medal.__all__)
    text = pydoc.render_doc(medal, renderer=pydoc.plaintext)
    for name in (
        "cache_teacher(",
        "train_student(",
        "predict(",
        "evaluate(",
        "open_cache(",
        "open_lab(",
        "class SoftTargets(",
        "MedalError(",
    ):
        assert name in text
    assert "import_module" not in text
