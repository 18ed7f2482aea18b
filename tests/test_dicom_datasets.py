"""Folders and tables of DICOM files: a row for each frame, and both stages of the real thing."""

import logging
import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import click
import drawn
import numpy as np
import pytest
from PIL import Image

from medal.cache.errors import DataError, TeacherError
from medal.cache.reader import open_cache
from medal.pipeline.datasets import DatasetOptions, draw_splits
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.datasets.options import dataset_options, take_dataset_options
from medal.pipeline.views.preprocessing import Preprocessing

dicom = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "dicom_files.py")))
RAMP, DEEP = dicom.RAMP, dicom.DEEP


def stack(frames, start=0):
    """A file of several frames, no two alike."""
    return dicom.make(np.stack([np.roll(RAMP, start + frame) for frame in range(frames)]), frames=True)


@pytest.fixture
def wards(tmp_path):
    """Two classes: PNG, single frames by every kind of name, and a file of five frames."""
    folder = tmp_path / "wards"
    dicom.save(dicom.make(RAMP), folder / "a/1.dcm")
    dicom.save(dicom.make(np.roll(RAMP, 5)), folder / "a/2.DICOM")
    dicom.save(stack(5), folder / "a/3.dcm")
    dicom.save(dicom.make(np.roll(RAMP, 6)), folder / "b/IM0001")
    dicom.save(dicom.make(np.roll(RAMP, 7)), folder / "b/1.2.840.113619.2.55")
    Image.fromarray(np.roll(RAMP, 8)).save(folder / "b/1.png")
    shutil.copy(dicom.bundled("DICOMDIR"), folder / "b/DICOMDIR")
    (folder / "b/README").write_text("not an image")
    (folder / "b/notes.7").write_text("x" * 200)
    return folder


def described(dataset):
    return [dataset.images.describe(row) for row in range(len(dataset))]


