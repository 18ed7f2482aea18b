"""DICOM as a viewer first shows it: what comes out is what the standard's formulas, written by hand here, give."""

import runpy
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


@pytest.mark.parametrize("encoding", dicom.NATIVE)
def test_eight_bits_stay_as_they_are(read, encoding):
    np.testing.assert_array_equal(read(RAMP, encoding=encoding)[:, :, 0], RAMP)


@pytest.mark.parametrize("encoding", dicom.NATIVE)
def test_deep_values_in_every_encoding(read, encoding):
    close(read(DEEP, bits=12, encoding=encoding), DEEP / 4095 * 255)


def test_monochrome1_is_turned_round(read):
    np.testing.assert_array_equal(read(RAMP, PhotometricInterpretation="MONOCHROME1")[:, :, 0], 255 - RAMP)
    close(read(DEEP, bits=12, PhotometricInterpretation="MONOCHROME1"), 255 - DEEP / 4095 * 255)
    turned = read(DEEP, bits=12, PhotometricInterpretation="MONOCHROME1", WindowCenter=2000, WindowWidth=1500)
    close(turned, 255 - dicom.window(DEEP, 2000, 1500))
    close(read(DEEP, "minmax", bits=12, PhotometricInterpretation="MONOCHROME1"), 255 - DEEP / DEEP.max() * 255)


def test_twelve_bits_with_a_window(read):
    close(read(DEEP, bits=12, WindowCenter=1000, WindowWidth=600), dicom.window(DEEP, 1000, 600))
    close(read(DEEP, bits=12, WindowCenter=1000.25, WindowWidth="1"), np.where(DEEP > 999.75, 255, 0))


def test_unused_bits_do_not_count(read):
    """Bits above the stored ones once held overlays."""
    close(read(DEEP | 0x5000, bits=12), DEEP / 4095 * 255)
    signed = np.array([[-2048, -1, 0, 2047]], np.int16)
    cut = (signed & 0x0FFF).astype(np.int16)  # written without extending the sign
    close(read(cut, bits=12), (signed + 2048.0) / 4095 * 255)


def test_signed_values_with_a_rescale(read):
    stored = ((HU + 1000) / 2 - 300).astype(np.int16)
    modality = stored * 2.0 - 400
    elements = {"RescaleSlope": 2, "RescaleIntercept": -400, "bits": 12}
    close(read(stored, WindowCenter=40, WindowWidth=400, **elements), dicom.window(modality, 40, 400))
    # Without a window: the range of 12 signed bits, −2048…2047, through the rescale.
    close(read(stored, **elements), (modality - (-2048 * 2 - 400)) / (4095 * 2) * 255)
    close(read(stored, "minmax", **elements), (modality - modality.min()) / np.ptp(modality) * 255)


def test_ct_without_a_window_spans_its_declared_bits(read):
    stored = (HU + 1024).astype(np.uint16)
    close(read(stored, bits=12, RescaleSlope=1, RescaleIntercept=-1024), (HU + 1024.0) / 4095 * 255)
    close(read(HU, RescaleSlope=1, RescaleIntercept=0), (HU + 32768.0) / 65535 * 255)


def test_a_negative_slope_makes_small_values_bright(read):
    elements = {"RescaleSlope": -1, "RescaleIntercept": 4095, "bits": 12}
    close(read(DEEP, **elements), 255 - DEEP / 4095 * 255)
    close(read(DEEP, WindowCenter=1000, WindowWidth=600, **elements), dicom.window(4095.0 - DEEP, 1000, 600))


def test_of_several_windows_the_first(read):
    two = {"WindowCenter": [1000, 40], "WindowWidth": [600, 80], "bits": 12}
    close(read(DEEP, **two), dicom.window(DEEP, 1000, 600))


def test_other_functions_of_a_window(read):
    exact = np.clip((DEEP - 1000.0) / 600 + 0.5, 0, 1) * 255
    sigmoid = 255 / (1 + np.exp(-4 * (DEEP - 1000.0) / 600))
    elements = {"WindowCenter": 1000, "WindowWidth": 600, "bits": 12}
    close(read(DEEP, VOILUTFunction="LINEAR_EXACT", **elements), exact)
    close(read(DEEP, VOILUTFunction="SIGMOID", **elements), sigmoid)
    close(read(DEEP, bits=12, WindowCenter=1000, WindowWidth=1, VOILUTFunction="SIGMOID"), (DEEP > 1000) * 255)


def test_empty_windows_are_none(read):
    close(read(DEEP, bits=12, WindowCenter=None, WindowWidth=None), DEEP / 4095 * 255)
    close(read(DEEP, bits=12, WindowCenter="", WindowWidth=5), DEEP / 4095 * 255)


