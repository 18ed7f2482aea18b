"""`open_dataset` from the outside: what the user has becomes images in order, with columns beside them."""

import hashlib
import logging
import os
import subprocess
import sys

import click
import numpy as np
import pytest
from PIL import Image

from medal.cache.errors import DataError
from medal.pipeline.datasets import DatasetOptions, check_rare, draw_splits
from medal.pipeline.datasets.opening import dataset_name, open_dataset
from medal.pipeline.datasets.options import dataset_options, take_dataset_options

PIXELS = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16


@pytest.fixture
def pictures(tmp_path):
    """Make image files under a folder, each with pixels of its own."""

    def make(*names, root=tmp_path):
        for number, name in enumerate(names):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in (".png", ".jpg", ".bmp", ".tif"):
                Image.fromarray(np.roll(PIXELS, number)).save(path)
            else:
                path.write_text("no image")
        return root

    return make


# Forms and names


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("medmnist:pneumoniamnist", "pneumoniamnist"),
        ("medmnist:PneumoniaMNIST@64", "pneumoniamnist-64"),
        ("medmnist:pneumoniamnist@28", "pneumoniamnist"),
        ("MedMNIST:PneumoniaMNIST@64", "pneumoniamnist-64"),
        ("somewhere/chest.npz", "chest"),
        ("somewhere/busi_256/labels.csv", "busi_256"),
        ("phantom", "phantom"),
    ],
)
def test_names(spec, name):
    assert dataset_name(spec) == name


def test_names_of_folders(tmp_path, monkeypatch):
    (tmp_path / "wards").mkdir()
    assert dataset_name(f"{tmp_path}/wards/") == "wards"
    monkeypatch.chdir(tmp_path / "wards")
    assert dataset_name(".") == dataset_name("labels.csv") == "wards"


def test_what_is_no_dataset(tmp_path):
    (tmp_path / "notes.txt").touch()
    forms = r"expected medmnist:NAME\[@SIZE\], a .npz file, a folder .*, a .csv table, a file .*, or phantom"
    for spec in ("pneumoniamnist", tmp_path / "notes.txt", ""):
        with pytest.raises(DataError, match=forms) as error:
            open_dataset(spec)
    with pytest.raises(DataError, match="Did you mean medmnist:pneumoniamnist"):
        open_dataset("pneumonia-mnist")
    for spec in ("gone.npz", "gone.csv"):
        with pytest.raises(DataError, match=f"There is no (file|table) '{spec}'") as error:
            open_dataset(spec)
    assert isinstance(error.value, ValueError)


def test_column_options_need_a_table(pictures):
    folder = pictures("a/1.png", "b/2.png")
    with pytest.raises(DataError, match=r"no columns for --split-column, --group-column"):
        open_dataset(folder, DatasetOptions(split_column="s", group_column="g"))


@pytest.mark.parametrize("classes", [None, ("a", "b")])
@pytest.mark.parametrize("option", ["label_column", "label_columns", "split_column", "domain_column", "group_column"])
def test_a_column_option_is_never_unheard(pictures, option, classes):
    folder = pictures("a/1.png", "b/2.png")
    options = DatasetOptions(**{option: ("x", "y") if option == "label_columns" else "x"})
    kinds = {
        folder: "a folder whose own folders are the classes",
        "scans.npz": "an .npz file",
        "medmnist:chestmnist": "a MedMNIST set",
        "phantom": "a set that medal draws",
    }
    if option == "group_column":
        del kinds["scans.npz"]  # which may have an array of that name
    for spec, kind in kinds.items():
        with pytest.raises(DataError) as error:
            open_dataset(spec, options, classes)
        assert str(error.value) == (
            f"dataset '{spec}' is {kind} and has no columns for --{option.replace('_', '-')}; leave that option out, "
            "or give a .csv table."
        )


