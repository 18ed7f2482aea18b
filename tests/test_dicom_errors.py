"""DICOM files that cannot be used: one sentence each, which names the file and nothing of the patient."""

import contextlib
import os
import re
import runpy
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medal.cache.errors import DataError
from medal.pipeline.datasets.columns.dataset import UNREADABLE
from medal.pipeline.datasets.pixels.files import FileImages

ROOT = Path(__file__).resolve().parent.parent
dicom = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "dicom_files.py")))
RAMP, DEEP = dicom.RAMP, dicom.DEEP


@pytest.fixture
def refused(tmp_path):
    """Write a data set or bytes and return the error of reading it; of its key as well, unless only pixels are bad."""

    def refused(source, match, reason, key=True):
        path = tmp_path / "x.dcm"
        path.write_bytes(source) if isinstance(source, bytes) else dicom.save(source, path)
        images = FileImages(tmp_path, ("x.dcm",))
        for ask in (images.read, images.key) if key else (images.read,):
            with pytest.raises(DataError, match=match) as caught:
                ask(0)
            assert str(caught.value).startswith("file 'x.dcm' ")
            assert caught.value.reason == reason
            assert caught.value.__suppress_context__  # what pydicom says could quote the file
            assert dicom.PATIENT.partition("^")[0] not in str(caught.value)
        return str(caught.value)

    return refused


def test_what_is_no_image(refused):
    refused(b"", r"is not a DICOM file that can be read \(no 'DICM' at byte 128\)", "not an image")
    refused(b"<html>404</html>" * 20, "is not a DICOM file", "not an image")
    for name in ("test-SR.dcm", "rtplan.dcm", "waveform_ecg.dcm"):
        report = dicom.bundled(name).read_bytes()
        refused(report, "is a DICOM file without an image", "not an image")
    directory = dicom.bundled("DICOMDIR").read_bytes()
    refused(directory, "is a DICOM file without an image", "not an image")


def test_gone(tmp_path):
    images = FileImages(tmp_path, ("x.dcm",))
    for ask in (images.read, images.key):
        with pytest.raises(DataError, match=r"file 'x.dcm' in .* cannot be read: No such file") as caught:
            ask(0)
        assert caught.value.reason == UNREADABLE


def test_truncated(refused, tmp_path):
    for source in (dicom.make(np.tile(DEEP, (9, 9)), bits=12), dicom.make(np.tile(RAMP, (9, 9)))):
        whole = dicom.save(source, tmp_path / "whole.dcm").read_bytes()
        for share in (0.5, 0.9, 0.99):
            refused(whole[: int(len(whole) * share)], "is truncated: its pixels go on beyond the end", "damaged")


@pytest.mark.parametrize("syntax", [dicom.RLELossless, dicom.JPEG2000Lossless])
def test_truncated_frames(refused, tmp_path, syntax):
    ds = dicom.make(np.random.default_rng(0).integers(0, 4096, (40, 40), np.uint16), bits=12)
    with contextlib.suppress(RuntimeError):
        ds.compress(syntax)
    if ds.file_meta.TransferSyntaxUID != syntax:
        pytest.skip(f"no encoder of {syntax.name} is installed")
    whole = dicom.save(ds, tmp_path / "whole.dcm").read_bytes()
    for cut in (10, 100, 1000):
        refused(whole[:-cut], "is truncated: its pixels go on beyond the end", "damaged")
    ds.PixelData = dicom.encapsulate([dicom.get_frame(ds.PixelData, 0, number_of_frames=1)[:500]])
    refused(ds, "cannot be decoded, it is truncated or damaged", "damaged")


def test_a_transfer_syntax_without_a_decoder_is_named(refused, tmp_path):
    ds = dicom.enclose(dicom.make(RAMP), [b"\0\0"], "1.2.840.10008.1.2.4.102")
    refused(
        ds, r"compressed as 'MPEG-4 AVC/H.264 High Profile.*' \(1\.2\.840\.10008\.1\.2\.4\.102\), which", "no decoder"
    )
    content = (tmp_path / "x.dcm").read_bytes()
    private = content.replace(b"1.2.840.10008.1.2.4.102", b"1.2.999.10008.1.2.4.102")
    refused(private, r"compressed as '1\.2\.999\.10008\.1\.2\.4\.102' \(", "no decoder")


