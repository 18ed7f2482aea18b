"""What used to be read wrongly without a word, or refused with a word that misled."""

import numpy as np
import pytest
import tifffile
from layout_cases import CLASSES, Read, draw, save, save_classes, save_flat, write_table

from medal.cache.errors import DataError
from medal.pipeline.datasets import DatasetOptions, open_dataset
from medal.pipeline.datasets.pixels.picture import decode_picture

EVERY = dict.fromkeys(CLASSES, 10)


def table_of(folder, label=lambda name, _: name, header="file,label"):
    """Write thirty drawn images, ten a class, and a table of them; a label is made of the class and the row."""
    rows = [(f"img/{stem}.png", label(name, row)) for row, (stem, name) in enumerate(save_flat(folder / "img"))]
    return write_table(folder / "labels.csv", header, rows)


# Texts


def test_a_table_of_excel_in_western_europe_is_read_with_a_word(tmp_path, caplog):
    french = {"benign": "bénin", "malignant": "tumeur", "normal": "nævus"}
    table = table_of(tmp_path, lambda name, _: french[name])
    table.write_bytes(table.read_text().encode("cp1252"))
    assert open_dataset(table).classes == ("bénin", "nævus", "tumeur")
    assert f"table '{table}' is not UTF-8 text: it is read as Windows-1252, 'bénin' for one" in caplog.text
    (tmp_path / "test.txt").write_bytes("img/benign_0.png\nimg/é.png\n".encode("cp1252"))
    listed = Read(table, {"split_lists": (("test", str(tmp_path / "test.txt")),)})
    assert "1 of 2 names are of no row of the table, 'img/é.png' for one" in listed.said


@pytest.mark.parametrize(("encoding", "word"), [("cp1251", "норма"), ("gbk", "正常"), ("shift-jis", "正常")])
def test_a_table_in_another_encoding_is_refused(tmp_path, encoding, word):
    table = table_of(tmp_path, lambda name, _: word if name == "normal" else name)
    table.write_bytes(table.read_text().encode(encoding))
    with pytest.raises(DataError, match=r"is not UTF-8 text .*; save it as CSV UTF-8"):
        open_dataset(table)


def test_rows_are_counted_as_a_spreadsheet_counts_them(tmp_path):
    table = table_of(tmp_path, lambda name, row: "NA" if row == 4 else name)
    table.write_text("# made by hand\n\n" + table.read_text().replace("img/benign_2", "\n,\nimg/benign_2"))
    with pytest.raises(DataError, match=r"has 'NA' \(1\) for a class in 1 row, row 10 for one"):
        open_dataset(table)
    other = write_table(tmp_path / "val.csv", "file,label", [("img/benign_0.png", "benign"), ("", "normal")])
    with pytest.raises(DataError, match=rf"names no file in row 3 of '{other}'; expected"):
        open_dataset(table, DatasetOptions(val_table=str(other), unknown_labels=("NA",)))


def test_big_endian_text_without_a_mark_is_read(tmp_path):
    table = table_of(tmp_path)
    table.write_bytes(table.read_text().encode("utf-16-be"))
    assert Read(table).counts == EVERY


# Files


def test_missing_files_of_a_table_can_be_left_out(tmp_path, medal, teacher):
    table = table_of(tmp_path)
    for name in ("benign_3", "normal_1"):
        (tmp_path / f"img/{name}.png").unlink()
    with pytest.raises(DataError, match=r"names 2 files that are not there, .* give cache-teacher --on-bad-image skip"):
        open_dataset(table)
    cache = tmp_path / "some.zarr"
    made = ("cache-teacher", table, cache, "--teacher", teacher, "--image-size", 28, "--allow-low-contrast")
    with pytest.raises(DataError, match="names 2 files that are not there"):
        medal(*made)
    assert sum(medal(*made, "--on-bad-image", "skip")["rows"].values()) == 28
    listed = (tmp_path / "some.zarr.skipped.csv").read_text()
    assert ("img/benign_3.png" in listed, "img/normal_1.png" in listed) == (True, True)
    # Stage two knows from the cache that two files have no key, and does not ask for them.
    fitting = medal("show", cache, table)["fit"]
    assert (sum(fitting["matched"].values()), fitting["left_out"], fitting["missing"]) == (28, 2, {})
    for path in (tmp_path / "img").glob("benign_*"):
        path.unlink()
    for path in (tmp_path / "img").glob("malignant_*"):
        path.unlink()
    with pytest.raises(DataError, match="names 21 files that are not there"):
        medal(*made, "--on-bad-image", "skip", "--overwrite")


def test_archives_of_windows_are_named(tmp_path):
    for name in CLASSES:
        save(tmp_path / f"set\\{name}\\1.png", name, 1)
    with pytest.raises(
        DataError, match=r"3 files have backslashes in their names, 'set.benign.1.png' for one, .*unpack"
    ):
        open_dataset(tmp_path)


def test_animated_png_is_said(tmp_path):
    for name in CLASSES:
        for index in range(4):
            save(tmp_path / f"{name}/{index}.png", name, index, save_all=True, append_images=[draw(name, index + 50)])
    said = Read(tmp_path).said
    assert "12 files of 12 hold several pages or frames, 'benign/0.png' for one, and the first of each is" in said
    assert "column 'frame'" not in said


