"""What looks like a split, a patient, an unknown label or a mask and is called otherwise: read, said or refused."""

import numpy as np
import pytest
from layout_cases import CLASSES, Read, save, save_classes, save_flat, write_table
from PIL import Image

from medal.cache.errors import DataError
from medal.pipeline.datasets import DatasetOptions, open_dataset
from medal.pipeline.datasets.kinds.tree import find_masks

SPLIT = ("test", "val", "train", "train", "train")


SAME = dict(zip(CLASSES, CLASSES, strict=True))


def table_of(folder, header, *columns, name="labels.csv"):
    """Write a table of flat files; a column is what each class has in it, or what rows have in turn."""
    rows = [
        (f"{stem}.png", *(cells[label] if isinstance(cells, dict) else cells[at % len(cells)] for cells in columns))
        for at, (stem, label) in enumerate(save_flat(folder))
    ]
    return write_table(folder / name, header, rows)


# Tables


@pytest.mark.parametrize(
    "head",
    [
        "\n\nfile,label",
        ",,\nfile,label",
        "# exported by x, yesterday\n# again\nfile,label",
        "File,Label",
        " FILE , LABEL ",
    ],
)
def test_headers_as_people_write_them(tmp_path, head):
    table = table_of(tmp_path, head, SAME)
    with table.open("a") as file:
        file.write(" ,\n,\n")
    assert Read(table).counts == dict.fromkeys(CLASSES, 10)


def test_a_table_without_a_header_loses_no_row(tmp_path):
    rows = [(f"{stem}.png", label) for stem, label in save_flat(tmp_path)]
    table = write_table(tmp_path / "labels.csv", ",".join(rows[0]), rows[1:])
    for options in ({}, {"unlabelled": True}):
        with pytest.raises(DataError, match=r"has 'benign_0.png' in its first row, which names a file, and no header"):
            open_dataset(table, DatasetOptions(**options))


def test_a_column_of_splits_is_known_by_its_name_in_any_case(tmp_path):
    table = table_of(tmp_path, "file,label,Split", SAME, SPLIT)
    assert Read(table).sizes == (18, 6, 6)
    assert Read(table, {"split_column": "none"}).sizes == (21, 5, 4)
    table = table_of(tmp_path, "file,label,split", SAME, ("test", "NaN", "train", "train", "train"))
    assert Read(table).sizes == (21, 3, 6)


@pytest.mark.parametrize(
    ("column", "cells", "flags", "sizes"),
    [
        ("set", SPLIT, {"split_column": "set"}, (18, 6, 6)),
        (
            "is_test",
            (1, 0, 0, 0, 0),
            {"split_column": "is_test", "split_names": (("1", "test"), ("0", "train"))},
            (21, 3, 6),
        ),
    ],
)
def test_a_column_that_looks_like_splits_is_not_passed_over_without_a_word(tmp_path, column, cells, flags, sizes):
    table = table_of(tmp_path, f"file,label,{column}", SAME, cells)
    read = Read(table)
    assert f"column '{column}' looks like splits" in read.said
    assert f"--split-column '{column}'" in read.said
    read = Read(table, flags)
    assert (read.sizes, "looks like" in read.said) == (sizes, False)
    assert "looks like" not in Read(table, {"split_column": "none"}).said


def test_a_file_is_looked_for_beside_its_own_table(tmp_path):
    for split in ("train", "test"):
        table_of(tmp_path / split, "file,label", SAME)
        for path in (tmp_path / split).glob("*.png"):
            Image.fromarray(np.asarray(Image.open(path)) ^ (split == "test")).save(path)
    tables = {"test_table": str(tmp_path / "test/labels.csv"), "split_column": None}
    assert Read(tmp_path / "train/labels.csv", tables).sizes == (26, 4, 30)
    (tmp_path / "test/benign_3.png").unlink()
    with pytest.raises(DataError, match=r"1 file that is not there, .*: '../test/benign_3.png'"):
        Read(tmp_path / "train/labels.csv", tables)


