"""Tables as people have them: files, labels, rows and patients as published, and what is refused in a sentence."""

import gzip
import unicodedata

import pytest
from layout_cases import CLASSES, Read, save, save_flat, write_table

from medal.cache.errors import DataError
from medal.pipeline.datasets import DatasetOptions, dataset_kind, open_dataset

EVERY = dict.fromkeys(CLASSES, 10)


def flat(folder, header="file,label", path=lambda stem: f"img/{stem}.png", **options):
    """Write a table of thirty drawn images, each in a file of its own."""
    rows = [(path(stem), name) for stem, name in save_flat(folder / "img")]
    return write_table(folder / "labels.csv", header, rows, **options)


# Texts


def test_separators_marks_and_packing(tmp_path):
    path = flat(tmp_path)
    text = path.read_text()
    written = {
        "excel.csv": ("sep=;\n" + text.replace(",", ";")).encode(),
        "tabs.tsv": text.replace(",", "\t").encode(),
        "bars.csv": text.replace(",", "|").encode(),
        "packed.csv.gz": gzip.compress(text.encode()),
        "packed.tsv.gz": gzip.compress(text.replace(",", "\t").encode()),
        "wide.csv": text.encode("utf-16"),
        "wide-without-mark.csv": text.encode("utf-16-le"),
        "marked.CSV": text.encode("utf-8-sig"),
        "quoted.csv": text.replace("file,label", '"file","label"').replace("\n", "\r\n").encode(),
    }
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
        assert dataset_kind(str(tmp_path / name)) == "table"
        dataset = open_dataset(tmp_path / name)
        assert (dataset.classes, len(dataset)) == (CLASSES, 30), name
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text.encode())[:40])
    with pytest.raises(DataError, match=r"is not a whole gzip file .*copy it again, or unpack it"):
        open_dataset(tmp_path / "cut.csv.gz")


