"""Tables: labels, splits, domains and groups as people write them, and every mistake in a sentence."""

import numpy as np
import pytest

from medal.cache.errors import DataError
from medal.pipeline.datasets import DatasetOptions, check_rare, draw_splits
from medal.pipeline.datasets.opening import open_dataset


@pytest.fixture
def table(tmp_path):
    """Write a table, and an empty file for each name in its first column."""

    def write(text, make=True, **encoding):
        path = tmp_path / "scans" / "labels.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, **(encoding or {"encoding": "utf-8"}))
        if make:
            for line in text.splitlines()[1:]:
                name = line.replace(";", ",").split(",")[0].strip()
                if name:
                    (path.parent / name).touch()
        return path

    return write


def test_classes_splits_domains_and_groups(table):
    path = table(
        "file,label,split,domain,group\n"
        "a.png,mass,train,X,p1\n"
        "b.png,clear,Validation,Y,p2\n"
        "c.png,,testing,,p1\n"
        "d.png,mass,valid,X,\n"
        "e.png,mass,Training,X,p1\n"
        "e.png,mass,Training,X,p1\n"  # the same in all: one image
    )
    dataset = open_dataset(path)
    assert (dataset.name, dataset.task, dataset.classes) == ("scans", "multiclass", ("clear", "mass"))
    assert dataset.label.tolist() == [1, 0, -1, 1, 1]
    assert dataset.split.tolist() == [0, 1, 2, 1, 0]
    assert (dataset.domains, dataset.domain.tolist()) == (("X", "Y"), [0, 1, -1, 0, 0])
    group = dataset.group.tolist()
    assert group[0] == group[2] == group[4] != group[1]
    assert group[3] == -1
    assert dataset.images.describe(1) == "file 'b.png'"
    assert (dataset.label.dtype, dataset.domain.dtype, dataset.group.dtype) == (np.int32, np.int16, np.int64)


def test_named_columns_and_partial_splits(table):
    path = table("file,label,finding,part,split\na.png,x,2,train,test\nb.png,x,10,,test\nc.png,x,2,TEST,test\n")
    dataset = open_dataset(path, DatasetOptions(label_column="finding", split_column="part"))
    assert dataset.classes == ("2", "10")
    assert dataset.split.tolist() == [0, -1, 2]
    assert open_dataset(table("file,label,split\na.png,0,\nb.png,1,\n")).split is None


def test_multilabel(table):
    path = table("file,edema,mass\na.png,1,0\nb.png,,255\nc.png,-1,1\nd.png,0,1\n")
    with pytest.raises(DataError, match=r"blank cells: --blank 0 or --blank unknown; -1 in 'edema': --uncertain 0, 1"):
        open_dataset(path, DatasetOptions(label_columns=("mass", "edema")))
    said = {"blank": "unknown", "uncertain": "unknown"}
    dataset = open_dataset(path, DatasetOptions(label_columns=("mass", "edema"), **said))
    assert (dataset.task, dataset.classes, dataset.label.dtype) == ("multilabel", ("mass", "edema"), np.uint8)
    assert dataset.label.tolist() == [[0, 1], [255, 255], [1, 255], [1, 0]]
    of_cache = open_dataset(path, classes=("edema", "mass"))
    assert of_cache.label.tolist() == dataset.label[:, ::-1].tolist()
    fewer = open_dataset(path, DatasetOptions(label_columns=("mass", "edema"), exclude_classes=("mass",), **said))
    assert (fewer.classes, fewer.label.tolist()) == (("edema",), [[1], [255], [255], [0]])
    with pytest.raises(DataError, match="has the labels 'mass'; expected 'edema', 'mass'"):
        open_dataset(path, DatasetOptions(label_columns=("mass",)), classes=("edema", "mass"))


def test_the_labels_columns_are_known_afterwards(table):
    path = table("file,label,finding,edema,mass\na.png,x,2,1,0\nb.png,y,10,0,1\n")
    assert open_dataset(path).label_columns == ("label",)
    finding = DatasetOptions(label_column="finding")
    assert open_dataset(path, finding).label_columns == ("finding",)
    both = DatasetOptions(label_columns=("mass", "edema"), exclude_classes=("mass",))
    assert open_dataset(path, both).label_columns == ("mass", "edema")  # what was read, with what was left out
    assert open_dataset("phantom").label_columns == ()
    # A column asked for wins over the cache's classes, though they are names of columns too.
    path = table("file,finding,edema,mass\na.png,mass,1,0\nb.png,edema,0,1\n")
    assert open_dataset(path, classes=("mass", "edema")).label_columns == ("mass", "edema")
    asked = open_dataset(path, finding, classes=("mass", "edema"))
    assert (asked.task, asked.label.tolist(), asked.label_columns) == ("multiclass", [0, 1], ("finding",))