@pytest.fixture
def elsewhere(tmp_path_factory):
    """Run Python where everything is installed but what a pattern matches."""

    def elsewhere(pattern, script, *words):
        site = tmp_path_factory.mktemp("site")
        (site / "medal").symlink_to(ROOT)
        installed = {Path(find_spec(name).origin).parent.parent for name in ("pydicom", "numpy")}
        for path in (path for folder in installed for path in folder.iterdir()):
            if not re.match(pattern, path.name) and path.suffix != ".pth" and not (site / path.name).exists():
                (site / path.name).symlink_to(path)
        done = subprocess.run(
            [sys.executable, "-S", "-c", script, *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    return elsewhere


ASK = """
import sys
from pathlib import Path
from medal.cache.errors import DataError
from medal.pipeline.datasets.pixels.files import FileImages
said = set()
for ask in (FileImages.read, FileImages.key):
    try:
        ask(FileImages(Path(sys.argv[1]), ("x.dcm",)), 0)
    except DataError as error:
        said.add(f"{error.reason} | {error}")
print(*said)
"""


def test_plug_ins_that_are_not_installed(elsewhere, tmp_path):
    lossless = dicom.bundled("SC_rgb_jpeg_gdcm.dcm")
    (tmp_path / "x.dcm").write_bytes(lossless.read_bytes())
    assert elsewhere(".*libjpeg", ASK, tmp_path) == (
        f"no decoder | file 'x.dcm' is compressed as '{dicom.JPEGLosslessSV1.name}' ({dicom.JPEGLosslessSV1}), for "
        "which no decoder is installed; pip install pylibjpeg-libjpeg (its licence is the GPL).\n"
    )
    wavelets = dicom.bundled("MR_small_jp2klossless.dcm")
    (tmp_path / "x.dcm").write_bytes(wavelets.read_bytes())
    assert elsewhere(".*openjpeg", ASK, tmp_path).endswith('is installed; pip install "medalmighty[dicom]".\n')


def test_without_pydicom(elsewhere, tmp_path):
    for name in ("x.dcm", "a/x.dcm", "b/x.dcm"):
        dicom.save(dicom.make(RAMP), tmp_path / name)
    said = (
        "DICOM files are read with pydicom 3 or newer, which cannot be imported (No module named 'pydicom'); "
        'pip install "medalmighty[dicom]".\n'
    )
    assert elsewhere("pydicom", ASK, tmp_path) == f"no decoder | file 'x.dcm': {said}"
    opening = "import sys\nfrom medal.pipeline.datasets import open_dataset\nopen_dataset(sys.argv[1])"
    assert elsewhere("pydicom", opening, tmp_path).endswith(said)
    (tmp_path / "x.dcm").unlink()
    for name in "ab":
        (tmp_path / name / "x.dcm").rename(tmp_path / name / "x.png")
    assert elsewhere("pydicom", opening, tmp_path) == ""  # pictures do not ask for it


@pytest.mark.parametrize(
    ("elements", "match", "reason"),
    [
        ({"Rows": 60_000, "Columns": 60_000}, "too large to be decoded safely: 60000 × 60000 pixels", "too large"),
        ({"NumberOfFrames": 2_000_000_000}, "says that it has 2000000000 frames, more than it has bytes", "damaged"),
        ({"HighBit": 15}, r"has 12-bit values whose highest bit is 15; expected 11", "unusable values"),
        ({"WindowCenter": 7, "WindowWidth": 0}, r"has a window of width 0.* --window", "unusable values"),
        ({"WindowCenter": 7, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "'CUBIC'", "unusable values"),
        ({"RescaleSlope": 0, "RescaleIntercept": 7}, "a rescale slope of 0", "unusable values"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "a palette that cannot be read", "unusable values"),
        ({"SamplesPerPixel": 2}, "truncated or damaged", "damaged"),
        ({"BitsAllocated": 13}, "truncated or damaged", "damaged"),
        ({"NumberOfFrames": 2}, "truncated or damaged", "damaged"),
    ],
)
def test_impossible_headers(refused, elements, match, reason):
    refused(dicom.make(DEEP, bits=12, **elements), match, reason, key=False)


def test_damaged_bytes_are_read_or_refused_but_never_crash(tmp_path):
    random = np.random.default_rng(1)
    names = ("MR_small_RLE.dcm", "MR_small_implicit.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jp2klossless.dcm")
    names += ("SC_rgb_jpeg_gdcm.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm")
    wholes = [dicom.bundled(name).read_bytes() for name in names]
    for content in wholes:
        for _ in range(40):
            damaged = bytearray(content)
            for place in random.integers(132, len(content), 8):
                damaged[place] = random.integers(256)
            (tmp_path / "x.dcm").write_bytes(damaged)
            images = FileImages(tmp_path, ("x.dcm",))
            for ask in (images.read, images.key):
                with contextlib.suppress(DataError):
                    ask(0)


def test_warnings_stay_inside(tmp_path):
    """pydicom warns of padding, and of colours that are not what the header says; from several threads at once."""
    ds = dicom.make(np.zeros((16, 16, 3), np.uint8))
    dicom.enclose(ds, [dicom.jpeg(np.zeros((16, 16, 3), np.uint8))])
    dicom.save(ds, tmp_path / "jfif.dcm")
    padded = dicom.make(DEEP, bits=12)
    padded.PixelData += bytes(10)
    dicom.save(padded, tmp_path / "padded.dcm")
    for name in ("jfif.dcm", "padded.dcm"):
        with pytest.warns(UserWarning, match="(JFIF|padding)"):
            _ = dicom.dcmread(tmp_path / name).pixel_array
    before = list(warnings.filters)
    images = FileImages(tmp_path, ("jfif.dcm", "padded.dcm") * 20)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(images.read, range(len(images))))
        list(pool.map(images.key, range(len(images))))
    assert warnings.filters == before
    assert all((read[row] == read[row % 2]).all() for row in range(40))