# Files


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_letters_with_marks_may_be_composed_or_not(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    rows = []
    for name in CLASSES:
        for index in range(10):
            file = f"Müller/Jörg_{name}_{index}.png"
            save(tmp_path / unicodedata.normalize(form, file), name, index)
            rows.append((unicodedata.normalize(other, file), name))
    assert Read(write_table(tmp_path / "labels.csv", "file,label", rows)).counts == EVERY


@pytest.mark.parametrize(
    "path",
    [
        "img\\{}.png",
        "{}.png",
        "{}",
        "/mnt/study/img/{}.png",
        "C:\\study\\img\\{}.png",
        "./img/{}",
        "{}.dcm",
        "study/img/{}.png",
    ],
)
def test_files_are_found_under_folders_of_images(tmp_path, path):
    table = flat(tmp_path, path=path.format)
    read = Read(table, {"image_folders": (str(tmp_path),)})
    assert read.counts == EVERY
    assert read.dataset.account.left_out == 0


def test_a_file_of_another_patient_is_never_taken_for_one_that_is_missing(tmp_path):
    for patient in ("p1", "p2"):
        save(tmp_path / f"img/{patient}/view1.png", patient, 1)
    path = write_table(tmp_path / "t.csv", "file,label", [("p1/view1.png", "a"), ("p3/view1.png", "b")])
    with pytest.raises(DataError, match=r"names 1 file that is not there, .* or under '.*img': 'p3/view1.png'"):
        open_dataset(path, DatasetOptions(image_folders=(str(tmp_path / "img"),)))
    write_table(path, "file,label", [("p1/view1.png", "a"), ("view1.png", "b")])
    with pytest.raises(DataError, match=r"has 1 name that fit several files, 'view1.png' for one: .*p1/view1.png', '"):
        open_dataset(path, DatasetOptions(image_folders=(str(tmp_path / "img"),)))
    with pytest.raises(DataError, match=r"There is no folder 'nowhere' for --images"):
        open_dataset(path, DatasetOptions(image_folders=("nowhere",)))


def test_images_that_no_row_names_are_counted(tmp_path):
    table = flat(tmp_path)
    save(tmp_path / "img/more.png", "more", 1)
    (tmp_path / "img/notes.txt").write_text("x")
    said = Read(table, {"image_folders": (str(tmp_path / "img"),)}).said
    assert (
        "30 rows found, 30 used; beside them 2 files (documents 1, for instance 'notes.txt'; in no row of the" in said
    )


def test_the_only_column_of_files_is_found_and_said(tmp_path):
    table = flat(tmp_path, "image,label")
    read = Read(table)
    assert "column 'image' names the files: it is the only one whose cells are files" in read.said
    assert read.dataset.reading == {"file_column": "image"}
    rows = [(f"img/{stem}.png", f"img/{stem}.png", name) for stem, name in save_flat(tmp_path / "img")]
    with pytest.raises(DataError, match=r"no column 'file' for the images' paths; 'left', 'right' could be;"):
        Read(write_table(table, "left,right,label", rows))
    assert Read(table, {"file_column": "right"}).counts == EVERY
    with pytest.raises(DataError, match=r"no column 'x' for --file-column"):
        Read(table, {"file_column": "x"})


# Splits


def test_splits_have_the_names_of_the_field_or_those_given(tmp_path):
    names = {0: "train", 1: "validate", 2: "testing"}

    def write(call):
        rows = [
            (f"img/{stem}.png", name, call(names[0 if row % 10 < 6 else 1 if row % 10 < 8 else 2]))
            for row, (stem, name) in enumerate(save_flat(tmp_path / "img"))
        ]
        return write_table(tmp_path / "labels.csv", "file,label,split", rows)

    assert Read(write(str)).sizes == (18, 6, 6)
    numbers = {"train": 1, "validate": 2, "testing": 3}
    with pytest.raises(DataError, match=r"has the split '1' in row 2; .* --split-names 1=train,2=val,3=test"):
        Read(write(numbers.get))
    pairs = (("1", "train"), ("2", "val"), ("3", "test"))
    assert Read(write(numbers.get), {"split_names": pairs}).sizes == (18, 6, 6)


def test_several_tables_are_one_set(tmp_path):
    rows = [(f"img/{stem}.png", name, "x") for stem, name in save_flat(tmp_path / "img")]
    train = write_table(tmp_path / "train.csv", "file,label,more", [row for at, row in enumerate(rows) if at % 5])
    valid = write_table(tmp_path / "sub/valid.csv", "file,label", [row[:2] for row in rows[::5]])
    assert Read(train, {"val_table": str(valid)}).sizes == (24, 6, 0)
    test = write_table(tmp_path / "test.csv", "other", [["1"]])
    with pytest.raises(DataError, match=r"test.csv' has no column of table '.*train.csv'; expected the same columns"):
        Read(train, {"test_table": str(test)})


def test_lists_of_names_are_splits(tmp_path):
    table = flat(tmp_path)
    (tmp_path / "test.txt").write_text("benign_0.png\nimg/normal_3.png\n\n")
    read = Read(table, {"split_lists": (("test", str(tmp_path / "test.txt")),)})
    assert read.sizes[2] == 2
    assert sum(read.sizes) == 30
    (tmp_path / "test.txt").write_text("nobody.png\n")
    with pytest.raises(DataError, match=r"--split-list test=.* names no file of the table, 'nobody.png' for one"):
        Read(table, {"split_lists": (("test", str(tmp_path / "test.txt")),)})


# Labels


def test_several_labels_in_a_cell(tmp_path):
    cells = {"benign": "edema", "malignant": "edema|mass", "normal": "No Finding"}
    rows = [(f"img/{stem}.png", cells[name]) for stem, name in save_flat(tmp_path / "img")]
    table = write_table(tmp_path / "labels.csv", "file,label", rows)
    with pytest.raises(DataError, match=r"has 'edema\|mass' \(10\) for a class, .*--label-separator '\|'"):
        Read(table)
    read = Read(table, {"label_separator": "|"})
    assert (read.dataset.task, read.counts) == ("multilabel", {"No Finding": 10, "edema": 20, "mass": 10})
    assert (read.dataset.label == 255).sum() == 0
    assert read.dataset.reading == {"label_separator": "|"}
    fewer = Read(table, {"label_separator": "|", "exclude_classes": ("edema",)})
    assert fewer.counts == {"No Finding": 10, "mass": 10}
    table.write_text(table.read_text().replace("No Finding", ""))
    assert (open_dataset(table, DatasetOptions(label_separator="|")).label[20:] == 255).all()


def test_lists_in_a_cell(tmp_path):
    cells = {"benign": "['edema']", "malignant": "['edema', 'mass, left']", "normal": "[]"}
    rows = [(f"img/{stem}.png", f'"{cells[name]}"') for stem, name in save_flat(tmp_path / "img")]
    table = write_table(tmp_path / "labels.csv", "file,label", rows)
    with pytest.raises(DataError, match=r"which looks like a list of labels; --label-separator ','"):
        Read(table)
    read = Read(table, {"label_separator": ","})
    assert read.counts == {"edema": 20, "mass, left": 10}
    assert (read.dataset.label == 255).sum() == 0


def one_hot(tmp_path, *more):
    rows = [
        (f"img/{stem}.png", *(f"{float(name == one)}" for one in (*CLASSES, "rare")))
        for stem, name in save_flat(tmp_path / "img")
    ]
    return write_table(tmp_path / "labels.csv", ",".join(("file", *CLASSES, "rare")), [*rows, *more])


def test_one_hot_columns_are_classes(tmp_path):
    columns = (*CLASSES, "rare")
    table = one_hot(tmp_path)
    read = Read(table, {"label_columns": columns, "one_hot": True})
    assert (read.dataset.task, read.counts) == ("multiclass", EVERY)
    assert "no image is of 'rare': no classes" in read.said
    several = open_dataset(table, DatasetOptions(label_columns=columns))
    assert (several.task, several.notes[0][:31]) == ("multilabel", "every row has exactly one 1 amo")
    for wrong in ("1.0,1.0", "0.0,0.0"):
        one_hot(tmp_path, ["img/benign_0.png", wrong, "0.0,0.0"])
        with pytest.raises(DataError, match=r"has 1 row without exactly one 1 in the one-hot columns, row 32 for one"):
            Read(table, {"label_columns": columns, "one_hot": True})
    with pytest.raises(DataError, match=r"--one-hot is about columns of 0 and 1, and none are named"):
        Read(flat(tmp_path), {"one_hot": True})


def test_what_blanks_and_minus_one_mean_is_asked(tmp_path):
    cells = {"benign": ("1.0", "0.0"), "malignant": ("", "1.0"), "normal": ("-1.0", "1.0")}
    rows = [(f"img/{stem}.png", *cells[name]) for stem, name in save_flat(tmp_path / "img")]
    table = write_table(tmp_path / "labels.csv", "file,edema,mass", rows)
    both = {"label_columns": ("edema", "mass")}
    with pytest.raises(
        DataError, match=r"blank cells \('edema' .*: --blank 0 or --blank unknown; -1 in 'edema': --uncertain 0, 1 or"
    ):
        Read(table, both)
    zero = open_dataset(table, DatasetOptions(**both, blank="0", uncertain="unknown"))
    assert [zero.label[row].tolist() for row in (0, 10, 20)] == [[1, 0], [0, 1], [255, 1]]
    other = open_dataset(table, DatasetOptions(**both, blank="unknown", uncertain="1"))
    assert [other.label[row].tolist() for row in (0, 10, 20)] == [[1, 0], [255, 1], [1, 1]]
    assert other.reading == {"blank": "unknown", "uncertain": "1"}


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            ("0", "0.0", "1"),
            r"spelling of a number or of yes and no: '0' \(10\), '0.0' \(10\); --rename-class 0.0=0 makes one of them",
        ),
        (("mass", "Mass ", "clear"), r"'Mass' \(10\), 'mass' \(10\); --rename-class mass=Mass"),
        (
            ("mass", "NA", "clear"),
            r"has 'NA' \(10\) for a class in 10 rows, row 12 for one; .* --unknown-label NA reads",
        ),
        (("mass", "<NA>", "?"), r"'<NA>' \(10\), '\?' \(10\) .* --unknown-label '<NA>' --unknown-label '\?'"),
        (("1", "-1", "0"), r"has '-1' \(10\) .* --unknown-label -1 reads it as unknown, --accept-classes as a class"),
        (("a; b", "a", "c"), "looks like several labels; --label-separator ';'"),
        (("a, b", "a", "c"), "looks like several labels; --label-separator ,"),
    ],
)
def test_classes_that_look_wrong_are_refused(tmp_path, cells, said):
    of_class = dict(zip(CLASSES, cells, strict=True))
    rows = [(f"img/{stem}.png", f'"{of_class[name]}"') for stem, name in save_flat(tmp_path / "img")]
    table = write_table(tmp_path / "labels.csv", "file,label", rows)
    with pytest.raises(DataError, match=said):
        open_dataset(table)
    assert len(open_dataset(table, DatasetOptions(accept_classes=True)).classes) == 3