def test_opening_imports_neither_torch_nor_pillow(pictures):
    folder = pictures("a/1.png", "b/2.png")
    code = (
        "import sys\nfrom medal.pipeline.datasets import open_dataset\n"
        "open_dataset(sys.argv[1]).keys()\nopen_dataset('phantom')\n"
        "print({'torch', 'PIL', 'medmnist', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# Folders


def test_folder_of_classes(pictures):
    folder = pictures("b/2.png", "b/1.JPG".lower(), "a/x.bmp", "a/.hidden.png", "a/notes.txt", "top.png", ".git/z.png")
    dataset = open_dataset(folder)
    assert dataset.classes == ("a", "b")
    assert dataset.split is None
    assert [dataset.images.describe(row) for row in range(3)] == ["file 'a/x.bmp'", "file 'b/1.jpg'", "file 'b/2.png'"]


def test_a_real_folder_of_classes(shared):
    real = open_dataset(shared / "data/busi_256")
    assert (real.name, np.bincount(real.label).tolist()) == ("busi_256", [437, 210, 133])


def test_folder_of_splits(pictures):
    folder = pictures("train/b/1.png", "train/a/1.png", "Valid/a/2.png", "test/b/3.png", "test/10/4.png")
    dataset = open_dataset(folder)
    assert dataset.classes == ("10", "a", "b")
    assert [dataset.images.names[row] for row in np.flatnonzero(dataset.split == 1)] == ["Valid/a/2.png"]
    assert np.bincount(dataset.split).tolist() == [2, 1, 2]
    fewer = open_dataset(folder, DatasetOptions(exclude_classes=("10",)))
    assert (fewer.classes, len(fewer)) == (("a", "b"), 4)
    assert open_dataset(folder, classes=("b", "a", "10")).label.tolist() == [1, 2, 0, 1, 0]


def test_folder_says_what_it_leaves_out(pictures, caplog):
    folder = pictures("a/1.png", "b/2.png", "b/scan.mha")
    with caplog.at_level(logging.WARNING):
        open_dataset(folder)
    assert "3 files found, 2 used, 1 left out (other formats 1, for instance 'b/scan.mha')" in caplog.text


@pytest.mark.parametrize(("top", "first"), [("", "b/older"), ("train/", "train/b/older")])
def test_folder_says_which_folders_it_does_not_look_into(pictures, caplog, top, first):
    folder = pictures(
        *(f"{top}{name}" for name in ("a/1.png", "b/2.png", "b/.old/3.png", "b/older/4.png", "b/oldest/p1/5.png"))
    )
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(folder)
    assert (dataset.classes, len(dataset)) == (("a", "b"), 2)
    assert f"2 left out (in folders inside the classes' folders 2, for instance '{first}/4.png')" in caplog.text


def test_images_one_folder_too_deep(pictures):
    folder = pictures("a/train/1.png", "b/test/2.png")
    with pytest.raises(DataError, match=r"has no image; .*; 2 folders lie too deep .* for instance 'a/train'"):
        open_dataset(folder)


def test_warnings_reach_who_has_set_up_no_logging(pictures):
    folder = pictures("a/1.png", "b/2.png", "b/older/3.png")
    code = "import sys\nfrom medal.pipeline.datasets import open_dataset\nopen_dataset(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert "for instance 'b/older/3.png'" in done.stderr


def test_folder_without_images(pictures, tmp_path):
    with pytest.raises(DataError, match=r"has no image; expected SPLIT/CLASS/file or CLASS/file of the kinds .bmp"):
        open_dataset(tmp_path)
    folder = pictures("a/1.mha", "b/2.mha", "b/3")
    with pytest.raises(DataError, match=r"no image, only 3 files of other kinds \('.mha', 'no suffix'\)"):
        open_dataset(folder)
    pictures("a/1.png")
    with pytest.raises(DataError, match=r"the folder 'b' without an image that is read \(other formats 2; 'b/2.mha'"):
        open_dataset(folder)
    with pytest.raises(DataError, match=r"has 1 class \('a'\) left after --exclude-class; expected two or more"):
        open_dataset(folder, DatasetOptions(exclude_classes=("b",)))


@pytest.mark.parametrize(
    ("names", "count"), [(("1.png", "2.png"), "2 images"), (("train/1.png", "test/x.txt"), "1 image")]
)
def test_images_without_folders_of_classes(pictures, names, count):
    with pytest.raises(DataError, match=f"has {count} but no folder that says of which class; .* in a .csv table"):
        open_dataset(pictures(*names))


@pytest.mark.parametrize("name", ["chest.npz", "labels.csv"])
def test_a_folder_that_holds_a_dataset_of_another_form(pictures, name):
    folder = pictures(name, "images/x.txt")
    with pytest.raises(DataError, match=rf"did you mean '.*{name}', which lies in it\?"):
        open_dataset(folder)


def test_a_cache_is_no_dataset(small_cache, tmp_path):
    for spec in (small_cache, tmp_path / "nothing.h5"):
        with pytest.raises(DataError, match=r"has the name of a cache; .* stage two CACHE before DATASET"):
            open_dataset(spec)


@pytest.mark.parametrize(
    ("excluded", "left"), [(("a", "b", "c"), "0 classes left"), (("a", "c"), r"1 class \('b'\) left")]
)
def test_too_many_classes_left_out(pictures, excluded, left):
    folder = pictures("a/1.png", "b/2.png", "c/3.png")
    with pytest.raises(DataError, match=rf"has {left} after --exclude-class; .* fewer of its classes, 'a', 'b', 'c'\."):
        open_dataset(folder, DatasetOptions(exclude_classes=excluded))


def test_a_file_that_is_not_there(pictures):
    folder = pictures("labels.csv", "chest.npz")
    with pytest.raises(DataError, match=r"There is no table '.*'; '.*' has 'labels.csv'; expected .* columns 'file'"):
        open_dataset(folder / "label.csv")
    with pytest.raises(DataError, match=r"There is no file '.*'; '.*' has 'chest.npz'; expected .* medmnist:NAME"):
        open_dataset(folder / "chets.npz")
    with pytest.raises(DataError, match=r"There is no table '.*', nor a folder '.*nowhere'; expected"):
        open_dataset(folder / "nowhere/labels.csv")


@pytest.mark.timeout(120)  # thousands of files; a second or two where they are listed once
def test_listing_decodes_nothing(tmp_path):
    per_class = 10_000
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").touch()  # not even images
        for number in range(1, per_class):
            os.link(tmp_path / name / "0.png", tmp_path / name / f"{number}.png")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 2 * per_class


# Keys


def test_keys_are_in_order(pictures):
    folder = pictures(*(f"{name}/{number}.png" for name in "ab" for number in range(100)))
    dataset = open_dataset(folder)
    keys = dataset.keys()
    assert (keys.shape, keys.dtype) == ((200, 16), np.uint8)
    assert [key.tobytes() for key in keys] == [dataset.images.key(row) for row in range(200)]


@pytest.mark.parametrize(("gone", "listed"), [(1, 1), (20, 20), (33, 20)])
def test_all_files_that_cannot_be_read_are_told_at_once(pictures, gone, listed):
    folder = pictures(*(f"{name}/{number:02}.png" for name in "ab" for number in range(40)))
    dataset = open_dataset(folder)
    for number in range(gone):
        (folder / f"b/{number:02}.png").unlink()
    with pytest.raises(DataError, match=rf"^{gone} of 80 images of dataset .* cannot be read; mend or remove") as error:
        dataset.keys()
    lines = str(error.value).splitlines()[1:]
    assert [f"b/{number:02}.png" in line for number, line in enumerate(lines[:listed])] == [True] * listed
    assert lines[listed:] == ["  …"] * (gone > listed)


# Options


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], DatasetOptions()),
        (["--label-columns", " edema, mass,"], DatasetOptions(label_columns=("edema", "mass"))),
        (
            ["--label-column", "finding", "--exclude-class", "a, b", "--exclude-class", "c", "--intensity", "minmax"],
            DatasetOptions(label_column="finding", exclude_classes=("a, b", "c"), intensity="minmax"),
        ),
        (
            ["--split-column", "s", "--domain-column", "d", "--group-column", "g"],
            DatasetOptions(split_column="s", domain_column="d", group_column="g"),
        ),
    ],
)
def test_options_are_taken_out_of_a_commands_words(words, expected):
    seen = []

    @click.command()
    @dataset_options
    @click.option("--seed", default=3)
    def command(**chosen):
        seen.append((take_dataset_options(chosen), chosen))

    command.main(words, standalone_mode=False)
    assert seen == [(expected, {"seed": 3})]


