"""What a DICOM file says of its images. Of the patient nothing is even read, so that no message can quote it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from .....cache.errors import DataError
from ..quiet import quiet_decoders
from .facts import PREAMBLE, has_magic
from .tables import Lut, Palette, Unusable, read_lut, read_palette

__all__ = ["ELEMENTS", "Header", "Shown", "named", "read_header", "read_whole"]

# The elements that change how stored values are shown, and so what a key is of beside the values, and why. Not heeded,
# though a viewer may: spacing and aspect, overlays, ICC profiles, presentation states, padding values.
ELEMENTS = {
    "PhotometricInterpretation": "says which end is white, or which colours the values are",
    "BitsStored": "black and white without a window are the ends of these bits",
    "PixelRepresentation": "signed bits end elsewhere",
    "ModalityLUTSequence": "from stored to modality values, which windows are meant for; the first table",
    "RescaleSlope": "the same, where it is linear",
    "RescaleIntercept": "the same",
    "VOILUTSequence": "which modality values are black and white; the first table, which goes before a window",
    "WindowCenter": "the same, as a range; the first of several",
    "WindowWidth": "the same",
    "VOILUTFunction": "the curve within the window",
    "RedPaletteColorLookupTableDescriptor": "which values have which colours; pydicom takes it for all three tables",
    "RedPaletteColorLookupTableData": "the colours",
    "GreenPaletteColorLookupTableData": "the same",
    "BluePaletteColorLookupTableData": "the same",
    "SegmentedRedPaletteColorLookupTableData": "the colours, compressed; the key is of what they expand to",
    "SegmentedGreenPaletteColorLookupTableData": "the same",
    "SegmentedBluePaletteColorLookupTableData": "the same",
}
# How values are laid out, which is undone before a key is taken.
_LAYOUT = (
    "SamplesPerPixel",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "HighBit",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
# Looked at where black and white are chosen for a whole set, and nowhere else.
_PADDING = "PixelPaddingValue"
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_READ = [Tag(keyword) for keyword in (*ELEMENTS, *_LAYOUT, _PADDING, *_GROUPS, *_PIXELS.values())]
_UNDEFINED, _ITEM = 0xFFFFFFFF, b"\xfe\xff\x00\xe0"
_PIXEL_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")

# Of enhanced CT and MR, a header of a thousand frames takes half a second, and each frame asks for it.
_HEADERS_KEPT = 32


@contextmanager
def named(what: str) -> Iterator[None]:
    """Turn whatever goes wrong with an image into a `DataError` that names it; an `OSError` stays."""
    try:
        with quiet_decoders:
            yield
    except (DataError, OSError):
        raise
    except Unusable as error:
        raise DataError(f"{what} {error}", error.reason) from None
    except InvalidDicomError:
        raise DataError(
            f"{what} is not a DICOM file that can be read (no 'DICM' at byte {PREAMBLE}).", "not an image"
        ) from None
    except Exception as error:  # noqa: BLE001 - a damaged file makes pydicom raise nearly anything
        # In pydicom's words, which are left out here, there may be words of the file.
        raise DataError(
            f"{what} cannot be decoded, it is truncated or damaged ({type(error).__name__}).", "damaged"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How the grey values of a frame are shown.

    Attributes
    ----------
    rescale : slope and intercept; (1, 0) where there are none
    window : centre, width and function
    """

    rescale: tuple[float, float]
    modality: Lut | None
    voi: Lut | None
    window: tuple[float, float, str] | None


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of its images.

    Attributes
    ----------
    options : how values are laid out, as pydicom's decoders want it
    place : where in the file the value of the pixel data begins; None where the whole file is deflated
    length : bytes of the pixel data, as declared; means nothing where they are compressed
    high_bit : of the stored values; None if it is not said
    padding : the stored value of what is no part of the image; None if it is not said
    shown : one a frame, or one for all
    """

    syntax: UID
    options: Mapping[str, Any]
    place: int | None
    length: int
    high_bit: int | None
    padding: int | None
    shown: tuple[Shown, ...]
    palette: Palette | None

    def of_frame(self, frame: int) -> Shown:
        return self.shown[frame if len(self.shown) > 1 else 0]


def read_header(path: Path) -> Header:
    """Read a header, or take it from the few that were read last.

    Raises
    ------
    Unusable
        There is no image, or it is none that could be shown.
    """
    status = path.stat()
    return _read_header(path, status.st_size, status.st_mtime_ns)


def read_whole(file: BinaryIO) -> Dataset:
    """Read a header and all pixels: those of a deflated file have no place of their own."""
    return dcmread(file, specific_tags=_READ)


@lru_cache(_HEADERS_KEPT)
def _read_header(path: Path, size: int, _modified: int) -> Header:
    with path.open("rb") as file:
        bare = not has_magic(file)
        ds = dcmread(file, stop_before_pixels=True, specific_tags=_READ, force=True)
        if bare and not {"Rows", "Columns", "BitsAllocated"} <= set(ds.dir()):
            # Whatever bytes there are can be read as elements of some kind.
            raise InvalidDicomError
        syntax = ds.file_meta.get("TransferSyntaxUID")
        if not bare:
            _check_syntax(syntax)
        if "Rows" not in ds:
            raise _no_image()
        options = as_pixel_options(ds)
        place, length = None, 0
        if syntax != DeflatedExplicitVRLittleEndian:
            little = bool(ds.original_encoding[1])
            options["pixel_keyword"], options["pixel_vr"], length, implicit = _find_pixels(file, little=little)
            place = file.tell()
            if bare and length == _UNDEFINED:
                _check_syntax(None)  # compressed, and nobody says how
            if bare or not (syntax.is_compressed or syntax.is_implicit_VR == implicit):
                # As pydicom goes by what it finds, whatever is declared.
                native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
                syntax = ImplicitVRLittleEndian if implicit else native
            # Decoders fill up what is missing of a compressed image, and say nothing.
            if (_end_of_fragments(file) if length == _UNDEFINED else place + length) > size:
                raise Unusable("is truncated: its pixels go on beyond the end of the file; copy it again.", "damaged")
    frames = options["number_of_frames"]
    if frames > size:
        raise Unusable(f"says that it has {frames} frames, more than it has bytes; export it again.", "damaged")
    return Header(
        syntax=syntax,
        options=options,
        place=place,
        length=length,
        high_bit=ds.get("HighBit"),
        padding=ds.get(_PADDING),
        shown=_all_shown(ds, frames),
        palette=read_palette(ds) if ds.get("PhotometricInterpretation") == "PALETTE COLOR" else None,
    )


def _check_syntax(syntax: UID | None) -> None:
    if not syntax:
        raise Unusable("names no transfer syntax, so that its pixels cannot be decoded; export it again.", "damaged")
    try:
        get_decoder(syntax)
    except NotImplementedError:
        raise Unusable(
            f"is compressed as '{syntax.name}' ({syntax}), which pydicom cannot decode; convert it to another transfer "
            "syntax.",
            "no decoder",
        ) from None


def _no_image() -> Unusable:
    return Unusable("is a DICOM file without an image, or cut short before it.", "not an image")


def _find_pixels(file: BinaryIO, *, little: bool) -> tuple[str, str, int, bool]:
    """Go to where the pixel data's value begins; return its keyword, VR, length, and whether the VR is implicit."""
    order = "<" if little else ">"
    start = file.read(8)
    # Without a VR the length stands there, and is even; so is no VR that pixels can have.
    implicit = start[4:6] not in _PIXEL_VRS
    start += b"" if implicit else file.read(4)
    if len(start) < (8 if implicit else 12):
        raise _no_image()
    group, element = struct.unpack_from(f"{order}HH", start)
    (length,) = struct.unpack_from(f"{order}L", start, len(start) - 4)
    representation = "OW" if implicit else start[4:6].decode("latin-1")
    return _PIXELS[group << 16 | element], representation, length, implicit


