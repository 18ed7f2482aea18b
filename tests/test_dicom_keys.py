"""Keys of DICOM images: of the values and what changes how they are shown, and of nothing else."""

import runpy
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medal.cache.keys import array_key, file_key
from medal.pipeline.datasets.pixels.dicom.header import ELEMENTS
from medal.pipeline.datasets.pixels.files import FileImages

dicom = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "dicom_files.py")))
RAMP, DEEP = dicom.RAMP, dicom.DEEP
CT = {"bits": 12, "RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": [40, 300], "WindowWidth": [400, 1500]}


COMPRESSED = [dicom.RLELossless]
COMPRESSED.append(pytest.param(dicom.JPEG2000Lossless, marks=dicom.decodes(dicom.JPEG2000Lossless)))


@pytest.fixture
def key(tmp_path):
    """Write a data set, or an array with its elements, and return its key."""

    def key(source, row=0, frames=(), **elements):
        ds = source if isinstance(source, dicom.Dataset) else dicom.make(source, **elements)
        dicom.save(ds, tmp_path / "x.dcm")
        return FileImages(tmp_path, ("x.dcm",) * max(1, len(frames)), "declared", frames).key(row)

    return key


def test_a_key_is_of_a_kind_of_its_own(key, tmp_path):
    found = key(RAMP)
    assert len(found) == 16
    assert found not in (array_key(RAMP), file_key((tmp_path / "x.dcm").read_bytes()))
    said = b'{"bits":8,"frame":0,"grey":"MONOCHROME2","modality":[1.0,0.0],"shape":[3,4],"signed":0,"voi":null}'
    content = b"medal:dicom\0" + said + b"\0" + RAMP.astype("<i4").tobytes()
    assert found == blake2b(content, digest_size=16).digest()


def test_encodings_share_a_key(key):
    for array in (DEEP, np.stack([RAMP] * 3, 2)):
        assert len({key(array, bits=12 if array is DEEP else 8, encoding=one) for one in dicom.NATIVE}) == 1


@pytest.mark.parametrize("encoding", dicom.NATIVE)
def test_encodings_share_the_key_of_tables(key, encoding):
    table = {"VOILUTSequence": dicom.lut(np.arange(4096), 12)}
    assert key(DEEP, bits=12, encoding=encoding, **table) == key(DEEP, bits=12, **table)


@pytest.mark.parametrize("syntax", COMPRESSED)
@pytest.mark.parametrize("colour", [False, True])
def test_recompressed_files_keep_theirs(key, syntax, colour):
    random = np.random.default_rng(0)
    array = random.integers(0, 256, (64, 80, 3), np.uint8) if colour else random.integers(0, 4096, (64, 80), np.uint16)
    elements = {} if colour else CT
    ds = dicom.make(array, **elements)
    before = key(ds)
    ds.compress(syntax)
    assert key(ds) == before


def test_recompressed_files_of_others():
    names = ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"]
    if dicom.get_decoder(dicom.JPEGLSLossless).is_available:
        names.append("MR_small_jpeg_ls_lossless.dcm")
    if dicom.get_decoder(dicom.JPEG2000Lossless).is_available:
        names.append("MR_small_jp2klossless.dcm")
    assert len({dicom.open_bundled(name).key(0) for name in names}) == 1


@dicom.decodes(dicom.JPEGLosslessSV1)
def test_recompressed_colour_of_others():
    assert dicom.open_bundled("SC_rgb_jpeg_gdcm.dcm").key(0) == dicom.open_bundled("SC_rgb_rle.dcm").key(0)


def test_decompressed_colour_keeps_its_key(key):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    ds = dicom.enclose(dicom.make(picture, PhotometricInterpretation="YBR_FULL_422"), [dicom.jpeg(picture)])
    before = key(ds)
    ds.decompress(as_rgb=False, decoding_plugin="pillow")
    ds.PhotometricInterpretation = "YBR_FULL"  # which is what native values of every pixel are
    assert key(ds) == before


def test_deidentified_files_keep_theirs(key):
    ds = dicom.make(DEEP, **CT)
    before = key(ds)
    ds.PatientName, ds.PatientID, ds.StudyDate = "Anonymous", "0", ""
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = dicom.generate_uid()
    ds.InstitutionName, ds.DeidentificationMethod = "", "retained nothing"
    ds.WindowCenterWidthExplanation = ["SOFT", "BONE"]
    ds.add_new(0x00091010, "LO", "private")
    assert key(ds) == before


