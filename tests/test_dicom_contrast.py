"""DICOM that says little or keeps no rule: no window, padding, no preamble, another encoding, names in .IMA."""

import io
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info

from medal.cache.errors import DataError
from medal.pipeline.datasets.columns.dataset import DatasetOptions
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.datasets.pixels.contrast import settle_intensity

dicom = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "dicom_files.py")))
COUNT, WINDOW = 8, {"WindowCenter": -500, "WindowWidth": 1000, "RescaleSlope": 1, "RescaleIntercept": 0}
CT = {"RescaleSlope": 1, "RescaleIntercept": 0}


def tissue(row):
    """Values of a CT from −1000 to 20, (40, 36) int16."""
    rng = np.random.default_rng(row)
    y, x = np.mgrid[0:40, 0:36]
    image = np.hypot(y - 20, x - 18) / 26 * 180 + rng.normal(0, 12, (40, 36))
    return (np.clip(image, 0, 255).astype(np.int16) * 4 - 1000).astype(np.int16)


@pytest.fixture
def folder(tmp_path):
    def make(write, suffix=".dcm"):
        for row in range(COUNT):
            place = tmp_path / "set" / "ab"[row % 2] / f"{row}{suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            content = write(row)
            place.write_bytes(content if isinstance(content, bytes) else encoded(content))
        return tmp_path / "set"

    return make


def encoded(ds) -> bytes:
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def settled(path, **options):
    asked = DatasetOptions(**options)
    dataset = open_dataset(str(path), asked)
    dataset, found = settle_intensity(dataset, np.arange(len(dataset)), asked)
    views = {Path(dataset.images.locate(row).file).name[0]: dataset.images.read(row)[:, :, 0] for row in range(COUNT)}
    return {int(name): view for name, view in views.items()}, found


def between(values, low, high):
    return np.clip((values.astype(float) - low) * 255 / (high - low), 0, 255)


def test_ct_without_a_window_is_shown_by_percentiles_and_says_so(folder):
    path = folder(lambda row: dicom.make(tissue(row), **CT))
    views, found = settled(path)
    low, high = map(float, found.intensity.split(","))
    assert "declare no window" in found.note
    assert "--window C,W" in found.note
    for row, view in views.items():
        assert np.ptp(np.quantile(view, (0.01, 0.99))) >= 100
        np.testing.assert_allclose(view, between(tissue(row), low, high), atol=1)
    views, found = settled(path, window=(-500.0, 1000.0))
    assert (found.intensity, found.note) == ("declared", None)
    for row, view in views.items():
        np.testing.assert_allclose(view, dicom.window(tissue(row), -500, 1000), atol=1)


def test_bits_that_show_the_image_are_taken_as_declared_and_the_want_of_a_window_is_said(folder):
    path = folder(lambda row: dicom.make((tissue(row) + 1000).astype(np.uint16) * 4, bits=12, **CT))
    views, found = settled(path)
    assert found.intensity == "declared"
    assert "have no window" in found.note
    np.testing.assert_allclose(views[3], between((tissue(3) + 1000) * 4, 0, 4095), atol=1)


@pytest.mark.parametrize("declared", [True, False])
def test_padding_is_no_black(folder, declared):
    padding = {"PixelPaddingValue": -32768} if declared else {}

    def padded(row):
        values = tissue(row)
        values[:6] = -32768
        return dicom.make(values, **CT, **padding)

    views, found = settled(folder(padded))
    low, high = map(float, found.intensity.split(","))
    assert -1000 <= low < high <= 20
    for row, view in views.items():
        np.testing.assert_allclose(view[6:], between(tissue(row)[6:], low, high), atol=1)
        assert (view[:6] == 0).all()


def test_monochrome1_is_turned_after_it_is_scaled(folder):
    path = folder(lambda row: dicom.make(tissue(row), **CT, PhotometricInterpretation="MONOCHROME1"))
    views, found = settled(path)
    low, high = map(float, found.intensity.split(","))
    np.testing.assert_allclose(views[2], 255 - between(tissue(2), low, high), atol=1)


def test_files_with_a_window_keep_it_beside_files_without(folder):
    views, found = settled(folder(lambda row: dicom.make(tissue(row), **(WINDOW if row < 4 else CT))))
    low, high = map(float, found.intensity.split(","))
    np.testing.assert_allclose(views[1], dicom.window(tissue(1), -500, 1000), atol=1)
    np.testing.assert_allclose(views[6], between(tissue(6), low, high), atol=1)


def without_preamble(row, implicit=False):
    ds, file = dicom.make(tissue(row), **WINDOW), DicomBytesIO()
    del ds.file_meta
    file.is_little_endian, file.is_implicit_VR = True, implicit
    write_dataset(file, ds)
    return file.getvalue()


def encoded_otherwise(row, implicit=True):
    """The meta group says one thing, the data set is the other."""
    ds, meta, body = dicom.make(tissue(row), **WINDOW), DicomBytesIO(), DicomBytesIO()
    ds.file_meta.TransferSyntaxUID = dicom.NATIVE["explicit" if implicit else "implicit"]
    meta.is_little_endian = body.is_little_endian = True
    meta.is_implicit_VR, body.is_implicit_VR = False, implicit
    write_file_meta_info(meta, ds.file_meta)
    del ds.file_meta
    write_dataset(body, ds)
    return bytes(128) + b"DICM" + meta.getvalue() + body.getvalue()


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize(
    ("write", "told"),
    [(without_preamble, "8 DICOM files have no preamble"), (encoded_otherwise, "8 DICOM files are encoded otherwise")],
)
def test_what_pydicom_reads_is_read_with_a_word(folder, caplog, write, told, implicit):
    views, _ = settled(folder(lambda row: write(row, implicit)))
    assert told in caplog.text
    for row, view in views.items():
        np.testing.assert_allclose(view, dicom.window(tissue(row), -500, 1000), atol=1)


def test_the_encoding_is_no_part_of_the_key(folder, caplog):
    writers = (lambda row: dicom.make(tissue(row), **WINDOW), without_preamble, encoded_otherwise)
    keys = [open_dataset(str(folder(write))).keys() for write in writers]
    np.testing.assert_array_equal(keys[0], keys[1])
    np.testing.assert_array_equal(keys[0], keys[2])
    assert len(np.unique(keys[0], axis=0)) == COUNT
    assert caplog.text.count("for instance") == 2


def test_names_of_siemens_scanners_are_known_by_content(folder, tmp_path):
    suffix = ".CT.HEAD.0001.2020.01.01.10.10.10.123456.IMA"
    views, _ = settled(folder(lambda row: dicom.make(tissue(row), **WINDOW), suffix))
    np.testing.assert_allclose(views[5], dicom.window(tissue(5), -500, 1000), atol=1)
    (tmp_path / "set/a/sound.ima").write_bytes(b"RIFF" + bytes(200))
    assert len(open_dataset(str(tmp_path / "set"))) == COUNT


def test_bytes_without_preamble_and_without_an_image_are_not_called_dicom(folder):
    dataset = open_dataset(str(folder(lambda _row: b"\x08\x00\x05\x00CS\x02\x00AB" + bytes(300))))
    with pytest.raises(DataError, match=r"is not a DICOM file that can be read \(no 'DICM' at byte 128\)"):
        dataset.images.read(0)
