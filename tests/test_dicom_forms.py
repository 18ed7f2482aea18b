"""DICOM in all its forms: colours, compressed transfer syntaxes, several frames; against values written by hand."""

import gc
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medal.cache.errors import DataError

dicom = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "dicom_files.py")))
RAMP, DEEP, HU, close = dicom.RAMP, dicom.DEEP, dicom.HU, dicom.close


@pytest.fixture
def read(tmp_path):
    return partial(dicom.read, tmp_path)


# ── Colour ───────────────────────────────────────────────────────────────────────────────────────────────────────

COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], 2)


def to_rgb(luma, blue, red):
    """ITU-T T.871, section 7."""
    luma, blue, red = (np.asarray(part, float) for part in (luma, blue, red))
    rgb = [
        luma + 1.402 * (red - 128),
        luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
        luma + 1.772 * (blue - 128),
    ]
    return np.clip(np.stack(rgb, -1), 0, 255)


@pytest.mark.parametrize("encoding", dicom.NATIVE)
def test_rgb_by_pixel_and_by_plane(read, encoding):
    np.testing.assert_array_equal(read(COLOUR, encoding=encoding), COLOUR)
    ds = dicom.make(COLOUR, encoding=encoding, PlanarConfiguration=1)
    ds.PixelData = COLOUR.transpose(2, 0, 1).tobytes()
    np.testing.assert_array_equal(read(ds), COLOUR)


def test_sixteen_bit_colour(read):
    pixels = read(COLOUR.astype(np.uint16) * 257)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, COLOUR, atol=1e-3)
    np.testing.assert_allclose(read(COLOUR, "minmax"), (COLOUR - 0.0) / 255 * 255, atol=1e-3)


