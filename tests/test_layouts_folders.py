"""Folders as people have them: what is read, what is left out and said, and what is refused in a sentence."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layout_cases import CLASSES, Read, draw, save, save_classes

from medal.cache.errors import DataError
from medal.pipeline.datasets import DatasetOptions, open_dataset
from medal.pipeline.datasets.kinds.tree import find_masks
from medal.student.using.prediction import find_images

DRAWN = (21, 5, 4)  # of three classes of ten


def place(folder, *names):
    for number, name in enumerate(names):
        save(folder / name, name, number)
    return folder


def test_masks_beside_images_are_left_out_with_a_count(tmp_path):
    for name in CLASSES:
        for index in range(10):
            save(tmp_path / name / f"{name} ({index}).png", name, index)
            save(tmp_path / name / f"{name} ({index})_mask.png", name, 100 + index)
    save(tmp_path / "benign/benign (3)_mask_1.png", "benign", 200)
    read = Read(tmp_path)
    assert (read.sizes, read.counts) == (DRAWN, dict.fromkeys(CLASSES, 10))
    assert "61 files found, 30 used, 31 left out (masks 31, for instance 'benign/benign (0)_mask.png')" in read.said


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        (("a.jpg", "a_mask.png", "a_Segmentation.png", "a-seg-2.png", "a.label1.png"), 4),
        (("a_mask.png", "b_seg.png"), 0),  # of which no image is there
        (("images/1.png", "masks/1.png", "masks/2_mask.png", "images/2.png"), 2),
        (("mask/1.png", "other/2.png"), 0),
        (("segment 1.png", "segment 2.png", "masked.png"), 0),
    ],
)
def test_what_is_a_mask(names, masks):
    assert len(find_masks(names)) == masks


def test_what_systems_leave_is_nobodys_image(tmp_path):
    save_classes(tmp_path)
    for junk in ("__MACOSX/benign/._000.png", "benign/@eaDir/000.png", ".snapshot/benign/000.png", "lost+found/1.png"):
        save(tmp_path / junk, "junk", 1, format="PNG")
    for junk in ("desktop.ini", "benign/Thumbs.db", "malignant/.directory", "normal/._000.png"):
        (tmp_path / junk).write_bytes(b"junk")
    read = Read(tmp_path)
    assert (read.sizes, read.counts) == (DRAWN, dict.fromkeys(CLASSES, 10))
    assert read.dataset.account.left == {}
    assert "30 files found, 30 used; 8 of the system's own" in read.said
    assert len(find_images([tmp_path])[0]) == 30


def test_a_copy_of_the_set_beside_its_splits_is_left_out_with_a_word(tmp_path):
    for split, count in {"train": 8, "val": 3, "test": 4}.items():
        save_classes(tmp_path / split, count)
        save_classes(tmp_path / "set" / split, count)
    read = Read(tmp_path)
    assert read.sizes == (24, 9, 12)
    assert "45 left out (outside the split folders 45, for instance 'set/test/benign/000.png')" in read.said


def test_loose_images_in_folders_of_splits_are_no_classes(tmp_path):
    for split in ("train", "dev", "test"):
        for index in range(4):
            save(tmp_path / split / f"benign_{index}.png", split, index)
    with pytest.raises(
        DataError, match=r"which class; 'dev', 'test', 'train' are names of splits, and no class: .*--class-pattern"
    ):
        Read(tmp_path)
    assert len(open_dataset(tmp_path, DatasetOptions(unlabelled=True))) == 12
    save_classes(tmp_path, 4, ("malignant", "normal"))
    with pytest.raises(DataError, match=r"12 images but no folder .* beside 'malignant', 'normal', and no class:"):
        Read(tmp_path)
    assert open_dataset(tmp_path, DatasetOptions(class_level=1)).classes == (
        "dev",
        "malignant",
        "normal",
        "test",
        "train",
    )


def test_the_class_may_stand_in_the_name(tmp_path):
    for split, count in {"train": 8, "dev": 3, "test": 4}.items():
        for name in CLASSES:
            for index in range(count):
                save(tmp_path / split / f"{name}_{index}.png", f"{split}{name}", index)
    read = Read(tmp_path, {"class_pattern": r"([a-z]+)_\d+\.png$"})
    assert (read.sizes, read.counts) == ((24, 9, 12), dict.fromkeys(CLASSES, 15))
    assert read.dataset.reading == {"class_pattern": r"([a-z]+)_\d+\.png$"}
    with pytest.raises(DataError, match=r"no image whose path --class-pattern 'x' matches, 'dev/benign_0.png' for one"):
        Read(tmp_path, {"class_pattern": "x"})
    with pytest.raises(DataError, match=r"--class-pattern '\(' is not a regular expression"):
        Read(tmp_path, {"class_pattern": "("})


@pytest.mark.parametrize("name", ["train_images", "TrainingSet", "1-train", "Train", "train.set"])
def test_splits_have_many_names(tmp_path, name):
    save_classes(tmp_path / name, 4)
    save_classes(tmp_path / "testing", 4)
    assert open_dataset(tmp_path).classes == CLASSES


def test_links_to_nothing_are_an_error_unless_they_may_be_skipped(tmp_path):
    for name in CLASSES:
        (tmp_path / "set" / name).mkdir(parents=True)
        for index in range(10):
            if index < 8:
                save(tmp_path / "annex" / f"{name}{index}.png", name, index)
            (tmp_path / "set" / name / f"{index}.png").symlink_to(f"../../annex/{name}{index}.png")
    with pytest.raises(DataError, match=r"6 of 30 images .*\n.*file 'benign/8.png' is a link to nothing \('\.\./\.\."):
        Read(tmp_path / "set")
    read = Read(tmp_path / "set", settings={"on_bad_image": "skip"})
    assert read.counts == dict.fromkeys(CLASSES, 8)
    assert {skipped.error.reason for skipped in read.arranged.skipped} == {"link to nothing"}
    assert len(read.arranged.skipped) == 6


@pytest.mark.parametrize("where", ["", "train/"])
def test_a_class_on_storage_that_is_not_mounted_is_refused(tmp_path, where):
    save_classes(tmp_path / where)
    (tmp_path / where / "covid").symlink_to("../nowhere/covid")
    with pytest.raises(DataError, match=rf"'{where}covid', which is a link to nothing .* --exclude-class covid"):
        Read(tmp_path)
    assert Read(tmp_path, {"exclude_classes": ("covid",)}).counts == dict.fromkeys(CLASSES, 10)


def test_links_in_a_circle_end(tmp_path):
    save_classes(tmp_path)
    (tmp_path / "benign/again").symlink_to(tmp_path)
    assert len(open_dataset(tmp_path, DatasetOptions(unlabelled=True))) == 30


@pytest.mark.parametrize(("suffix", "lossless"), [(".webp", True), (".gif", None), (".jp2", None), ("", None)])
def test_a_class_of_another_format_is_read(tmp_path, suffix, lossless):
    save_classes(tmp_path, classes=("benign", "normal"))
    options = {"format": "PNG"} if not suffix else {"lossless": True} if lossless else {}
    for index in range(10):
        save(tmp_path / "malignant" / f"{index:03d}{suffix}", "malignant", index, **options)
    read = Read(tmp_path)
    assert read.counts == dict.fromkeys(CLASSES, 10)
    row = read.dataset.images.names.index(f"malignant/003{suffix}")
    assert np.abs(read.dataset.images.read(row)[:, :, 0] - np.float32(draw("malignant", 3))).max() <= 1


def test_files_are_known_by_their_first_bytes(tmp_path):
    for name in CLASSES:
        for index in range(10):
            save(
                tmp_path / name / hashlib.sha256(f"{name}{index}".encode()).hexdigest()[:12], name, index, format="PNG"
            )
        (tmp_path / name / "README").write_text("no image")
    read = Read(tmp_path)
    assert read.counts == dict.fromkeys(CLASSES, 10)
    assert "documents 3" in read.said


def test_a_class_that_cannot_be_read_is_refused_and_never_missing(tmp_path):
    save_classes(tmp_path, classes=("benign", "normal"))
    (tmp_path / "malignant").mkdir()
    (tmp_path / "malignant/1.mha").write_bytes(b"volume")
    with pytest.raises(DataError, match=r"folder 'malignant' without an image that is read \(other formats 1; .*mha"):
        Read(tmp_path)
    assert set(Read(tmp_path, {"exclude_classes": ("malignant",)}).counts) == {"benign", "normal"}
    (tmp_path / "malignant/1.mha").unlink()
    save(tmp_path / "malignant/patient1/1.png", "malignant", 1)
    with pytest.raises(DataError, match=r"'malignant' without an image .* --class-level 1 takes images at any depth"):
        Read(tmp_path)
    (tmp_path / "malignant/patient1/1.png").unlink()
    (tmp_path / "malignant/patient1").rmdir()
    assert "folder 'malignant' has no image and is no class" in Read(tmp_path).said


def test_any_depth(tmp_path):
    for name in CLASSES[:2]:
        for index in range(20):
            patient = f"14-{'12'[name == 'benign']}{index // 4:02d}"
            save(tmp_path / name / "SOB" / f"{name}_kind" / patient / f"S-{patient}-40-{index:03d}.png", name, index)
    with pytest.raises(DataError, match=r"--class-level 1 \('benign', 'malignant'\), --class-level 2 \('SOB'\)"):
        Read(tmp_path)
    read = Read(tmp_path, {"class_level": 1})
    assert (read.sizes, read.counts) == ((28, 6, 6), dict.fromkeys(CLASSES[:2], 20))
    assert "40 images share a stem with others (10 stems" in read.said
    assert "--group-pattern" in read.said
    read = Read(tmp_path, {"class_level": 3, "group_pattern": r"14-(\d+)"})
    assert read.counts == {"benign_kind": 20, "malignant_kind": 20}
    assert read.patients == (10, {4})
    assert "--group-pattern finds 10 patients among 40 images" in read.said
    assert read.dataset.reading == {"class_level": 3}
    with pytest.raises(DataError, match=r"no path that --group-pattern 'P' matches"):
        Read(tmp_path, {"class_level": 1, "group_pattern": "P"})


def test_two_roots_of_one_set(tmp_path):
    save_classes(tmp_path / "NCT-CRC-HE-100K", 6)
    save_classes(tmp_path / "CRC-VAL-HE-7K", 4)
    names = (("NCT-CRC-HE-100K", "train"), ("CRC-VAL-HE-7K", "test"))
    read = Read(tmp_path, {"class_level": 2, "split_names": names})
    assert read.counts == dict.fromkeys(CLASSES, 10)
    assert read.sizes[2] == 12
    assert Read(tmp_path, {"split_names": names}).counts == read.counts


def test_splits_inside_classes(tmp_path):
    for name in CLASSES:
        for split, count in {"train": 4, "valid": 2, "test": 2}.items():
            for index in range(count):
                save(tmp_path / name / split / f"{index}.png", f"{name}{split}", index)
    assert Read(tmp_path, {"class_level": 1}).sizes == (12, 6, 6)
    with pytest.raises(DataError, match=r"too deep to be looked into"):
        Read(tmp_path)


def test_a_level_that_takes_splits_for_classes_is_refused(tmp_path):
    save_classes(tmp_path / "train", 4)
    save_classes(tmp_path / "test", 4)
    with pytest.raises(DataError, match=r"'test', 'train' for classes with --class-level 1, .*--class-level 2"):
        Read(tmp_path, {"class_level": 1})


def test_archives_of_patients_studies_and_series_are_read_unlabelled(tmp_path):
    for index in range(12):
        save(tmp_path / f"patient{index // 4}/study{index % 2}/series1/{index}.png", "x", index)
    place(tmp_path, "patient0/thumb.png", "loose.png")
    read = Read(tmp_path, {"unlabelled": True})
    assert len(read.dataset) == 14
    assert read.dataset.account.left == {}


def test_a_long_tail_is_left_out_or_put_together_by_one_option(tmp_path):
    save_classes(tmp_path, 12, ("one", "two"))
    for number in range(6):
        save(tmp_path / f"rare{number}/1.png", "rare", number)
    with pytest.raises(
        DataError, match=r"'rare5' \(1\); .* leave them out with --min-class-images 2, or put them toge"
    ):
        Read(tmp_path)
    read = Read(tmp_path, {"min_class_images": 2})
    assert read.counts == {"one": 12, "two": 12}
    assert len(read.dataset.excluded) == 6
    assert "of classes left out 6" in read.said
    read = Read(tmp_path, {"min_class_images": 2, "other_class": "rare"})
    assert read.counts == {"one": 12, "rare": 6, "two": 12}
    assert dict(read.dataset.reading["rename_classes"])["rare3"] == "rare"
    with pytest.raises(DataError, match=r"0 classes of 99 images or more"):
        Read(tmp_path, {"min_class_images": 99})


def test_a_trial_has_every_class(tmp_path):
    read = Read(save_classes(tmp_path, 20), settings={"limit": 15})
    assert (read.sizes, read.counts) == ((15, 9, 9), dict.fromkeys(CLASSES, 11))
    with pytest.raises(DataError, match=r"--limit 5 has no room for 2 train images of each of the 3 classes"):
        Read(tmp_path, settings={"limit": 5})


def test_names_of_classes_that_differ_by_case_alone_are_refused(tmp_path):
    save_classes(tmp_path / "train", 4)
    save_classes(tmp_path / "test", 4, ("Benign", "malignant", "normal"))
    with pytest.raises(DataError, match=r"'Benign' \(4\), 'benign' \(4\); --rename-class benign=Benign makes one"):
        Read(tmp_path)
    read = Read(tmp_path, {"rename_classes": (("Benign", "benign"),)})
    assert read.counts == dict.fromkeys(CLASSES, 8)
    assert len(open_dataset(tmp_path, DatasetOptions(accept_classes=True)).classes) == 4
    with pytest.raises(DataError, match=r"no class 'Bening' for --rename-class"):
        Read(tmp_path, {"rename_classes": (("Bening", "benign"),)})


def test_patients_taken_for_classes_are_refused(tmp_path):
    save_classes(tmp_path, 1, [f"{number:03d}a" for number in range(51)])
    with pytest.raises(DataError, match=r"has 51 classes, more than 50: '000a'.*--class-level K.*--accept-classes"):
        Read(tmp_path)
    assert len(open_dataset(tmp_path, DatasetOptions(accept_classes=True)).classes) == 51


NAMES = st.sampled_from(
    [
        "1.png",
        "2.jpg",
        "1_mask.png",
        "x.nii",
        "notes.txt",
        "noname",
        "Thumbs.db",
        ".hidden.png",
        "a.webp",
        "b.dcm",
        "gone.png",
        "._1.png",
    ]
)
FOLDERS = st.lists(
    st.sampled_from(["a", "b", "train", "test", "masks", "__MACOSX", "deep", ".git", "images"]), max_size=4
)


@given(
    st.lists(st.tuples(FOLDERS, NAMES), min_size=1, max_size=25),
    st.sampled_from([{}, {"class_level": 1}, {"class_level": 2}, {"unlabelled": True}, {"class_pattern": "([ab])/"}]),
)
def test_every_file_of_any_tree_is_used_or_left_out(tmp_path_factory, entries, options):
    folder = tmp_path_factory.mktemp("tree")
    for number, (parents, name) in enumerate(entries):
        path = folder.joinpath(*parents, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "gone.png":
            if not path.is_symlink():
                path.symlink_to("nowhere")
        elif path.suffix in (".png", ".jpg", ".webp"):
            draw("tree", number).save(path, format={".jpg": "JPEG", ".webp": "WEBP"}.get(path.suffix, "PNG"))
        else:
            path.write_bytes(b"some bytes")
    try:
        account = open_dataset(folder, DatasetOptions(**options)).account
    except DataError:
        return  # said in a sentence, and nothing is read
    ours = [
        name
        for place, folders, names in os.walk(folder)
        if not any(part.startswith((".", "__")) for part in Path(place).relative_to(folder).parts)
        for name in names
        if not name.startswith(".") and name != "Thumbs.db"
    ]
    assert account.found == len(ours)
    assert account.found == account.used + account.left_out
    assert len({name for names in account.left.values() for name in names}) == account.left_out
