"""Lookup tables and palettes of DICOM files."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

__all__ = ["Lut", "Palette", "Unusable", "read_lut", "read_palette"]


class Unusable(Exception):
    """What is wrong with an image, as the rest of a sentence; a `DataError` once the image's name begins it."""

    def __init__(self, sentence: str, reason: str = "unusable values") -> None:
        super().__init__(sentence)
        self.reason = reason


class Lut(NamedTuple):
    """A lookup table: `entries` words of `bits` bits, the first of which is for the value `first` and all below."""

    entries: int
    first: int
    bits: int
    words: bytes  # (entries,) <u2


class Palette(NamedTuple):
    """Colours of the values from `first` on, (entries, 3) uint16 of 8 or 16 bits."""

    first: int
    bits: int
    colours: npt.NDArray[np.uint16]


def read_lut(elements: Dataset, keyword: str, big: bool) -> Lut | None:
    """Return the first table of a sequence, None where there is none."""
    for item in (elements.get(keyword) or [])[:1]:
        if item.get("LUTDescriptor") and item.get("LUTData") is not None:
            entries, first, bits = (int(number) for number in item.LUTDescriptor)
            words = _words(item.LUTData, entries or 1 << 16, big)
            return Lut(len(words), first, bits, words.astype("<u2").tobytes())
    return None


def _words(table: Any, entries: int, big: bool) -> npt.NDArray[np.uint16]:
    """Return the entries of a table as words; it has numbers, or bytes of one or two an entry."""
    if not isinstance(table, bytes):
        return np.array(table, np.uint16).reshape(-1)[:entries]
    wide = len(table) >= 2 * entries
    return np.frombuffer(table, (">u2" if big else "<u2") if wide else np.uint8, entries).astype(np.uint16)


def read_palette(ds: Dataset) -> Palette:
    """Return the colours of a data set with a palette."""
    try:
        entries, first, nominal = (int(number) for number in ds.RedPaletteColorLookupTableDescriptor)
        entries = entries or 1 << 16
        tables = [ds.get(f"{name}PaletteColorLookupTableData") for name in ("Red", "Green", "Blue")]
        if tables[0] is not None:
            # pydicom counts in the type of the entries, so that eight-bit ones would start anew after 256 of them.
            colours = np.stack([_words(table, entries, not ds.original_encoding[1]) for table in tables], 1)
            packed = len(tables[0]) < 2 * entries
        elif nominal == 8 and entries > 256:
            raise Unusable(f"has a segmented palette of {entries} colours of 8 bits, which pydicom cannot read.")
        else:
            colours = apply_color_lut(np.arange(first, first + entries), ds)[:, :3].astype(np.uint16)
            packed = nominal == 8
    except (AttributeError, IndexError, TypeError, ValueError, NotImplementedError, struct.error):
        raise Unusable("has a palette that cannot be read.") from None
    # Some say 16 bits where there are 8, others write eight-bit entries as words, and a few the other way round.
    bits = 8 if packed or (nominal == 8 and int(colours.max()) < 256) else 16
    return Palette(first, bits, colours)