def test_tables_of_one_set_have_the_columns_that_are_read(tmp_path):
    train = table_of(tmp_path, "file,label,group", SAME, [at // 2 for at in range(30)])
    val = table_of(tmp_path / "more", "file,label", SAME)
    with pytest.raises(DataError, match=r"table '.*more.*' has no column 'group', which is read of table"):
        Read(train, {"val_table": str(val)})
    assert (
        "has no column 'group', which is read of no row"
        in Read(train, {"val_table": str(val), "group_column": "none"}).said
    )


def test_two_cells_of_a_table_are_two_files(tmp_path):
    save_flat(tmp_path / "all")
    rows = [(f"{site}/{label}_{index}.png", label) for site in "AB" for label in CLASSES for index in range(10)]
    table = write_table(tmp_path / "labels.csv", "file,label", rows)
    with pytest.raises(DataError, match=r"has 'A/benign_0.png' and 'B/benign_0.png', and '.*' is the only file"):
        Read(table, {"image_folders": (str(tmp_path / "all"),)})


def test_lists_of_names_are_read_to_the_last_name(tmp_path):
    table = table_of(tmp_path, "file,label", SAME)
    lists = {name: str(tmp_path / f"{name}.txt") for name in ("test", "train")}
    (tmp_path / "test.txt").write_text("benign_0\nmalignant_0.png\nelse/normal_0.png\nnobody.png\n")
    read = Read(table, {"split_lists": (("test", lists["test"]),)})
    assert read.sizes[2] == 3
    assert "1 of 4 names are of no row of the table, 'nobody.png' for one" in read.said
    (tmp_path / "train.txt").write_text("benign_0.png\nbenign_1.png\n")
    with pytest.raises(DataError, match=r"has 1 file that another --split-list has for test, 'benign_0.png'"):
        Read(table, {"split_lists": tuple(lists.items())})
    (tmp_path / "test.txt").write_text("0.png\n")
    rows = [(f"{label}/0.png", label) for label in CLASSES]
    for label in CLASSES:
        save(tmp_path / label / "0.png", label, 0)
    with pytest.raises(DataError, match=r"has '0.png', which fits several files of the table, 'benign/0.png'"):
        Read(write_table(tmp_path / "few.csv", "file,label", rows), {"split_lists": (("test", lists["test"]),)})


def test_a_link_to_nothing_in_a_table_may_be_skipped(tmp_path):
    table = table_of(tmp_path, "file,label", SAME)
    for index in range(3):
        (tmp_path / f"benign_{index}.png").unlink()
        (tmp_path / f"benign_{index}.png").symlink_to("annex/object")
    with pytest.raises(DataError, match=r"3 of 30 images .*\n.*'benign_0.png' is a link to nothing \('annex/object'\)"):
        Read(table)
    read = Read(table, settings={"on_bad_image": "skip"})
    assert (read.counts["benign"], len(read.arranged.skipped)) == (7, 3)


# Labels


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (("0", "1", "-9"), r"has '-9' \(10\) .* --unknown-label -9"),
        (("0", "1", "255"), r"has '255' \(10\) .* --unknown-label 255"),
        (("mild", "severe", "na"), r"has 'na' \(10\) .* --unknown-label na"),
        (("mild", "severe", "#VALUE!"), r"has '#VALUE!' \(10\)"),
        (("yes", "no", "1"), r"spelling of a number or of yes and no: '1' \(10\), 'yes' \(10\)"),
        (("edema", "mass", "edema mass"), r"looks like several labels; --label-separator ' '"),
        (("edema", "mass", "edema^mass"), r"looks like several labels; --label-separator '\^'"),
        (("41", "57", "63"), "3 classes, which look like a measurement"),
        (("patient1", "patient2", "patient3"), "3 classes that are one word and a number, .*--label-column"),
    ],
)
def test_more_classes_that_look_wrong(tmp_path, cells, said):
    of_class = dict(zip(CLASSES, cells, strict=True))
    table = table_of(tmp_path, "file,label", of_class)
    with pytest.raises(DataError, match=said):
        open_dataset(table)
    made = open_dataset(table, DatasetOptions(accept_classes=True))
    assert len(made.classes) == 3
    assert open_dataset(table, classes=made.classes).label.tolist() == made.label.tolist()


