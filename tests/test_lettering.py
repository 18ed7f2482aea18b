"""Names of classes in pictures, and names of files in tables, in whatever letters people have."""

import csv
import os
import shutil

import numpy as np
import pytest
import student_squares
from matplotlib import font_manager

from medal.student.figures.lettering import letter, shorten
from medal.student.figures.plots import plot_run


def test_names_that_a_font_has_are_drawn_as_they_are():
    found = letter(["normal", "Łódź", "κ"])
    assert found == (["normal", "Łódź", "κ"], ["DejaVu Sans"], "")


def test_names_that_no_font_has_are_their_numbers_and_never_two_alike():
    found = letter(["正常", "肺炎", "normal", "結核"], further=())
    assert found.labels == ["1", "2", "normal", "4"]
    assert "order of run.json" in found.legend


@pytest.mark.parametrize("name", ["正常", "ปกติ"])
def test_a_font_that_has_the_letters_is_taken(name, tmp_path):
    _draw_font(tmp_path / "font.ttf", name)
    font_manager.fontManager.addfont(tmp_path / "font.ttf")
    family = font_manager.fontManager.ttflist[-1].name
    try:
        found = letter([name, "normal"], further=("nothing of this name", family))
    finally:
        font_manager.fontManager.ttflist.pop()
    assert found == ([name, "normal"], ["DejaVu Sans", family], "")


def _draw_font(path, signs):
    """Save a font of triangles for some signs, under a name of its own."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    names = [".notdef", *(f"g{ord(sign):x}" for sign in dict.fromkeys(signs))]
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 500), (500, 500)):
        pen.lineTo(point)
    pen.closePath()
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder(names)
    made.setupCharacterMap({ord(sign): f"g{ord(sign):x}" for sign in signs})
    made.setupGlyf(dict.fromkeys(names, pen.glyph()))
    made.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": f"Triangles {ord(signs[0]):x}", "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    made.save(path)


def test_long_names_with_one_beginning_are_told_apart():
    cut = shorten(["pneumonia of the left lobe, upper", "pneumonia of the left lobe, lower", "normal"])
    assert [one[:2] for one in cut] == ["1 ", "2 ", "no"]


def test_plots_of_such_names_warn_of_nothing(tmp_path):
    logits = np.random.default_rng(0).normal(size=(30, 3))
    row = {"epoch": 1.0, "train_loss": 1.0, "val_loss": 1.0, "val_auroc": 0.5, "val_accuracy": 0.5}
    plot_run(
        tmp_path,
        history=[row],
        logits={"student": logits, "teacher": logits},
        labels=np.arange(30) % 3,
        task="multiclass",
        classes=["正常", "肺炎", "سليم"],
    )
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_a_file_name_of_latin_1_leaves_the_table_utf_8(squares, terminal, tmp_path):
    (tmp_path / "pictures").mkdir()
    student_squares.lay_out_pictures(squares / "run", tmp_path / "pictures")
    one, other = sorted((tmp_path / "pictures/val").iterdir())[:2]
    strange = os.fsencode(tmp_path) + b"/caf\xe9.png"
    shutil.copy(one, strange)
    shutil.copy(other, tmp_path / "café.png")
    words = ("predict", squares / "run", tmp_path / "café.png")
    done = terminal(*words, os.fsdecode(strange), "--out", tmp_path / "a.csv")
    assert done.returncode == 0, done.stderr
    table = list(csv.DictReader((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["file"].rpartition("/")[2] for row in table] == ["café.png", "caf\\xe9.png"]
    assert "1 file name is not UTF-8" in done.stderr
    again = terminal(*words, "--out", tmp_path / "b.csv")
    assert "UTF-8" not in again.stderr