@pytest.mark.parametrize("cells", [("none", "mild", "severe"), ("0", "0.5", "2"), ("T1, left", "T2, right", "x/y")])
def test_classes_that_are_merely_odd_are_taken(tmp_path, cells):
    of_class = dict(zip(CLASSES, cells, strict=True))
    rows = [(f"img/{stem}.png", f'"{of_class[name]}"') for stem, name in save_flat(tmp_path / "img")]
    assert len(open_dataset(write_table(tmp_path / "labels.csv", "file,label", rows)).classes) == 3


def test_unknown_labels_and_other_names(tmp_path):
    of_class = {"benign": "NA", "malignant": "M", "normal": "N"}
    rows = [
        (f"img/{stem}.png", of_class[name] if stem[-1] != "0" else "n") for stem, name in save_flat(tmp_path / "img")
    ]
    table = write_table(tmp_path / "labels.csv", "file,label", rows)
    read = Read(table, {"unknown_labels": ("NA",), "rename_classes": (("n", "N"),)})
    assert read.counts == {"M": 9, "N": 12}
    assert (read.dataset.label < 0).sum() == 9


def test_ages_are_no_classes(tmp_path):
    rows = [(f"img/{stem}.png", 20 + 3 * row) for row, (stem, _) in enumerate(save_flat(tmp_path / "img"))]
    table = write_table(tmp_path / "labels.csv", "file,label", rows)
    with pytest.raises(DataError, match=r"30 classes, which look like a measurement: '20', '23', .*--label-column"):
        Read(table)