def test_every_frame_is_a_row(wards, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(wards)
    frames = [f"file 'a/3.dcm', frame {number}" for number in range(1, 6)]
    singles = ["file 'b/1.2.840.113619.2.55'", "file 'b/1.png'", "file 'b/IM0001'"]
    assert described(dataset) == ["file 'a/1.dcm'", "file 'a/2.DICOM'", *frames, *singles]
    assert dataset.label.tolist() == [0] * 7 + [1] * 3
    assert "2 left out (" in caplog.text  # the directory of a disc is the system's own
    for row in range(2, 7):
        np.testing.assert_array_equal(dataset.images.read(row)[:, :, 0], np.roll(RAMP, row - 2))
    assert len(np.unique(dataset.keys(), axis=0)) == 9  # the first frame of the five is a/1.dcm again


def test_frames_of_a_file_stay_together(wards):
    dataset = open_dataset(wards)
    group = dataset.group
    assert (group[2:7] == group[2]).all()
    assert group[2] >= 0
    assert (np.delete(group, slice(2, 7)) == -1).all()
    for seed in range(20):
        assert len(set(draw_splits(dataset, dataset.keys(), seed)[2:7].tolist())) == 1


def test_splits_and_classes_of_a_file_hold_for_its_frames(tmp_path):
    for split, frames in (("train", 3), ("test", 2)):
        for name in "ab":
            dicom.save(stack(frames), tmp_path / split / name / "x.dcm")
    dataset = open_dataset(tmp_path)
    assert dataset.split.tolist() == [2] * 4 + [0] * 6
    assert dataset.label.tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    assert len(set(dataset.group.tolist())) == 4
    assert len(open_dataset(tmp_path, DatasetOptions(exclude_classes=("b",)), classes=("a", "c"))) == 5


@pytest.fixture
def table(tmp_path):
    dicom.save(dicom.make(DEEP, bits=12), tmp_path / "one.dcm")
    dicom.save(stack(3), tmp_path / "three.dcm")
    dicom.save(stack(2, 5), tmp_path / "two.dcm")
    Image.fromarray(RAMP).save(tmp_path / "x.png")

    def table(text):
        (tmp_path / "labels.csv").write_text(text)
        return tmp_path / "labels.csv"

    return table


def test_a_table(table):
    path = table(
        "file,label,split,domain,group\n"
        "one.dcm,0,train,A,p1\nthree.dcm,1,val,B,p2\nx.png,0,test,A,\ntwo.dcm,1,train,,\nthree.dcm,1,,B,p1\n"
    )
    dataset = open_dataset(path)
    place = [0, 1, 1, 1, 2, 3, 3, 4, 4, 4]
    assert dataset.label.tolist() == np.array([0, 1, 0, 1, 1])[place].tolist()
    assert dataset.split.tolist() == np.array([0, 1, 2, 0, -1])[place].tolist()
    assert dataset.domain.tolist() == np.array([0, 1, 0, -1, 1])[place].tolist()
    assert dataset.group.tolist()[:5] == [0, 1, 1, 1, -1]
    assert dataset.group[5] == dataset.group[6] > 1  # a group of its own: the table names none
    assert dataset.group.tolist()[7:] == [0, 0, 0]
    assert described(dataset)[:5] == [
        "file 'one.dcm'",
        *(f"file 'three.dcm', frame {number}" for number in (1, 2, 3)),
        "file 'x.png'",
    ]


def test_several_labels(table):
    path = table("file,edema,mass\nthree.dcm,1,0\none.dcm,0,1\n")
    dataset = open_dataset(path, DatasetOptions(label_columns=("edema", "mass")))
    assert dataset.label.tolist() == [[1, 0]] * 3 + [[0, 1]]


def test_a_table_may_name_a_frame(table):
    path = table("file,frame,label\nthree.dcm,3,0\nthree.dcm,1,1\ntwo.dcm,,1\none.dcm,1,0\nx.png,88,0\n")
    dataset = open_dataset(path)
    assert described(dataset) == [
        "file 'three.dcm', frame 3",
        "file 'three.dcm', frame 1",
        "file 'two.dcm', frame 1",
        "file 'two.dcm', frame 2",
        "file 'one.dcm'",
        "file 'x.png'",
    ]
    assert dataset.group[0] == dataset.group[1] >= 0  # of one file, so most likely of one patient
    np.testing.assert_array_equal(dataset.images.read(0)[:, :, 0], np.roll(RAMP, 2))
    for wrong in ("4", "0", "two"):
        with pytest.raises(
            DataError, match=f"frame '{wrong}' of file 'three.dcm', which has 3; expected 1 to 3, or empty"
        ):
            open_dataset(table(f"file,frame,label\nthree.dcm,{wrong},0\none.dcm,,1\n"))


@pytest.mark.timeout(120)
def test_listing_reads_no_pixels(tmp_path):
    """Only headers, only of DICOM files, and of these only up to the number of frames."""
    for name in "ab":
        whole = dicom.save(stack(4), tmp_path / name / "0.dcm").read_bytes()
        start = whole.index(bytes.fromhex("28001000"))  # rows: what comes after the number of frames
        (tmp_path / name / "0.dcm").write_bytes(whole[:start] + b"\x28\0\x10\0SQ\0\0\xff\xff\xff\xff" + b"\x11" * 100)
        (tmp_path / name / "1.png").write_bytes(b"")
        for number in range(1, 1000):
            os.link(tmp_path / name / "0.dcm", tmp_path / name / f"{number}.dcm")
    assert len(open_dataset(tmp_path)) == 8002


def test_what_is_wrong_with_a_file_is_said_when_it_is_read(wards):
    (wards / "a/1.dcm").write_bytes(b"short")
    (wards / "b/5.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    dataset = open_dataset(wards)
    assert len(dataset) == 11
    _, bad = dataset.find_keys()
    assert sorted(error.reason for error in bad.values()) == ["damaged", "not an image"]


# ── The window asked for ─────────────────────────────────────────────────────────────────────────────────────────


def test_window_option():
    seen = []

    @click.command()
    @dataset_options
    def command(**chosen):
        seen.append(take_dataset_options(chosen).window)

    for words in ([], ["--window", "40,400"], ["--window", " -600.5 , 1500"]):
        command.main(words, standalone_mode=False)
    assert seen == [None, (40.0, 400.0), (-600.5, 1500.0)]
    for wrong in ("40", "40,400,1", "a,b", "40,0", "nan,5", "40,inf"):
        with pytest.raises(click.BadParameter, match="centre and width"):
            command.main(["--window", wrong], standalone_mode=False)


def test_a_window_is_never_unheard(wards, tmp_path):
    options = DatasetOptions(window=(40.0, 400.0))
    np.savez(tmp_path / "x.npz", train_images=np.zeros((2, 4, 4), np.uint8), train_labels=[0, 1])
    for kind in ("phantom", str(tmp_path / "x.npz"), "medmnist:chestmnist"):
        with pytest.raises(DataError, match=r"has no image of more than 8 bits for --window.*; leave that option out"):
            open_dataset(kind, options)
    for name in "ab":
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.fromarray(RAMP).save(tmp_path / "pictures" / name / "x.png")
    with pytest.raises(DataError, match=r"has no DICOM file and no image of more than 8 bits for --window"):
        open_dataset(tmp_path / "pictures", options)
    with pytest.raises(DataError, match="--window and --intensity minmax were both given; expected one"):
        open_dataset(wards, DatasetOptions(window=(40.0, 400.0), intensity="minmax"))
    np.testing.assert_array_equal(
        open_dataset(wards, options).images.read(0)[:, :, 0], np.rint(dicom.window(RAMP, 40, 400))
    )


def test_the_window_is_part_of_the_preprocessing():
    made = Preprocessing(window=(40, 400))
    assert made.to_dict()["window"] == [40.0, 400.0]
    assert Preprocessing.from_dict(made.to_dict()) == made
    assert "window" not in Preprocessing().to_dict()  # so that caches from before keep their address
    for wrong in ((40, 0), (40,), "40,400", (float("nan"), 4), (True, 4)):
        with pytest.raises(TeacherError, match="'window'"):
            Preprocessing(window=wrong)
    with pytest.raises(TeacherError, match=r"'window'.*minmax"):
        Preprocessing(window=(40, 400), intensity="minmax")


# ── Both stages ──────────────────────────────────────────────────────────────────────────────────────────────────

PATIENTS, FRAMES = 30, 4
RUN = ("--image-size", 32, "--epochs", 1, "--batch-size", 16, "--student", "resnet18")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Chests as one would get them: 12 bits, both polarities, some compressed, some of several frames."""
    folder = tmp_path_factory.mktemp("hospital") / "chests"
    chests = drawn.draw_chests()
    images, labels = chests["train_images"], chests["train_labels"][:, 0]
    picked = {name: images[labels == code] for code, name in enumerate(("normal", "pneumonia"))}
    for name, pictures in picked.items():
        for patient in range(PATIENTS):
            values = pictures[patient].astype(np.uint16).repeat(3, 0).repeat(3, 1) * 16 + 9
            elements = {"WindowCenter": 2048, "WindowWidth": 4096} if patient % 3 else {}
            several = patient % 10 == 0
            if several:
                values = np.stack([np.roll(values, turn, 0) for turn in range(FRAMES)])
            if patient % 2:
                values, elements["PhotometricInterpretation"] = 4095 - values, "MONOCHROME1"
            ds = dicom.make(values, bits=12, frames=several, **elements)
            if patient % 5 == 1:
                ds.compress(dicom.RLELossless)
            dicom.save(ds, folder / f"{name}/{patient:02}.dcm")
    return folder


ROWS = 2 * (PATIENTS + PATIENTS // 10 * (FRAMES - 1))


@pytest.fixture(scope="module")
def cached(medal, hospital, small_request, tmp_path_factory):
    out = tmp_path_factory.mktemp("cache") / "chests.zarr"
    return out, medal("cache-teacher", hospital, out, *small_request)


def test_both_stages(cached, hospital, medal, tmp_path):
    out, made = cached
    assert (sum(made["rows"].values()), made["computed"], made["skipped"]) == (ROWS, ROWS, 0)
    assert medal("verify", out)["ok"]
    run = medal("train-student", out, hospital, "--out", tmp_path / "run", *RUN)
    assert 0 <= run["test"]["auroc"] <= 1


def test_a_cache_holds_nothing_of_the_patient(cached):
    out, _ = cached
    for path in out.rglob("*"):
        if path.is_file():
            assert b"Tulkinghorn" not in path.read_bytes()


def test_recompressed_and_deidentified_copies_fit(cached, hospital, medal, teacher, tmp_path):
    out, made = cached
    copy = tmp_path / "copy"
    pseudonyms: dict[str, str] = {}
    for path in hospital.rglob("*.dcm"):
        ds = dicom.dcmread(path)
        if ds.file_meta.TransferSyntaxUID == dicom.RLELossless:
            ds.decompress()
        elif "pylibjpeg" in dicom.get_decoder(dicom.JPEG2000Lossless).available_plugins:
            ds.compress(dicom.JPEG2000Lossless)
        ds.PatientName = "Nobody"
        ds.PatientID = pseudonyms.setdefault(ds.PatientID, f"P{len(pseudonyms)}")
        dicom.save(ds, copy / path.parent.name / f"anonymous-{path.stem}.dcm")
    checked = medal("verify", out, copy, "--sample", 20, "--teacher", teacher)
    assert (checked["ok"], checked["sample"]["images"]) == (True, 20)
    again = medal("cache-teacher", copy, out, "--teacher", teacher, "--image-size", 56, "--batch-size", 16)
    assert (again["action"], again["cache_id"]) == ("reuse", made["cache_id"])


def test_eight_bit_files_give_what_pictures_give(medal, small_request, tmp_path):
    chests = drawn.draw_chests()
    images, labels = chests["train_images"][:60], chests["train_labels"][:60, 0]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        split = ("train", "train", "val", "test")[number % 4]
        folder = tmp_path / "pictures" / split / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
        dicom.save(dicom.make(image), tmp_path / "scans" / split / str(label) / f"{number}.dcm")
    found = []
    for kind in ("pictures", "scans"):
        medal("cache-teacher", tmp_path / kind, tmp_path / f"{kind}.zarr", *small_request)
        checks = open_cache(tmp_path / f"{kind}.zarr").read("train", "view_check")[:, 0]
        found.append(checks[np.lexsort(checks.T)])
    np.testing.assert_array_equal(*found)


def test_the_window_is_taken_over_from_the_cache(cached, hospital, medal, small_request, teacher, tmp_path):
    plain, made = cached
    out = tmp_path / "narrow.zarr"
    narrow = medal("cache-teacher", hospital, out, *small_request, "--window", "1000,800")
    assert narrow["cache_id"] != made["cache_id"]
    assert open_cache(out).manifest.preprocessing["window"] == [1000, 800]
    assert "window" not in open_cache(plain).manifest.preprocessing
    # Only with the same window do the images give the teacher's features again.
    sample = ("--sample", 10, "--teacher", teacher)
    assert medal("verify", out, hospital, *sample)["ok"]
    with pytest.raises(SystemExit):
        medal("verify", out, hospital, *sample, "--window", "3000,100")
    medal("train-student", out, hospital, "--out", tmp_path / "run", *RUN)


def test_bad_files_are_listed_or_left_out(hospital, medal, small_request, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(hospital, folder)
    bad = sorted((folder / "normal").glob("*.dcm"))[11]
    bad.write_bytes(bad.read_bytes()[:-700])
    out = tmp_path / "some.zarr"
    with pytest.raises(DataError, match=rf"1 of {ROWS} images .*\n.*file 'normal/{bad.name}'"):
        medal("cache-teacher", folder, out, *small_request)
    made = medal("cache-teacher", folder, out, *small_request, "--on-bad-image", "skip")
    assert made["skipped"] == 1
    assert sum(made["rows"].values()) == ROWS - 1
    listed = (tmp_path / "some.zarr.skipped.csv").read_text()
    assert f"file 'normal/{bad.name}'" in listed
    assert "Tulkinghorn" not in listed
