"""`medal report --figures`: every chart as vector files, labelled with names and numbers, the same every time."""

import re

import pytest

KINDS = ("roc", "pr", "reliability", "confusion", "forest-auroc")


@pytest.fixture(scope="module")
def run(squares, medal, tmp_path_factory):
    place = tmp_path_factory.mktemp("figures")
    words = ("--student", "test_resnet", "--epochs", 1, "--image-size", 32, "--precision", "fp32", "--baseline")
    medal("train-student", squares / "squares.zarr", squares / "squares.npz", "--out", place / "run", *words)
    return place / "run"


def test_every_chart_is_a_vector_file(run, medal, tmp_path):
    medal("report", run, "--out", tmp_path / "plain.html")
    medal("report", run, "--out", tmp_path / "x.html", "--figures", tmp_path / "figures")
    # The page is what it is without.
    assert (tmp_path / "x.html").read_bytes() == (tmp_path / "plain.html").read_bytes()
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    for kind in KINDS:
        for form in ("svg", "pdf"):
            assert any(re.fullmatch(rf"run-1-{kind}(-\d+)?\.{form}", name) for name in names), (kind, form)
    for path in (tmp_path / "figures").iterdir():
        data = path.read_bytes()
        assert data.startswith(b"%PDF" if path.suffix == ".pdf" else b"<?xml")
        assert b"#01010" not in data  # no colour is a page's variable
    again = tmp_path / "again"
    medal("report", run, "--out", tmp_path / "y.html", "--figures", again)
    assert all(path.read_bytes() == (again / path.name).read_bytes() for path in (tmp_path / "figures").glob("*.svg"))


def test_without_the_option_nothing_is_saved(run, medal, tmp_path):
    medal("report", run, "--out", tmp_path / "x.html")
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]