# Rows


def boxes(tmp_path, label):
    rows = []
    for stem, name in save_flat(tmp_path / "img"):
        rows += [(f"img/{stem}.png", box, label(name, box)) for box in range(1 + (name == "malignant") * 2)]
    return write_table(tmp_path / "labels.csv", "file,box,label", rows)


def test_rows_of_one_image_are_put_together_where_they_agree(tmp_path):
    read = Read(boxes(tmp_path, lambda name, _: int(name == "malignant")))
    assert read.counts == {"0": 20, "1": 10}
    assert "50 rows found, 30 used, 20 left out (put together with another row of the image 20" in read.said


def test_rows_of_one_image_that_disagree_are_refused_or_settled(tmp_path):
    table = boxes(tmp_path, lambda name, box: int(name == "malignant" and box > 0))
    with pytest.raises(
        DataError,
        match=r"has 10 images in more than one row \(30 rows\), and the labels of 10 differ, 'img/malignant_0",
    ):
        Read(table)
    for how, ones in {"first": 0, "any": 10, "majority": 10}.items():
        if ones:
            assert Read(table, {"repeated": how}).counts == {"0": 20, "1": 10}
        else:
            assert open_dataset(table, DatasetOptions(repeated=how)).label.sum() == 0
    readers = boxes(tmp_path, lambda name, box: f"{name}{box}")
    read = Read(readers, {"label_separator": "|", "repeated": "any"})
    assert read.counts == {"benign0": 10, "malignant0": 10, "malignant1": 10, "malignant2": 10, "normal0": 10}
    with pytest.raises(DataError, match=r"--repeated any means one of two classes"):
        Read(readers, {"repeated": "any"})
    with pytest.raises(DataError, match=r"as many rows say 'malignant0' as 'malignant1'; expected a majority"):
        Read(readers, {"repeated": "majority"})


# Patients


def test_a_group_that_cannot_fill_three_splits_is_refused_with_the_way_out(tmp_path):
    arms = {"benign": "control", "malignant": "case", "normal": "control"}
    rows = [(f"img/{stem}.png", name, arms[name]) for stem, name in save_flat(tmp_path / "img")]
    table = write_table(tmp_path / "labels.csv", "file,label,group", rows)
    with pytest.raises(DataError, match=r"2 values in column 'group', 'case', 'control', .* --group-column none"):
        Read(table)
    read = Read(table, {"group_column": "none"})
    assert (read.counts, read.patients) == (EVERY, (0, set()))
    rows = [(*row[:2], "abc"[place % 3]) for place, row in enumerate(rows)]
    with pytest.raises(
        DataError, match=r"has 3 groups for its 30 images, and whole groups leave .* --group-column none"
    ):
        Read(write_table(table, "file,label,group", rows))


def test_patients_in_paths_and_in_columns(tmp_path):
    rows = [
        (f"img/{stem}.png", name, f"{name}{row // 2}") for row, (stem, name) in enumerate(save_flat(tmp_path / "img"))
    ]
    table = write_table(tmp_path / "labels.csv", "file,label,Patient ID", rows)
    assert (
        "column 'Patient ID' repeats: if these are patients, keep each in one split with --group-column"
        in Read(table).said
    )
    assert Read(table, {"group_column": "Patient ID"}).patients == (15, {2})
    assert Read(table, {"group_pattern": r"_(\d)\.png"}).patients == (10, {3})
    with pytest.raises(DataError, match=r"--group-column and --group-pattern were both given"):
        Read(table, {"group_column": "Patient ID", "group_pattern": r"_(\d)\.png"})
