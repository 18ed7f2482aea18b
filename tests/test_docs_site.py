"""The site is true: every block of every page runs, or says why it cannot; links lead to headings that are there."""

import importlib
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from click import NoSuchOption
from pages import PROSE, ROOT, RUN, SCRIPTS, SITE, Reader, check_words, medal_words, parse_blocks, read_blocks
from PIL import Image
from safetensors.numpy import load_file, save_file

from medal.cache.errors import MedalError

# What the pages' commands run with here, longer names first: a tiny teacher, small sets, a folder for a store.
STAND_INS = {
    "medmnist:pneumoniamnist": "chest.npz",
    "facebook/dinov2-small": "tiny",
    "facebook/dinov2-base": "tiny",
    "/models/dinov2-small": "tiny",
    "microsoft/rad-dino": "other",
    "/models/dinov2-ours": "other",
    "pneumoniamnist": "chest",
    "/mnt/lab/caches": "lab",
}
SMALL_STUDENT = ["--student", "test_resnet", "--epochs", "1", "--image-size", "32"]
SHORTER = {"cache-teacher": ["--image-size", "56"], "train-student": SMALL_STUDENT, "push": ["--yes"]}

CODE = [path for path in SITE if any(block.language in RUN for block in read_blocks(path))]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from medal.pipeline.teacher.demo import tiny_teacher

    return tiny_teacher(tmp_path_factory.mktemp("teachers"))


@pytest.fixture
def desk(tiny, tmp_path, monkeypatch):
    """The current folder of a reader: two teachers and small sets, under the names that the pages give them."""
    import torch

    shutil.copytree(tiny, tmp_path / "tiny")
    weights = load_file(tiny / "model.safetensors")
    shutil.copytree(tiny, tmp_path / "other")
    save_file({name: array * np.float32(1.1) for name, array in weights.items()}, tmp_path / "other/model.safetensors")
    random = np.random.default_rng(0)
    lay_out_arrays_and_folder(tmp_path, random)
    lay_out_study(tmp_path / "study", random)
    lay_out_dicom(tmp_path / "ct", random)
    monkeypatch.chdir(tmp_path)
    # Models this small are no faster with more threads, and slower where other work wants them.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lay_out_arrays_and_folder(place, random):
    """Eighty images with splits, as chest.npz and as folder/SPLIT/CLASS/file."""
    arrays = {}
    for split, count in {"train": 48, "val": 16, "test": 16}.items():
        labels = np.arange(count) % 2
        noise = random.integers(0, 120, (count, 28, 28))
        arrays[f"{split}_images"] = (noise + 100 * labels[:, None, None]).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
        for row, image in enumerate(arrays[f"{split}_images"]):
            file = place / "folder" / split / ("normal", "pneumonia")[labels[row]] / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    np.savez(place / "chest.npz", **arrays)


def lay_out_study(place, random):
    """Forty patients of two images each, from two scanners, in a table without splits."""
    place.mkdir()
    rows = [["file", "label", "patient", "scanner"]]
    for patient in range(40):
        ill, scanner = patient % 2, patient // 2 % 2
        for visit in range(2):
            name = f"{patient:02}-{visit}.png"
            image = random.integers(0, 120, (28, 28)) + 60 * ill + 40 * scanner
            Image.fromarray(image.astype(np.uint8)).save(place / name)
            rows.append([name, ("well", "ill")[ill], f"P{patient:02}", ("alder", "birch")[scanner]])
    (place / "table.csv").write_text("".join(",".join(row) + "\n" for row in rows))


def lay_out_dicom(place, random):
    """Forty slices of CT as ct/SPLIT/CLASS/file, where there is pydicom."""
    if find_spec("pydicom") is None:
        return
    from dicom_files import make

    for split, count in {"train": 24, "val": 8, "test": 8}.items():
        for row in range(count):
            file = place / split / ("clear", "nodule")[row % 2] / str(row)
            file.parent.mkdir(parents=True, exist_ok=True)
            values = random.integers(-1000, 200, (32, 32)) + 400 * (row % 2)
            make(values.astype(np.int16), RescaleSlope=1, RescaleIntercept=0).save_as(file, enforce_file_format=True)


@pytest.mark.docs
@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("page", CODE, ids=lambda path: str(path.relative_to(ROOT / "docs")))
def test_what_a_page_says_runs(page):
    reader = Reader(STAND_INS, SHORTER)
    if page.name == "dicom.md":
        pytest.importorskip("pydicom", reason="DICOM needs the extra [dicom]")
    for block in read_blocks(page):
        if block.language in RUN and block.is_run:
            reader.follow(block)


def test_blocks_that_are_not_run_are_real_command_lines():
    for block in (block for page in SITE for block in read_blocks(page)):
        assert block.language in RUN | SCRIPTS | PROSE, f"{block.place}: '{block.language}' is neither run nor prose"
        assert block.language not in SCRIPTS or not block.is_run, f"{block.place}: say that it is not run, and why"
        if not block.is_run and block.language != "python":
            for words in medal_words(block):
                check_words(words)
        elif not block.is_run:
            compile(block.body, block.place, "exec")


def test_a_page_that_lies_is_found_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lies = {
        "not printed": "```console\n$ medal --version\nmedal 99\n```\n",
        "exit status 1": "```console\n$ medal show nothing.zarr\n```\n",
        "exit status 0": "```console\n$ medal --version   # exit status 1\n```\n",
    }
    for what, text in lies.items():
        (block,) = parse_blocks(text, "lies.md")
        with pytest.raises(AssertionError, match=what):
            Reader({}, {}).follow(block)
    (block,) = parse_blocks("```toml\n[cache-teacher]\nno-such-option = 1\n```\n", "lies.md")
    with pytest.raises(MedalError, match="no-such-option"):
        Reader({}, {}).follow(block)
    (block,) = parse_blocks("```bash\nsrun medal cache-teacher phantom --no-such-option\n```\n", "lies.md")
    with pytest.raises(NoSuchOption, match="no-such-option"):
        check_words(*medal_words(block))


# ── Links ────────────────────────────────────────────────────────────────────────────────────────────────────────


def headings(path):
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).lower()).replace(" ", "-") for title in titles}


def test_links_to_headings_lead_to_one():
    for page in SITE:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            there = (page.parent / target).resolve() if target else page
            assert anchor in headings(there), f"{page.name}: {target}#{anchor}"


def test_what_pages_call_by_its_path_is_there():
    for page in SITE:
        for path in set(re.findall(r"`(medal(?:\.\w+)+)`", page.read_text(encoding="utf-8"))) - {"medal.toml"}:
            module, _, name = path.rpartition(".")
            assert hasattr(importlib.import_module(module), name), f"{page.name}: {path}"


def test_pictures_are_small_and_shown():
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.[ps][nv]g"))
    assert pictures
    assert sum(path.stat().st_size for path in pictures) < 200_000
    shown = "".join(path.read_text(encoding="utf-8") for path in SITE)
    assert [path.name for path in pictures if path.name not in shown] == []


@pytest.mark.slow  # .ci/run builds it in any case
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="the site needs the extra [docs]")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", ROOT / "docs", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "train-student" in (tmp_path / "reference/commands.html").read_text()