def test_every_orientation_that_a_tiff_declares_is_heeded_whoever_reads_it(tmp_path):
    pixels = np.asarray(draw("turned", 1))[:6]
    for tag in range(1, 9):
        shown = []
        for name, values in {"pillow": pixels, "tifffile": (pixels / 255).astype(np.float16)}.items():
            path = tmp_path / f"{name}{tag}.tif"
            tifffile.imwrite(path, values, extratags=[(274, "H", 1, tag, True)])
            shown.append(decode_picture(path.read_bytes(), path.name, "declared"))
        assert shown[0].shape == ((6, 16, 1) if tag < 5 else (16, 6, 1))
        assert np.abs(shown[0].astype(float) - shown[1]).max() < 0.1, tag


# Folders against tables


def in_splits(folder):
    """Write SPLIT/CLASS/file, eight of each, and return rows of file, class and split."""
    rows = []
    for split in ("train", "val", "test"):
        for name in CLASSES:
            for index in range(8):
                save(folder / f"{split}/{name}/{index}.png", split + name, index)
                rows.append((f"{split}/{name}/{index}.png", name, split))
    return rows


def test_a_table_that_contradicts_the_folders_of_its_files_is_said(tmp_path):
    rows = in_splits(tmp_path)
    table = write_table(tmp_path / "labels.csv", "file,label,split", rows)
    assert "the table is heeded" not in Read(table).said
    torn = [(file, name, "train" if split == "test" else split) for file, name, split in rows]
    read = Read(write_table(table, "file,label,split", torn))
    assert "24 of 72 files are of another split than their folder is called, 'test/benign/0.png' of train" in read.said
    assert read.sizes == (48, 24, 0)
    drawn = write_table(table, "file,label", [row[:2] for row in rows])
    assert (
        "files lie in folders called as splits, 'train/benign/0.png' for one, and the table has no" in Read(drawn).said
    )
    assert "folders called as splits" not in Read(drawn, {"split_column": "none"}).said
    wrong = [(file, "normal" if file.endswith("benign/3.png") else name, split) for file, name, split in rows]
    said = Read(write_table(table, "file,label,split", wrong)).said
    assert "3 of 72 files are of another class than their folder is called, 'train/benign/3.png' of 'normal'" in said


# Options that nothing listens to


def test_options_that_would_go_unheard_are_refused(tmp_path):
    table = table_of(tmp_path)
    save_classes(tmp_path / "set")
    bits = write_table(tmp_path / "bits.csv", "file,a,b", [("img/benign_0.png", 1, 0), ("img/benign_1.png", 0, 1)])
    columns = {"label_columns": ("a", "b")}
    for spec, options, said in (
        (bits, {**columns, "rename_classes": (("a", "x"),)}, "--rename-class is about classes in cells"),
        (bits, {**columns, "unknown_labels": ("x",)}, "--unknown-label is about classes in cells"),
        (table, {"label_separator": "|", "rename_classes": (("x", "y"),)}, "no label 'x' for --rename-class or"),
        (tmp_path / "set", {"repeated": "any"}, "has no columns for --repeated"),
        (tmp_path / "set", {"split_names": (("one", "train"),)}, "has no split called 'one' for --split-names"),
        (table, {"split_names": (("one", "train"),)}, "has no split called 'one' for --split-names"),
    ):
        with pytest.raises(DataError, match=said):
            open_dataset(spec, DatasetOptions(**options))


# Labels


def test_blanks_that_a_program_spells_are_asked_for_as_empty_ones_are(tmp_path):
    rows = [(f"img/{stem}.png", "1.0" if name == "benign" else "nan") for stem, name in save_flat(tmp_path / "img")]
    table = write_table(tmp_path / "labels.csv", "file,benign", rows)
    with pytest.raises(DataError, match=r"blank cells \('benign' with blanks and no 0, or no 1\): --blank 0 or"):
        open_dataset(table, DatasetOptions(label_columns=("benign",)))
    assert Read(table, {"label_columns": ("benign",), "blank": "0"}).counts == {"benign": 10}


def test_a_rare_class_that_is_called_nearly_as_a_frequent_one_is_said(tmp_path):
    table = table_of(tmp_path, lambda name, row: "normla" if row in (21, 22) else "normal" if row > 9 else name)
    said = "class 'normla' (2) is called nearly as 'normal' (18): if it is misspelled, --rename-class normla=normal"
    assert said in Read(table).said
    assert Read(table, {"rename_classes": (("normla", "normal"),)}).counts == {"benign": 10, "normal": 20}


@pytest.mark.parametrize("write", ["{}y", "{} mm", "{}%", "1e-{}", '"{},5"', "2024-01-{}", "1.0{}"])
def test_ages_sizes_and_dates_are_no_classes_however_they_are_written(tmp_path, write):
    table = table_of(tmp_path, lambda _, row: write.format(10 + row % 12))
    with pytest.raises(DataError, match=r"has 12 classes, which look like a measurement"):
        open_dataset(table)
    assert len(open_dataset(table, DatasetOptions(accept_classes=True)).classes) == 12


@pytest.mark.parametrize("cells", [("0,5", "1,0", "1,5"), ("3 mm", "5 mm", "8 mm"), ("1-10", "11-20", "21-30")])
def test_a_few_numbers_in_words_are_classes(tmp_path, cells):
    written = dict(zip(CLASSES, cells, strict=True))
    assert len(open_dataset(table_of(tmp_path, lambda name, _: f'"{written[name]}"')).classes) == 3