def test_eight_bits_with_a_window_stay_eight_bits(read):
    pixels = read(RAMP, WindowCenter=100, WindowWidth=101)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[:, :, 0], np.rint(dicom.window(RAMP, 100, 101)))


@pytest.mark.parametrize("encoding", dicom.NATIVE)
def test_voi_lut_goes_before_the_window(read, encoding):
    entries = (np.arange(4096) ** 2 // 256).astype(np.uint16)  # 0…65504
    elements = {"WindowCenter": 9, "WindowWidth": 2, "bits": 12, "encoding": encoding}
    close(read(DEEP, VOILUTSequence=dicom.lut(entries, 16), **elements), entries[DEEP] / 65535 * 255)


def test_voi_lut_of_eight_bit_entries(read):
    """pydicom 3.0 counts entries of such a table in 8 bits and so starts anew after 256 of them."""
    entries = np.arange(4096) // 16
    for packed in (False, True):
        sequence = dicom.lut(entries, 8, packed=packed)
        close(read(DEEP, bits=12, VOILUTSequence=sequence), entries[DEEP].astype(float))


def test_voi_lut_after_a_rescale_and_beyond_its_ends(read):
    stored = np.array([[0, 900, 1024, 1100, 4000]], np.uint16)
    entries = np.arange(200) * 5  # of modality values −100…99, 10 bits
    elements = {"RescaleSlope": 1, "RescaleIntercept": -1024, "bits": 12, "PixelRepresentation": 1}
    pixels = read(stored.astype(np.int16), VOILUTSequence=dicom.lut(entries, 10, first=-100), **elements)
    place = np.clip(stored.astype(int) - 1024 + 100, 0, 199)
    place[0, -1] = np.clip((4000 - 4096) - 1024 + 100, 0, 199)  # 4000 is negative in 12 signed bits
    close(pixels, entries[place] / 1023 * 255)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_modality_lut(read, bits):
    entries = ((np.arange(4096) * 7) % 4096) >> (4 if bits == 8 else 0)
    sequence = dicom.lut(entries, bits)
    close(read(DEEP, bits=12, ModalityLUTSequence=sequence), entries[DEEP] / (2**bits - 1) * 255)
    shown = read(DEEP, bits=12, ModalityLUTSequence=sequence, WindowCenter=99, WindowWidth=50)
    close(shown, dicom.window(entries[DEEP], 99, 50))


def test_one_window_for_all_files(read):
    expected = dicom.window(DEEP, 2000, 1000)
    own = {"WindowCenter": 9, "WindowWidth": 2, "VOILUTFunction": "SIGMOID"}
    close(read(DEEP, asked=(2000.0, 1000.0), bits=12, **own), expected)
    close(read(DEEP, asked=(2000.0, 1000.0), bits=12, VOILUTSequence=dicom.lut(np.arange(4096), 12)), expected)
    close(read(DEEP, asked=(2000.0, 1000.0), bits=12, PhotometricInterpretation="MONOCHROME1"), 255 - expected)
    colour = np.stack([RAMP, RAMP[::-1], 255 - RAMP], 2)
    np.testing.assert_array_equal(read(colour, asked=(20.0, 10.0)), colour)


def test_minmax_by_image(read):
    close(read(DEEP, "minmax", bits=12, WindowCenter=9, WindowWidth=2), DEEP / DEEP.max() * 255)
    close(read(RAMP, "minmax"), RAMP / 220 * 255)


def test_one_bit_and_thirty_two(read):
    bits = np.packbits(np.arange(24) % 5 == 0, bitorder="little")
    ds = dicom.make(RAMP, BitsAllocated=1, BitsStored=1, HighBit=0, Rows=3, Columns=8)
    ds.PixelData = bits.tobytes() + b"\0"
    np.testing.assert_array_equal(read(ds)[:, :, 0], (np.arange(24) % 5 == 0).reshape(3, 8) * 255)
    wide = np.array([[0, 2**32 - 1]], np.uint32)
    close(read(wide), [[0, 255]])
    with pytest.raises(DataError, match=r"file 'x.dcm' .* 0 to 4000 .* one grey; .*--window.*--intensity minmax"):
        read(np.array([[0, 4000]], np.uint32))


def test_floating_point(read):
    values = np.array([[0, 0.25, 1.0]], np.float32)

    def floats(scale=1):
        ds = dicom.make(values)
        del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
        ds.FloatPixelData = (values * scale).tobytes()
        return ds

    close(read(floats()), [[0, 63.75, 255]])
    close(read(floats(900), asked=(450.0, 901.0)), dicom.window(values * 900, 450, 901))
    with pytest.raises(DataError, match=r"'x.dcm' has floating-point pixels from 0 to 900"):
        read(floats(900))