def test_more_domains_than_a_cache_can_number(table):
    path = table("file,label,domain\na.png,x,0\nb.png,y,1\n")

    def write(count):
        rows = "".join(f"{'ab'[number % 2]}.png,{'xy'[number % 2]},{number}\n" for number in range(count))
        path.write_text(f"file,label,domain\n{rows}")

    write(32_768)
    with pytest.raises(DataError, match="has 32768 domains; expected at most 32767: is --domain-column right"):
        open_dataset(path)
    write(32_767)
    dataset = open_dataset(path)
    assert (dataset.domain.dtype, dataset.domain[[0, -1]].tolist()) == (np.int16, [0, 32_766])


def test_excluded_classes(table):
    path = table("file,label,domain\na.png,x,1\nb.png,y,2\nc.png,z,3\nd.png,,1\n")
    dataset = open_dataset(path, DatasetOptions(exclude_classes=("y",)))
    assert (dataset.classes, dataset.label.tolist(), dataset.excluded) == (("x", "z"), [0, 1, -1], ("y",))
    assert dataset.domains == ("1", "3")
    assert [dataset.images.describe(row) for row in range(3)] == ["file 'a.png'", "file 'c.png'", "file 'd.png'"]
    with pytest.raises(DataError, match="has no class 'w' to leave out; its classes are 'x', 'y', 'z'"):
        open_dataset(path, DatasetOptions(exclude_classes=("w",)))
    with pytest.raises(DataError, match=r"has the class 'y'; expected only 'z', 'x'.*--exclude-class y"):
        open_dataset(path, classes=("z", "x"))
    known = DatasetOptions(exclude_classes=("y", "of another set"), known_classes=("z", "x", "w", "of another set"))
    again = open_dataset(path, known, classes=("z", "x", "w"))
    assert again.label.tolist() == [1, 0, -1]


@pytest.mark.parametrize("text", ["file;label\na.png;x\nb.png;y,z\n", "file\tlabel\na.png\tx\nb.png\ty\n"])
def test_other_separators(table, text):
    path = table(text, make=False)
    for name in ("a.png", "b.png"):
        (path.parent / name).touch()
    assert len(open_dataset(path).classes) == 2


def test_spaces_marks_and_line_ends(table):
    path = table("file, label \r\n a.png ,x\r\n\r\nb.png,y\r\n", make=False, encoding="utf-8-sig")
    for name in ("a.png", "b.png"):
        (path.parent / name).touch()
    assert open_dataset(path).classes == ("x", "y")


def test_files_anywhere(table, tmp_path):
    (tmp_path / "elsewhere.png").touch()
    path = table(f"file,label\n../elsewhere.png,x\n{tmp_path}/elsewhere.png,y\n", make=False)
    dataset = open_dataset(path)
    assert dataset.images.key(0) == dataset.images.key(1)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "path,label\n,x\n",
            {},
            r"no column 'file' for the images' paths; its columns are 'path', 'label': .*--file-column",
        ),
        ("file,class\na.png,x\n", {}, r"no column 'label' .*--label-column.*'file', 'class'"),
        ("file,a\na.png,1\n", {"label_columns": ("a", "b", "c")}, r"no column 'b', 'c' .*'file', 'a'"),
        ("file,label\na.png,x\n", {"split_column": "part"}, "no column 'part' for --split-column"),
        ("file,label\na.png,x\n", {"domain_column": "site"}, "no column 'site' for --domain-column"),
        ("file,label\na.png,x\n", {"group_column": "id"}, "no column 'id' for --group-column"),
        ("file,label\na.png,x\n", {"label_column": "x", "label_columns": ("y",)}, "were both given"),
        ("file,a,b\na.png,1,0\n", {"label_columns": ("a", "b", "a")}, "--label-columns names a column twice"),
        ("file,a\na.png,1\nb.png,many\n", {"label_columns": ("a",)}, "has 'many' in column 'a', row 3; expected 0, 1"),
        ("file,label,split\na.png,x,train\nb.png,y,3\n", {}, "has the split '3' in row 3; .* --split-names 3=train"),
        ("file,label\na.png,x\nb.png\n", {}, "has 1 cell in row 3; expected 2"),
        ("file,label,label\na.png,x,y\n", {}, "has the column 'label' twice"),
        ("file,label\na.png,x\n,y\n", {}, "names no file in row 3"),
        ("file,label\n", {}, "has no rows"),
        ("", {}, "has no rows"),
        ('file,label\na.png,"x\n', {}, "is not a table that can be read"),
        ("file,label\na.png,x\nb.png,x\n", {}, r"has 1 class \('x'\)"),
        (
            "file,label\na.png,x\nb.png,NaN\nc.png,y\nd.png,nan\n",
            {},
            r"'NaN' \(1\), 'nan' \(1\) for a class in 2 rows, row 3 for one; .* empty",
        ),
    ],
)
def test_mistakes(table, text, options, message):
    with pytest.raises(DataError, match=message):
        open_dataset(table(text), DatasetOptions(**options))