@pytest.mark.parametrize(
    "cells",
    [
        ("1", "2", "3"),
        ("4", "5", "6"),
        ("grade 1", "grade 2", "grade 3"),
        ("covid", "non-covid", "normal"),
        ("N", "F", "0"),
    ],
)
def test_more_classes_that_are_taken(tmp_path, cells):
    of_class = dict(zip(CLASSES, cells, strict=True))
    assert open_dataset(table_of(tmp_path, "file,label", of_class)).classes == tuple(sorted(cells))


def test_a_class_called_unknown_is_said(tmp_path):
    of_class = dict(zip(CLASSES, ("benign", "malignant", "unknown"), strict=True))
    table = table_of(tmp_path, "file,label", of_class)
    assert (
        "'unknown' (10) is read as a class of its own: --unknown-label unknown reads it as unknown" in Read(table).said
    )
    assert Read(table, {"unknown_labels": ("unknown",)}).counts == {"benign": 10, "malignant": 10}


def test_columns_of_yes_and_no(tmp_path):
    table = table_of(tmp_path, "file,a,b", ("TRUE", "False"), ("no", "Yes"))
    assert Read(table, {"label_columns": ("a", "b")}).counts == {"a": 15, "b": 15}


def test_what_minus_one_means_has_to_be_said(tmp_path):
    table = table_of(tmp_path, "file,a,b", (1, 0, -1), (0, 1))
    with pytest.raises(DataError, match=r"; -1 in 'a': --uncertain 0, 1 or unknown\.$"):
        open_dataset(table, DatasetOptions(label_columns=("a", "b")))
    for said, count in (("0", 10), ("1", 20), ("unknown", 10)):
        assert Read(table, {"label_columns": ("a", "b"), "uncertain": said}).counts["a"] == count
    # A cache beside it says that it was settled.
    known = DatasetOptions(label_columns=("a", "b"), known_classes=("a", "b"))
    assert (open_dataset(table, known).label[:, 0] == 255).sum() == 10


def test_labels_in_one_cell_are_looked_at_too(tmp_path):
    def read(*cells, **options):
        table = table_of(tmp_path, "file,label", cells)
        return Read(table, {"label_separator": "|", **options})

    with pytest.raises(DataError, match=r"spelling of a number or of yes and no: 'Mass' \(10\), 'mass' \(20\)"):
        read("Mass|edema", "mass", "mass|edema")
    with pytest.raises(DataError, match=r"has 'mass;edema' \(15\) for a class, which looks like several labels"):
        read("mass;edema", "mass")
    blank = read("mass|edema", "mass", "", "edema", "mass")
    assert "6 cells of labels are empty: unknown; --blank 0 = no label" in blank.said
    assert (blank.dataset.label == 255).all(1).sum() == 6
    assert (read("mass|edema", "mass", "", "edema", "mass", blank="0").dataset.label == 0).all(1).sum() == 6


# Folders


@pytest.mark.parametrize(
    "names", [("train2017", "val2017"), ("ISIC_Training_Input", "ISIC_Test_Input"), ("trn", "tst")]
)
def test_folders_that_look_like_splits_are_no_classes(tmp_path, names):
    for name in names:
        for index in range(4):
            save(tmp_path / "loose" / name / f"{index}.png", name, index)
        save_classes(tmp_path / "sorted" / name, 4)
    with pytest.raises(DataError, match=rf"look like splits, .*--split-names .*{names[0]}=train"):
        open_dataset(tmp_path / "loose")
    assert len(open_dataset(tmp_path / "loose", DatasetOptions(class_level=1)).classes) == 2
    with pytest.raises(DataError, match="look like splits"):
        open_dataset(tmp_path / "sorted")
    assert "folders look like splits and are not read as such" in Read(tmp_path / "sorted", {"class_level": 2}).said
    told = (names[0], "train"), (names[1], "test")
    assert Read(tmp_path / "sorted", {"split_names": told}).sizes[2] == 12


def test_parts_of_a_set_are_no_classes(tmp_path):
    save_classes(tmp_path, 4, ("fold1", "fold2", "fold3"))
    with pytest.raises(DataError, match=r"3 classes that are one word and a number, .*--class-level K"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        (("a.jpg", "a_lesion_mask.png", "amask.png", "mask_a.png", "a_contour.png", "a_overlay.jpg"), 5),
        (("images/x/1.png", "masks/x/1.png", "images/y/2.png", "masks/y/2.png"), 2),
        (("train/images/1.png", "train/lesion_masks/1_mask.png"), 1),
        (("damask.png", "da.png"), 1),
        (("a/img/1.png", "a/lbl/1.png"), 1),
        (("masks/x/1.png", "other/x/2.png"), 0),
    ],
)
def test_masks_in_other_spellings(names, masks):
    assert len(find_masks(names)) == masks