# Phantom


def test_phantom_is_the_same_everywhere():
    dataset = open_dataset("phantom")
    stack = dataset.images.stacks["scans"]
    assert (stack.shape, stack.dtype) == ((630, 64, 64), np.uint8)
    digest = hashlib.sha256(stack.tobytes()).hexdigest()
    assert digest == "0ead443a1e573872056928a5096af044e283730b236f365594b502234e3c83db"
    for index, each in enumerate((150, 30, 30)):
        assert np.bincount(dataset.label[dataset.split == index]).tolist() == [each] * 3
    assert dataset.domains == ("alder", "birch", "cedar")
    assert np.bincount(dataset.domain).tolist() == [210] * 3
    for column in (dataset.split, dataset.label, dataset.domain):
        assert len(set(zip(dataset.group.tolist(), column.tolist(), strict=True))) == 252  # one a patient
    assert check_rare(dataset, dataset.split) == ()
    keys = dataset.keys()
    assert len(np.unique(keys, axis=0)) == 630
    assert (draw_splits(dataset, keys, 3) == dataset.split).all()
    fewer = open_dataset("phantom", DatasetOptions(exclude_classes=("mass",)), classes=("nodule", "clear"))
    assert (len(fewer), fewer.classes) == (420, ("nodule", "clear"))


def test_phantom_can_be_learned_but_not_at_a_glance():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    dataset = open_dataset("phantom")
    scans = dataset.images.stacks["scans"][:, 8:56, 8:56].astype(float)
    smooth = scans.reshape(630, 12, 4, 12, 4).mean((2, 4)).reshape(630, -1)
    rough = scans.reshape(630, 12, 4, 12, 4).std((2, 4)).reshape(630, -1)
    shares = [0.05, 0.25, 0.5, 0.75, 0.9, 0.97, 1]
    features = np.concatenate([np.quantile(smooth, shares, 1), np.quantile(rough, shares, 1)]).T
    train, test = dataset.split == 0, dataset.split == 2
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    predicted = model.fit(features[train], dataset.label[train]).predict_proba(features[test])
    auroc = roc_auc_score(dataset.label[test], predicted, multi_class="ovr")
    assert 0.85 < auroc < 0.99