def test_missing_files_are_all_listed(table):
    path = table("file,label\n" + "".join(f"{number}.png,{number % 2}\n" for number in range(30)))
    for number in range(2, 30):
        (path.parent / f"{number}.png").unlink()
    with pytest.raises(DataError, match=r"names 28 files that are not there") as error:
        open_dataset(path)
    assert "'2.png', '3.png'" in str(error.value)
    assert "'21.png' and 8 more" in str(error.value)


@pytest.mark.timeout(120)  # a second or two, as long as no row is compared with all others
def test_many_rows_are_read(table):
    path = table("file,label,group\n", make=False)
    for number in range(9):
        (path.parent / f"{number}.png").touch()
    path.write_text(
        "file,label,group\n" + "".join(f"./{number % 9}.png,{number % 9},{number}\n" for number in range(100_000))
    )
    assert len(open_dataset(path)) == 100_000


# Real tables


def test_ultrasound(shared):
    path = shared / "data/busi_256/labels.csv"
    dataset = open_dataset(path, DatasetOptions(split_column="suggested_split"))
    assert dataset.name == "busi_256"
    assert np.bincount(dataset.split).tolist() == [469, 156, 155]
    assert np.bincount(dataset.label).tolist() == [437, 210, 133]
    keys = dataset.keys()
    assert (draw_splits(dataset, keys, 0) == dataset.split).all()
    assert len(dataset) - len(np.unique(keys, axis=0)) <= 1
    assert open_dataset(path).split is None
    assert {dataset.images.read(row).shape[2] for row in range(0, 780, 13)} <= {1, 3}


def test_blood_smears(shared):
    path = shared / "data/bccd_multilabel/labels.csv"
    names = ("Platelets", "RBC_many", "Platelets_several")
    dataset = open_dataset(path, DatasetOptions(label_columns=names))
    assert (dataset.classes, dataset.label.sum(0).tolist()) == (names, [201, 181, 105])
    assert np.bincount(dataset.split).tolist() == [205, 87, 72]
    assert check_rare(dataset, dataset.split) == ()
    assert open_dataset(path, classes=names).label.tolist() == dataset.label.tolist()


def test_blood_cells_of_two_laboratories(shared):
    path = shared / "data/wbc_two_sources/labels.csv"
    options = DatasetOptions(domain_column="domain", exclude_classes=("basophil",))
    dataset = open_dataset(path, options)
    assert dataset.domains == ("cellavision", "tecom")
    assert dataset.classes == ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
    assert len(dataset) == 396
    split = draw_splits(dataset, dataset.keys(), 0)
    assert check_rare(dataset, split) == ()
    for index, share in enumerate((0.7, 0.15, 0.15)):
        expected = np.bincount(dataset.label) * share
        assert (abs(np.bincount(dataset.label[split == index], minlength=4) - expected) <= 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_four_basophils_are_enough_for_train_and_no_more(cells, seed):
    dataset = open_dataset(cells)
    split = draw_splits(dataset, dataset.keys(), seed)
    assert np.bincount(split[dataset.label == 0], minlength=3)[0] >= 2
    check_rare(dataset, split)
    few = dataset.take(np.flatnonzero((dataset.label != 0) | (np.cumsum(dataset.label == 0) <= 1)))
    split = draw_splits(few, few.keys(), seed)
    with pytest.raises(
        DataError, match=r"too few train samples of the class 'basophil' \(1\).*--exclude-class basophil"
    ):
        check_rare(few, split)