def test_other_spellings_of_a_number_keep_it(key):
    before = key(DEEP, **CT)
    spelt = {
        "RescaleSlope": "1.000",
        "RescaleIntercept": "-1.024E3",
        "WindowCenter": "40.0",
        "WindowWidth": ["4E2", "9"],
    }
    assert key(DEEP, **CT | spelt) == before
    plain = key(DEEP, bits=12)
    assert key(DEEP, bits=12, RescaleSlope="1", RescaleIntercept="0") == plain


# Every element that the module lists, and a change of it; the key must follow.
TABLE = dicom.lut(np.arange(4096), 12)
COLOURS = np.arange(768).reshape(256, 3) % 256
PALETTE = {"PhotometricInterpretation": "PALETTE COLOR", **dicom.palette(COLOURS, 8)}
CHANGES = {
    "PhotometricInterpretation": (CT, {"PhotometricInterpretation": "MONOCHROME1"}),
    "BitsStored": (CT, {"bits": 13}),
    "PixelRepresentation": ({"bits": 13}, {"PixelRepresentation": 1}),
    "RescaleSlope": (CT, {"RescaleSlope": 2}),
    "RescaleIntercept": (CT, {"RescaleIntercept": -1000}),
    "ModalityLUTSequence": (CT, {"ModalityLUTSequence": TABLE}),
    "VOILUTSequence": (CT, {"VOILUTSequence": TABLE}),
    "WindowCenter": (CT, {"WindowCenter": [41, 300]}),
    "WindowWidth": (CT, {"WindowWidth": [401, 1500]}),
    "VOILUTFunction": (CT, {"VOILUTFunction": "SIGMOID"}),
    "RedPaletteColorLookupTableDescriptor": (PALETTE, {"RedPaletteColorLookupTableDescriptor": [256, 1, 8]}),
    **{
        f"{name}PaletteColorLookupTableData": (PALETTE, {f"{name}PaletteColorLookupTableData": bytes(256)})
        for name in ("Red", "Green", "Blue")
    },
    **{
        f"Segmented{name}PaletteColorLookupTableData": (
            PALETTE,
            {f"{one}PaletteColorLookupTableData": None for one in ("Red", "Green", "Blue")}
            | {
                f"Segmented{one}PaletteColorLookupTableData": bytes([0, 1, 0, 1, 255, 90 + (one == name)])
                for one in ("Red", "Green", "Blue")
            },
        )
        for name in ("Red", "Green", "Blue")
    },
}


def test_every_element_is_changed_here():
    assert set(CHANGES) == set(ELEMENTS)
    assert all(ELEMENTS.values())


@pytest.mark.parametrize("element", CHANGES)
def test_what_changes_how_an_image_is_shown_changes_its_key(key, element):
    before, change = CHANGES[element]
    array = RAMP if before is PALETTE else DEEP
    elements = {name: value for name, value in {**before, **change}.items() if value is not None}
    assert key(array, **elements) != key(array, **before)


def test_each_segmented_table_has_its_part_in_the_key(key):
    found = set()
    for element, (_, change) in CHANGES.items():
        if element.startswith("Segmented"):
            elements = {name: value for name, value in {**PALETTE, **change}.items() if value is not None}
            found.add(key(RAMP, **elements))
    assert len(found) == 3


def test_what_is_not_shown_changes_nothing(key):
    before = key(DEEP, **CT)
    assert key(DEEP, **CT | {"WindowCenter": [40, 301]}) == before  # the second window
    assert key(DEEP, PixelSpacing=[1, 2], PixelAspectRatio=[1, 2], **CT) == before
    table = {"VOILUTSequence": TABLE}
    assert key(DEEP, **CT | table) == key(DEEP, **CT | table | {"WindowCenter": 9})  # the table goes first


def test_one_value_changes_the_key(key):
    other = DEEP.copy()
    other[2, 1] += 1
    assert key(other, bits=12) != key(DEEP, bits=12)
    assert key(DEEP.reshape(4, 3), bits=12) != key(DEEP, bits=12)


def test_frames_differ(key):
    stack = np.stack([DEEP] * 3)
    ds = dicom.make(stack, bits=12, frames=True)
    assert len({key(ds, row, (1, 2, 3)) for row in range(3)}) == 3
    assert key(ds, 0, (1, 2, 3)) == key(DEEP, bits=12)


def test_the_window_asked_for_and_the_intensity_are_no_part_of_it(tmp_path):
    dicom.save(dicom.make(DEEP, **CT), tmp_path / "x.dcm")
    several = (("declared", None), ("minmax", None), ("declared", (40.0, 80.0)))
    assert len({FileImages(tmp_path, ("x.dcm",), one, (), window).key(0) for one, window in several}) == 1