# Patients


def test_signs_of_patients_in_names_and_folders(tmp_path):
    for label in CLASSES:
        for index in range(6):
            save(tmp_path / "eyes" / label / f"{label}{index}-left.png", label, index)
            save(tmp_path / "eyes" / label / f"{label}{index}-right.png", label, 100 + index)
            save(tmp_path / "made" / label / f"{label}{index}.png", label, index)
            save(tmp_path / "made" / label / f"{label}{index}_flip.png", label, 200 + index)
            for slice_ in range(4):
                save(tmp_path / "deep" / label / f"P{index}" / f"{slice_}.png", label, 300 + 10 * index + slice_)
    assert (
        "36 images share a stem with others (18 stems, 'benign/benign0-left.png' is one of 2)"
        in Read(tmp_path / "eyes").said
    )
    assert "18 images are called as another is with a word behind it" in Read(tmp_path / "made").said
    assert "72 images share a folder with others (18 folders" in Read(tmp_path / "deep", {"class_level": 1}).said
    grouped = Read(tmp_path / "deep", {"class_level": 1, "group_pattern": "(.+)/[^/]+$"})
    assert (grouped.patients, "share" in grouped.said) == ((18, {4}), False)


def test_patients_in_several_given_splits_are_said(tmp_path):
    header = "file,label,split,group"
    table = table_of(tmp_path, header, SAME, SPLIT, [at // 5 % 4 for at in range(30)])
    told = "4 patients have images in more than one split"
    assert told in "\n".join(Read(table).arranged.warnings)
    table = table_of(tmp_path, header, SAME, SPLIT, range(5))
    assert "in more than one split" not in "\n".join(Read(table).arranged.warnings)
    for split in ("train", "test"):
        for label in CLASSES:
            for index in range(6):
                number = f"{index % 3}_{index + 10 * (split == 'test')}"
                save(tmp_path / "set" / split / label / f"{label}{number}.png", split + label, index)
    assert (
        "images of 9 names with a stem in common stand in several splits, 'benign/benign0' for one"
        in Read(tmp_path / "set").said
    )


def test_how_patients_are_written(tmp_path):
    table = table_of(tmp_path, "file,label,group", SAME, [*map(str, range(8)), "3.0", "NA"])
    read = Read(table)
    assert "3 rows have 'NA' for a patient, which is read as none" in read.said
    assert "1 patient is written in several ways, '3', '3.0' for one, and counts as several" in read.said
    assert (read.dataset.group < 0).sum() == 3


def test_an_image_in_two_formats_is_said(tmp_path):
    save_classes(tmp_path)
    assert "suffixes" not in Read(tmp_path).said
    for label in CLASSES:
        save(tmp_path / label / "003.bmp", label, 3)
    assert "3 images are there with several suffixes, 'benign/003' for one" in Read(tmp_path).said


# Pages


def test_pages_that_are_not_read_are_counted(tmp_path):
    for label in CLASSES:
        for index in range(4):
            save(tmp_path / label / f"{index}.png", label, index)
        for number, suffix in enumerate((".tif", ".gif", ".webp"), 4):
            more = [Image.new("L", (16, 16), 40 * number)]
            save(tmp_path / label / f"{number}{suffix}", label, number, save_all=True, append_images=more)
            save(tmp_path / label / f"one{number}{suffix}", label, 10 + number)
    read = Read(tmp_path)
    assert (
        "9 files of 30 hold several pages or frames, 'benign/4.tif' for one, and the first of each is read alone"
        in (read.said)
    )
    assert read.counts == dict.fromkeys(CLASSES, 10)
    rows = [(f"{label}/{number}.gif", label, page) for label in CLASSES for number in (5,) for page in (1, 2)]
    table = write_table(tmp_path / "pages.csv", "file,label,frame", rows)
    assert [int(open_dataset(table).images.read(row).max()) for row in (1, 3, 5)] == [200, 200, 200]
