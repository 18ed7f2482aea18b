"""DICOM as archives hold it: slices of a patient, and what in a study is no image of it."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from layout_cases import Read

from medal.cache.errors import DataError
from medal.pipeline.datasets import DatasetOptions, open_dataset

pytest.importorskip("pydicom", "3.0", reason="DICOM needs the extra [dicom]")
dicom = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "dicom_files.py")))
STORAGE = "1.2.840.10008.5.1.4.1.1"


def slices(folder, patient, each=3, count=8):
    """Write slices of two classes; `patient` names the patient of each."""
    for name in ("benign", "malignant"):
        for index in range(count):
            for number in range(each):
                values = np.random.default_rng([len(name), index, number]).integers(0, 256, (8, 8), np.uint8)
                ds = dicom.make(values, PatientID=patient(name, index, number))
                dicom.save(ds, folder / f"{name}/{index}-{number}.dcm")
    return folder


def test_slices_of_a_patient_stay_together(tmp_path):
    read = Read(slices(tmp_path, lambda name, index, _: f"{name}{index}"))
    assert read.patients == (16, {3})
    assert "images are grouped by DICOM's PatientID: 16 patients" in read.said
    assert Read(tmp_path, {"group_column": "none"}).patients == (0, set())
    assert Read(tmp_path, {"group_pattern": r"(\d)-\d\.dcm"}).patients == (8, {6})


def test_a_patient_of_one_image_each_is_no_group(tmp_path):
    dataset = open_dataset(slices(tmp_path, lambda *each: "-".join(map(str, each))))
    assert (dataset.group == -1).all()  # as before anybody read the header: no address of a cache changes


def test_one_patient_for_all_is_what_is_left_of_names_taken_away(tmp_path):
    read = Read(slices(tmp_path, lambda *_: "ANON"))
    assert read.patients == (0, set())
    assert "the DICOM files name 1 patient by PatientID, which cannot fill three splits" in read.said


@pytest.mark.parametrize(
    ("storage", "what"),
    [
        (f"{STORAGE}.66.4", "segmentations"),
        (f"{STORAGE}.481.2", "radiotherapy doses"),
        (f"{STORAGE}.481.3", "radiotherapy structures and plans"),
        (f"{STORAGE}.88.33", "reports"),
        (f"{STORAGE}.11.1", "presentation states"),
    ],
)
@pytest.mark.parametrize("intensity", ["declared", "minmax"])
def test_what_is_no_image_of_the_study_is_left_out_by_name(tmp_path, storage, what, intensity):
    slices(tmp_path, lambda *each: "-".join(map(str, each)), each=1)
    ds = dicom.make(np.zeros((8, 8), np.uint8), SOPClassUID=storage)
    dicom.save(ds, tmp_path / "benign/other.dcm")
    read = Read(tmp_path, {"intensity": intensity})
    assert len(read.dataset) == 16
    assert f"17 files found, 16 used, 1 left out ({what} 1, for instance 'benign/other.dcm')" in read.said


def test_localizers_are_left_out_if_asked_for(tmp_path):
    slices(tmp_path, lambda *each: "-".join(map(str, each)), each=1)
    ds = dicom.make(np.arange(64, dtype=np.uint8).reshape(8, 8), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    dicom.save(ds, tmp_path / "benign/scout.dcm")
    assert len(open_dataset(tmp_path)) == 17
    assert len(open_dataset(tmp_path, DatasetOptions(skip_localizers=True))) == 16


def test_a_radiotherapy_portal_image_is_an_image(tmp_path):
    slices(tmp_path, lambda *each: "-".join(map(str, each)), each=1)
    ds = dicom.make(np.arange(64, dtype=np.uint8).reshape(8, 8), SOPClassUID=f"{STORAGE}.481.1")
    dicom.save(ds, tmp_path / "benign/portal.dcm")
    assert len(open_dataset(tmp_path)) == 17


def test_no_message_has_a_patients_name(tmp_path):
    slices(tmp_path, lambda name, *_: f"SECRET-{name}")
    with pytest.raises(DataError) as error:
        open_dataset(tmp_path, DatasetOptions(label_column="x"))
    assert "SECRET" not in str(error.value) + Read(tmp_path).said