def _end_of_fragments(file: BinaryIO) -> int:
    """Return where the last fragment of compressed pixel data ends, going by their own lengths."""
    end = file.tell()
    while (start := file.read(8))[:4] == _ITEM and len(start) == 8:
        end = file.seek(struct.unpack("<L", start[4:])[0], 1)
    return end


# ── How values are shown ─────────────────────────────────────────────────────────────────────────────────────────


def _all_shown(ds: Dataset, frames: int) -> tuple[Shown, ...]:
    """Return how each frame is shown; enhanced files say it in functional groups, of all frames or of each."""
    shared, each = (ds.get(keyword) or [] for keyword in _GROUPS)
    if not shared and not each:
        return (_shown(ds, ds),)
    result = []
    for frame in range(frames):
        of_frame = Dataset()
        of_frame.update({tag: ds[tag] for tag in ds.keys() & _SHOWN})
        for group in (*shared[:1], *each[frame : frame + 1]):
            for macro in _MACROS:
                for item in (group.get(macro) or [])[:1]:
                    of_frame.update({tag: item[tag] for tag in item.keys() & _SHOWN})
        result.append(_shown(of_frame, ds))
    return tuple(result)


_SHOWN = {Tag(keyword) for keyword in ELEMENTS}


def _shown(elements: Dataset, ds: Dataset) -> Shown:
    big = not ds.original_encoding[1]
    slope, intercept = _number(elements, "RescaleSlope"), _number(elements, "RescaleIntercept")
    centre, width = _number(elements, "WindowCenter"), _number(elements, "WindowWidth")
    function = str(elements.get("VOILUTFunction") or "LINEAR").strip().upper()
    return Shown(
        rescale=(1.0, 0.0) if slope is None or intercept is None else (slope, intercept),
        modality=read_lut(elements, "ModalityLUTSequence", big),
        voi=read_lut(elements, "VOILUTSequence", big),
        window=None if centre is None or width is None else (centre, width, function),
    )


def _number(elements: Dataset, keyword: str) -> float | None:
    """Return the first value of an element as a number, None if it is empty."""
    value = elements.get(keyword)
    if not isinstance(value, str | int | float) and value is not None:
        value = next(iter(value), None)
    if value is None or value == "":
        return None
    number = float(value)
    if not math.isfinite(number):
        raise Unusable(f"has a {keyword} that is not finite.")
    return number