def test_ybr_full(read):
    pixels = read(COLOUR, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(pixels, to_rgb(*COLOUR.transpose(2, 0, 1)), atol=1)


def test_ybr_full_422(read):
    """Two pixels side by side share their colour: Y1 Y2 Cb Cr."""
    luma, blue, red = RAMP, RAMP[:, ::2] // 3 + 90, 200 - RAMP[:, ::2] // 3
    packed = np.stack([luma[:, ::2], luma[:, 1::2], blue, red], -1)
    ds = dicom.make(COLOUR, PhotometricInterpretation="YBR_FULL_422")
    ds.PixelData = packed.tobytes()
    np.testing.assert_allclose(read(ds), to_rgb(luma, blue.repeat(2, 1), red.repeat(2, 1)), atol=1)
    ds.PixelData = COLOUR.tobytes()  # as some write what they have expanded
    with pytest.raises(DataError, match=r"'x.dcm' cannot be decoded"):
        read(ds)


@pytest.mark.parametrize(("bits", "wide"), [(8, False), (8, True), (16, None), (16, False)])
def test_palette(read, bits, wide):
    """Entries of 8 bits may stand in 16, and some writers say 16 where they wrote 8."""
    real = 16 if bits == 16 and wide is None else 8
    colours = np.random.default_rng(0).integers(0, 2**real, (221, 3))
    pixels = read(RAMP, PhotometricInterpretation="PALETTE COLOR", **dicom.palette(colours, bits, wide=wide))
    np.testing.assert_allclose(pixels, colours[RAMP] / (2**real - 1) * 255, atol=1e-3)
    assert pixels.dtype == (np.float32 if real == 16 else np.uint8)


def test_palette_of_eight_bit_entries_for_deep_values(read):
    """pydicom 3.0 counts entries of such a palette in 8 bits and so starts anew after 256 of them."""
    colours = np.random.default_rng(0).integers(0, 256, (1000, 3))
    elements = dicom.palette(colours, 8, first=100)
    pixels = read(DEEP, bits=12, PhotometricInterpretation="PALETTE COLOR", **elements)
    np.testing.assert_array_equal(pixels, colours[np.clip(DEEP.astype(int) - 100, 0, 999)])


def test_segmented_palette(read):
    """A discrete segment of two entries, then a line of four to 240, then three of the last."""
    ds = dicom.make(RAMP // 20 % 9, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [9, 0, 8])
        setattr(ds, f"Segmented{name}PaletteColorLookupTableData", bytes([0, 2, 0, 40, 1, 4, 240, 1, 3, 240]))
    grey = np.array([0, 40, 90, 140, 190, 240, 240, 240, 240])[RAMP // 20 % 9]
    np.testing.assert_array_equal(read(ds), np.stack([grey] * 3, 2))


def test_colour_spaces_that_nobody_writes_any_more(read):
    with pytest.raises(DataError, match=r"'x.dcm' has the photometric interpretation 'HSV'") as caught:
        read(COLOUR, PhotometricInterpretation="HSV")
    assert caught.value.reason == "unusable values"


# ── Compressed ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_rle(read):
    ds = dicom.make(DEEP, bits=12, WindowCenter=1000, WindowWidth=600)
    ds.compress(dicom.RLELossless)
    close(read(ds), dicom.window(DEEP, 1000, 600))
    colour = dicom.make(COLOUR)
    colour.compress(dicom.RLELossless)
    np.testing.assert_array_equal(read(colour), COLOUR)


@dicom.decodes(dicom.JPEG2000Lossless)
@pytest.mark.parametrize("values", [DEEP, HU], ids=["unsigned", "signed"])
def test_jpeg2000(read, values):
    large = np.tile(values, (20, 20))
    ds = dicom.make(large, bits=12 if values is DEEP else 16, WindowCenter=1000, WindowWidth=600)
    ds.compress(dicom.JPEG2000Lossless)
    close(read(ds), dicom.window(large, 1000, 600))


@pytest.mark.parametrize("interpretation", ["YBR_FULL_422", "RGB"])
def test_jpeg_baseline(read, interpretation):
    """Flat colours survive; a JFIF segment goes before what the header says."""
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, 16:] = (200, 90, 10)
    ds = dicom.enclose(dicom.make(picture, PhotometricInterpretation=interpretation), [dicom.jpeg(picture)])
    np.testing.assert_allclose(read(ds).astype(int), picture, atol=2)
    grey = dicom.enclose(dicom.make(picture[:, :, 0]), [dicom.jpeg(picture[:, :, 0])])
    np.testing.assert_allclose(read(grey)[:, :, 0].astype(int), picture[:, :, 0], atol=2)


@pytest.mark.parametrize("interpretation", ["YBR_FULL_422", "RGB"])
def test_jpeg_of_adobe(read, interpretation):
    """Pillow turns such a file into RGB by itself, which pydicom 3.0 does not notice."""
    picture = np.full((16, 16, 3), (200, 90, 10), np.uint8)
    ds = dicom.make(picture, PhotometricInterpretation=interpretation)
    dicom.enclose(ds, [dicom.jpeg(picture, dicom.adobe(1), jfif=False)])
    np.testing.assert_allclose(read(ds).astype(int), picture, atol=2)


# The same picture in several forms, all from pydicom's own files.
BARS = [(255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255), (128, 128, 255)]
BARS += [(0, 0, 0), (64, 64, 64), (192, 192, 192), (255, 255, 255)]


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("SC_rgb_rle.dcm", 0),
        ("SC_rgb_rle_16bit.dcm", 0),
        ("SC_ybr_full_422_uncompressed.dcm", 5),  # colours that were rounded on the way
        ("SC_rgb_dcmtk_+eb+cr.dcm", 1),
        ("SC_rgb_dcmtk_+eb+cy+n1.dcm", 5),
        ("SC_rgb_jpeg_dcmtk.dcm", 5),
        pytest.param("SC_rgb_gdcm_KY.dcm", 0, marks=dicom.decodes(dicom.JPEG2000Lossless)),
        pytest.param("SC_rgb_jpeg_gdcm.dcm", 0, marks=dicom.decodes(dicom.JPEGLosslessSV1)),
    ],
)
def test_bundled_colour_bars(name, tolerance):
    pixels = dicom.open_bundled(name).read(0)
    assert pixels.shape == (100, 100, 3)
    np.testing.assert_allclose(pixels[5::10, 50].astype(float), BARS, atol=tolerance + 1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_padded.dcm",
        pytest.param("MR_small_jp2klossless.dcm", marks=dicom.decodes(dicom.JPEG2000Lossless)),
        pytest.param("MR_small_jpeg_ls_lossless.dcm", marks=dicom.decodes(dicom.JPEGLSLossless)),
    ],
)
def test_bundled_mr(name):
    content = dicom.bundled("MR_small.dcm").read_bytes()
    start = content.rindex(b"\xe0\x7f\x10\x00OW") + 12
    stored = np.frombuffer(content[start : start + 8192], "<i2").reshape(64, 64)
    close(dicom.open_bundled(name).read(0), dicom.window(stored, 600, 1600))


