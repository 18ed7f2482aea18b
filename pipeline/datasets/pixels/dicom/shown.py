"""How the stored values of a DICOM image become 0…255."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    apply_windowing,
    convert_color_space,
)

from ....views.preprocessing import Intensity, levels_of
from ...columns.dataset import Window
from ..intensity import float_range, scale, stretch
from .header import Header, Shown
from .tables import Lut, Palette, Unusable

__all__ = ["GREY", "YBR", "apply_modality", "declared_ends", "show_colour", "show_grey"]

GREY = ("MONOCHROME1", "MONOCHROME2")
YBR = ("YBR_FULL", "YBR_FULL_422")

Pixels = npt.NDArray[Any]


def show_grey(
    values: Pixels, header: Header, shown: Shown, what: str, intensity: Intensity, window: Window | None
) -> Pixels:
    """Return (H, W) uint8 or float32 of a frame, black 0 as in MONOCHROME2."""
    modality = apply_modality(values, shown)
    if intensity == "minmax":
        return stretch(modality, what)
    if window is not None:
        pixels = _apply_window(modality, (*window, "LINEAR"))
    elif shown.voi is not None:
        pixels = _apply_voi(modality, shown.voi)
    elif shown.window is not None:
        pixels = _apply_window(modality, shown.window)
    elif (levels := levels_of(intensity)) is not None and header.options.get("bits_stored", 32) > 8:
        pixels = scale(modality, *levels)
    elif values.dtype.kind == "f":
        pixels = scale(modality, *float_range(float(modality.min()), float(modality.max()), what))
    else:
        pixels = _span_declared(modality, header, shown)
    return np.rint(pixels).astype(np.uint8) if header.options.get("bits_stored", 32) <= 8 else pixels


def apply_modality(values: Pixels, shown: Shown) -> Pixels:
    """Return what stored values mean, by the modality LUT or the rescale."""
    ds = Dataset()
    if shown.modality is not None:
        ds.ModalityLUTSequence = [_lut_item(shown.modality, ds)]
        return np.asarray(apply_modality_lut(values.astype(np.int64), ds))
    if shown.rescale == (1, 0):
        return values
    for keyword, number in zip(("RescaleSlope", "RescaleIntercept"), shown.rescale, strict=True):
        ds.add_new(keyword, "FD", number)
    return np.asarray(apply_modality_lut(values, ds))


def _apply_voi(modality: Pixels, lut: Lut) -> npt.NDArray[np.float32]:
    ds = Dataset()
    ds.VOILUTSequence = [_lut_item(lut, ds)]
    # A table counts in whole numbers; pydicom counts entries in 16 bits, where others would start anew.
    counted = np.clip(np.rint(modality), lut.first, lut.first + lut.entries - 1).astype(np.int64)
    return scale(apply_voi(counted, ds), 0, 2**lut.bits - 1)


def _lut_item(lut: Lut, ds: Dataset) -> Dataset:
    """Return a table for pydicom, which takes the bits for a type that it computes with: 16 have room for all."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SL", [lut.entries, lut.first, 16])
    item.add_new("LUTData", "OW", lut.words)
    ds.set_original_encoding(False, True)
    return item


def _apply_window(modality: Pixels, window: tuple[float, float, str]) -> npt.NDArray[np.float32]:
    centre, width, function = window
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise Unusable(f"has a window of the unknown function '{function}'; give one to all images with --window.")
    if width < 1 and (function == "LINEAR" or width <= 0):
        raise Unusable(f"has a window of width {width:g}, which shows nothing; give one to all images with --window.")
    ds = Dataset()
    # pydicom spreads a window over the range of the stored bits; with eight it comes out in 0…255.
    ds.PhotometricInterpretation, ds.BitsStored, ds.PixelRepresentation = "MONOCHROME2", 8, 0
    ds.VOILUTFunction = function
    ds.add_new("WindowCenter", "FD", centre)
    ds.add_new("WindowWidth", "FD", width)
    return np.asarray(apply_windowing(modality, ds), np.float32)


def _span_declared(modality: Pixels, header: Header, shown: Shown) -> npt.NDArray[np.float32]:
    bits = header.options["bits_stored"]
    pixels = scale(modality, *declared_ends(header, shown))
    if bits > 16 and np.ptp(modality) > 0 and np.ptp(pixels) < 1:
        raise Unusable(
            f"has {bits}-bit values from {modality.min():g} to {modality.max():g} and no window, so that it would come "
            "out as one grey; give it one with --window, or use --intensity minmax."
        )
    return pixels


def declared_ends(header: Header, shown: Shown) -> tuple[float, float]:
    """Return the ends of the declared bits after the rescale or modality LUT."""
    bits = header.options["bits_stored"]
    if shown.modality is not None:
        return 0.0, 2.0**shown.modality.bits - 1
    signed = header.options["pixel_representation"]
    ends = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    slope, intercept = shown.rescale
    if slope == 0:
        raise Unusable("has a rescale slope of 0, so that it would come out as one grey.")
    low, high = sorted(end * slope + intercept for end in ends)
    return low, high


def show_colour(values: Pixels, header: Header, interpretation: str, what: str, intensity: Intensity) -> Pixels:
    """Return (H, W, 3) uint8 or float32 of a frame."""
    bits = header.options.get("bits_stored", 32)
    if header.palette is not None:
        values, bits = _apply_palette(values, header.palette), header.palette.bits
    elif interpretation in YBR and values.dtype == np.uint8:
        values = convert_color_space(values, "YBR_FULL", "RGB")
    elif interpretation != "RGB":
        raise Unusable(
            f"has the photometric interpretation '{interpretation}' with values of {bits} bits, which is not read; "
            "convert it to RGB."
        )
    if intensity == "minmax":
        return stretch(values, what)
    pixels = scale(values, 0, 2**bits - 1)
    return np.rint(pixels).astype(np.uint8) if bits <= 8 else pixels


def _apply_palette(values: Pixels, palette: Palette) -> Pixels:
    ds, entries = Dataset(), len(palette.colours)
    ds.add_new("RedPaletteColorLookupTableDescriptor", "SL", [entries, palette.first, 16])
    for name, table in zip(("Red", "Green", "Blue"), palette.colours.T, strict=True):
        setattr(ds, f"{name}PaletteColorLookupTableData", table.tobytes())
    counted = np.clip(values.astype(np.int64), palette.first, palette.first + entries - 1)
    return np.asarray(apply_color_lut(counted, ds))
