"""The public layouts of ../shared, made of real ultrasound images by its own script: each ends as its README says."""

import runpy

import numpy as np
import pytest
from layout_cases import Read

from medal.cache.errors import DataError

B, M, N = "benign", "malignant", "normal"
EACH = {B: 20, M: 20, N: 20}
DRAWN = (42, 9, 9)
# Case → dataset, options, settings, and sizes of train, val and test, counts of classes, number of patients; or what
# the refusal says. None = not looked at.
READ = {
    "busi_gt": ("Dataset_BUSI_with_GT", {}, {}, DRAWN, EACH, 0),
    "nih": (
        "Data_Entry_2017.csv",
        {"label_column": "Finding Labels", "group_column": "Patient ID", "label_separator": "|"}
        | {"file_column": "Image Index", "image_folders": ("nih",)},
        {},
        None,
        {"Cardiomegaly": 20, "Effusion": 30, "Infiltration": 10, "No Finding": 20},
        30,
    ),
    "chexpert": (
        "CheXpert-v1.0-small/train.csv",
        {"label_columns": ("No Finding", "Cardiomegaly", "Lung Opacity", "Pleural Effusion"), "blank": "0"}
        | {"uncertain": "0", "val_table": "chexpert/CheXpert-v1.0-small/valid.csv", "image_folders": ("chexpert",)},
        {},
        (45, 15, 0),
        {"No Finding": 20, "Cardiomegaly": 20, "Lung Opacity": 20, "Pleural Effusion": 30},
        0,
    ),
    "ham10000": (
        "HAM10000_metadata.csv",
        {"label_column": "dx", "group_column": "lesion_id", "file_column": "image_id", "image_folders": ("ham10000",)},
        {},
        None,
        {"bkl": 20, "mel": 20, "nv": 20},
        30,
    ),
    "isic2019": (
        "ISIC_2019_Training_GroundTruth.csv",
        {"label_columns": ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"), "one_hot": True}
        | {"image_folders": ("isic2019",)},
        {},
        DRAWN,
        {"MEL": 20, "NV": 20, "BKL": 20},
        0,
    ),
    "aptos": (
        "train.csv",
        {"label_column": "diagnosis", "image_folders": ("aptos",)},
        {},
        DRAWN,
        {"0": 20, "1": 20, "2": 20},
        0,
    ),
    "kermany": ("chest_xray", {}, {}, (24, 6, 10), {"NORMAL": 20, "PNEUMONIA": 20}, 0),
    "breakhis": (
        "BreaKHis_v1/histology_slides/breast",
        {"class_level": 1, "group_pattern": r"14-(\d+)"},
        {},
        None,
        {B: 20, M: 20},
        10,
    ),
    "rsna_boxes": (
        "stage_2_train_labels.csv",
        {"label_column": "Target", "file_column": "patientId", "image_folders": ("rsna_boxes",)},
        {},
        DRAWN,
        {"0": 40, "1": 20},
        0,
    ),
    "oct2017": ("set", {"group_pattern": r"-(\d+)-"}, {}, None, {"CNV": 24, "DME": 24, "NORMAL": 24}, 24),
    "extra_top": ("set", {}, {}, (36, 9, 15), EACH, 0),
    "dangling": ("set", {}, {"on_bad_image": "skip"}, None, {B: 12, M: 12, N: 12}, 0),
    "dicom_patients": ("set", {}, {}, None, {B: 40, M: 40}, 16),
    "group_is_arm": ("labels.csv", {"group_column": "none"}, {}, DRAWN, EACH, 0),
    "label_int_float": (
        "labels.csv",
        {"rename_classes": (("0.0", "0"), ("1.0", "1"), ("2.0", "2"))},
        {},
        DRAWN,
        {"0": 20, "1": 20, "2": 20},
        0,
    ),
    "label_na": (
        "labels.csv",
        {"unknown_labels": ("NA", "N/A", "None", "<NA>", "null", "-1")},
        {},
        None,
        {B: 14, M: 14, N: 14},
        0,
    ),
    "unicode_nfd": ("labels.csv", {}, {}, DRAWN, EACH, 0),
    "excel_sep": ("labels.csv", {}, {}, DRAWN, EACH, 0),
    "tsv_ext": ("participants.tsv", {}, {}, DRAWN, EACH, 0),
    "webp_class": ("set", {}, {}, DRAWN, EACH, 0),
    "no_extension_png": ("set", {}, {}, DRAWN, EACH, 0),
    "long_tail": ("set", {"min_class_images": 2}, {}, None, {f"class_{number:03d}": 12 for number in range(4)}, 0),
    "limit_sorted": ("set", {}, {"limit": 15}, (15, 9, 9), {B: 11, M: 11, N: 11}, 0),
    "unlabelled_nested": ("set", {"unlabelled": True}, {}, (65, 0, 0), {"unlabelled": 0}, 0),
}
REFUSED = {
    "chexpert": (
        "CheXpert-v1.0-small/train.csv",
        {"label_columns": ("No Finding", "Cardiomegaly"), "image_folders": ("chexpert",)},
        "--blank 0 or --blank unknown",
    ),
    "nih": (
        "Data_Entry_2017.csv",
        {"label_column": "Finding Labels", "image_folders": ("nih",)},
        r"--label-separator '\|'",
    ),
    "breakhis": ("BreaKHis_v1/histology_slides/breast", {}, r"--class-level 1 \('benign', 'malignant'\)"),
    "splits_as_classes": ("set", {}, "'dev', 'test', 'train' are names of splits"),
    "dangling": ("set", {}, "24 of 60 images .*\n.* is a link to nothing"),
    "dangling_classdir": ("set", {}, "'covid', which is a link to nothing"),
    "group_is_arm": ("labels.csv", {}, "2 values in column 'group', 'case', 'control'"),
    "label_int_float": ("labels.csv", {}, r"'0' \(10\), '0.0' \(10\)"),
    "label_na": ("labels.csv", {}, "for a class in 18 rows"),
    "long_tail": ("set", {}, "leave them out with --min-class-images 2"),
}


@pytest.fixture(scope="module")
def layouts(shared, tmp_path_factory):
    """Make a case, once, with the script of ../shared."""
    script = shared / "layouts/make_layouts.py"
    if not script.is_file():
        pytest.skip("the script that makes the layouts is not at hand")
    made = runpy.run_path(str(script))
    scans, folder = made["read_scans"](made["DATA"]), tmp_path_factory.mktemp("layouts")

    def make(case):
        if not (folder / case).exists():
            (folder / case).mkdir()
            made["CASES"][case](folder / case, scans)
        return folder

    return make


@pytest.mark.parametrize("case", READ)
def test_it_is_read(layouts, case, monkeypatch):
    monkeypatch.chdir(layouts(case))
    spec, options, settings, sizes, counts, patients = READ[case]
    read = Read(f"{case}/{spec}", options, settings)
    assert read.counts == counts
    assert read.patients[0] == patients
    assert sizes is None or read.sizes == sizes
    keys = np.concatenate([part.key for part in read.rows.values()])
    assert len(np.unique(keys, axis=0)) == len(keys)


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_what_settles_it(layouts, case, monkeypatch):
    monkeypatch.chdir(layouts(case))
    spec, options, said = REFUSED[case]
    with pytest.raises(DataError, match=said):
        Read(f"{case}/{spec}", options)


def test_both_forms_of_a_table_are_one_set(layouts, monkeypatch):
    monkeypatch.chdir(layouts("tsv_ext"))
    one, other = (Read(f"tsv_ext/{name}").dataset for name in ("participants.tsv", "labels.csv.gz"))
    assert (one.keys() == other.keys()).all()
    assert (one.label == other.label).all()


@pytest.mark.parametrize(
    ("case", "word"),
    [
        ("busi_gt", "masks 62"),
        ("kermany", "outside the split folders 40"),
        ("extra_top", "outside the split folders 2, for instance 'sample_images/a.png'"),
        ("oct2017", "72 images share a stem with others \\(24 stems"),
        ("dicom_patients", "grouped by DICOM's PatientID: 16 patients"),
    ],
)
def test_what_is_odd_is_said(layouts, case, word, monkeypatch):
    import re

    monkeypatch.chdir(layouts(case))
    assert re.search(word, Read(f"{case}/{READ[case][0]}").said)