def test_bundled_others():
    assert dicom.open_bundled("liver_1frame.dcm").read(0).sum() == 36233 * 255
    ct = dicom.open_bundled("CT_small.dcm").read(0)  # 16 signed bits, intercept −1024, no window
    stored = dicom.dcmread(dicom.bundled("CT_small.dcm")).pixel_array
    close(ct, (stored.astype(float) + 32768) / 65535 * 255)
    ds = dicom.dcmread(dicom.bundled("examples_overlay.dcm"))
    close(dicom.open_bundled("examples_overlay.dcm").read(0), dicom.window(ds.pixel_array, 450, 790))
    ds = dicom.dcmread(dicom.bundled("examples_palette.dcm"))
    tables = [ds[f"{name}PaletteColorLookupTableData"].value for name in ("Red", "Green", "Blue")]
    colours = np.stack([np.frombuffer(table, "<u2") for table in tables], 1)
    assert ds.RedPaletteColorLookupTableDescriptor == [256, 0, 16]
    palette = dicom.open_bundled("examples_palette.dcm").read(0)
    np.testing.assert_allclose(palette, colours[ds.pixel_array] / 65535 * 255, atol=1e-3)


# ── Frames ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("compressed", [False, True])
def test_frames(read, compressed):
    stack = np.stack([DEEP, DEEP[::-1], DEEP // 2])
    ds = dicom.make(stack, bits=12, frames=True, WindowCenter=1000, WindowWidth=600)
    if compressed:
        ds.compress(dicom.RLELossless)
    for row in range(3):
        close(read(ds, row=row, frames=(1, 2, 3)), dicom.window(stack[row], 1000, 600))


def test_frames_that_end_within_a_byte(read):
    bits = np.random.default_rng(0).integers(0, 2, (3, 3, 3), np.uint8)
    ds = dicom.make(bits, frames=True, BitsAllocated=1, BitsStored=1, HighBit=0)
    ds.PixelData = np.packbits(bits, bitorder="little").tobytes()
    for row in range(3):
        np.testing.assert_array_equal(read(ds, row=row, frames=(1, 2, 3))[:, :, 0], bits[row] * 255)


def test_frames_with_rescales_and_windows_of_their_own(read):
    """Enhanced CT and MR keep them in functional groups: shared by all frames, or one a frame."""
    stack = np.stack([DEEP, DEEP])
    ds = dicom.make(stack, bits=12, frames=True)
    shared, first, second = dicom.Dataset(), dicom.Dataset(), dicom.Dataset()
    rescale, shown, other = dicom.Dataset(), dicom.Dataset(), dicom.Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
    shown.WindowCenter, shown.WindowWidth = [40, 9], [400, 9]
    other.WindowCenter, other.WindowWidth, other.VOILUTFunction = 500, 900, "LINEAR_EXACT"
    shared.PixelValueTransformationSequence, shared.FrameVOILUTSequence = [rescale], [shown]
    second.FrameVOILUTSequence = [other]
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], [first, second]
    close(read(ds, frames=(1, 2)), dicom.window(DEEP - 1024.0, 40, 400))
    close(read(ds, row=1, frames=(1, 2)), np.clip((DEEP - 1024.0 - 500) / 900 + 0.5, 0, 1) * 255)


def test_a_frame_of_a_large_file_is_read_alone(tmp_path):
    """Sixty frames of breast tomosynthesis are 600 MB: reading all of them for each would take minutes."""
    stack = np.zeros((200, 512, 512), np.uint8)
    stack[7] = 200
    path = dicom.save(dicom.make(stack, frames=True), tmp_path / "x.dcm")
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from medal.pipeline.datasets.pixels.files import FileImages\n"
        "images = FileImages(Path(sys.argv[1]), ('x.dcm',) * 200, 'declared', tuple(range(1, 201)))\n"
        "assert images.read(0).max() == 0\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert images.read(7).min() == 200\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    del stack
    gc.collect()
    done = subprocess.run([sys.executable, "-c", script, path.parent], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # kilobytes; the file has 52 MB
