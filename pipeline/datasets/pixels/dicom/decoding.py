"""DICOM images: decoded by pydicom and its plug-ins, shown as a viewer first shows them."""

from __future__ import annotations

import io
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from .....cache.format.digest import canonical_json
from .....cache.keys import KEY_BYTES
from ....views.preprocessing import Intensity
from ...columns.dataset import Deep, Window
from ..intensity import float_range
from .facts import read_facts
from .header import Header, Shown, named, read_header, read_whole
from .shown import GREY, YBR, apply_modality, declared_ends, show_colour, show_grey
from .tables import Lut, Unusable

__all__ = ["decode_dicom", "deep_dicom", "dicom_key", "read_facts"]

Pixels = npt.NDArray[Any]

_PREFIX = b"medal:dicom\0"
# The size that Pillow takes for an attack, a billion bytes of colour; the largest mammograms have a tenth of that.
_MOST_PIXELS = 357_913_940

# One decoder a syntax, never whichever comes first: two decoders of lossy JPEG differ in the last bit, and so would the
# keys. python-gdcm aborts the process on damaged JPEG (3.2.6, most of a few hundred damaged files each time), and
# pylibjpeg-rle panics on damaged RLE (2.2.0), which is no Exception: a long run must outlive its bad files.
_PLUGINS = {
    RLELossless: "pydicom",
    JPEGBaseline8Bit: "pillow",
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), "pylibjpeg"),
    **dict.fromkeys(
        (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless), "pylibjpeg"
    ),
}
_GPL = (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless)


def dicom_key(path: Path, what: str, frame: int) -> bytes:
    """Return the key of a frame: BLAKE2b-128 of its stored values and of what changes how they are shown.

    The file has to be decoded for it, which costs as much as reading it for the teacher does: only so do files keep
    their key that are compressed otherwise, without loss, or whose headers are changed to protect a patient.

    Parameters
    ----------
    what : the image's name, for messages
    frame : counted from 0

    Raises
    ------
    DataError
        As `decode_dicom`.
    """
    with named(what):
        header = read_header(path)
        values, interpretation = _decode(path, header, frame)
        said = {"frame": frame, "shape": values.shape, **_describe(header, header.of_frame(frame), interpretation)}
        digest = blake2b(_PREFIX + canonical_json(said) + b"\0", digest_size=KEY_BYTES)
        digest.update(np.ascontiguousarray(values, _plain_type(values.dtype)).data)
        return digest.digest()


def decode_dicom(path: Path, what: str, frame: int, intensity: Intensity, window: Window | None) -> Pixels:
    """Decode a frame and show it.

    Grey values go through the modality LUT or the rescale, then through the VOI LUT or the first window (or `window`,
    with the linear function, instead of both), and MONOCHROME1 is turned round. Where a file has neither, black and
    white are the ends of the declared bits after the rescale or modality LUT: of a CT with 12 unsigned bits and an
    intercept of −1024, −1024 and 3071 HU; with 16 signed bits, −32768 and 32767 HU, so that all tissue comes out as a
    few greys, which a window mends. Colours, of a palette too, are what they are: no window is for them.

    Pixel spacing and aspect are not heeded: oblong pixels stay as they are stored. Neither are overlays, ICC profiles,
    presentation LUTs and the padding value.

    Parameters
    ----------
    what : the image's name, for messages
    frame : counted from 0
    intensity : ``minmax`` maps the image's own minimum…maximum, after rescale or modality LUT, to 0…255 instead;
        ``LOW,HIGH`` these two values, where more than 8 bits are stored and the file has no window or VOI LUT

    Returns
    -------
    (H, W, C), C 1 or 3: uint8 where up to 8 bits are stored, rounded where a window lies on them; else, and with
    ``minmax``, float32 in 0…255

    Raises
    ------
    DataError
        The file is no DICOM image, is cut short or too large, has no installed decoder, or has values without a
        meaning.
    OSError
        It cannot be read at all.
    """
    with named(what):
        header = read_header(path)
        values, interpretation = _decode(path, header, frame)
        if interpretation in GREY:
            pixels = show_grey(values, header, header.of_frame(frame), what, intensity, window)
            pixels = (255 - pixels if interpretation == "MONOCHROME1" else pixels)[:, :, None]
        else:
            pixels = show_colour(values, header, interpretation, what, intensity)
        return np.ascontiguousarray(pixels)


def deep_dicom(path: Path, what: str, frame: int) -> Deep | None:
    """Return the grey values of a frame of more than 8 bits without a window, after the rescale, but for its padding.

    None where it has no more bits, or colours, or a window or VOI LUT. Only then is nothing decoded.

    Raises
    ------
    DataError, OSError
        As `decode_dicom`.
    """
    with named(what):
        header = read_header(path)
        shown = header.of_frame(frame)
        if shown.voi is not None or shown.window is not None or header.options.get("bits_stored", 32) <= 8:
            return None
        values, interpretation = _decode(path, header, frame)
        if interpretation not in GREY:
            return None
        modality = apply_modality(values, shown)
        if values.dtype.kind != "f":
            inside = values != header.padding if header.padding is not None else np.ones(values.shape, bool)
            return Deep(modality[inside], declared_ends(header, shown), windowless="DICOM")
        low, high = float(modality.min()), float(modality.max())
        return Deep(modality, float_range(low, high, what) if low >= 0 and high <= 255 else None, windowless="DICOM")


# ── Decoding ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _decode(path: Path, header: Header, frame: int) -> tuple[Pixels, str]:
    """Return the stored values of a frame, (H, W) or (H, W, 3), and the photometric interpretation that they are in."""
    _check_layout(header)
    plugin = _pick_plugin(header)
    decoder = get_decoder(header.syntax)
    with path.open("rb") as file:
        if header.place is None:
            values, found = decoder.as_array(read_whole(file), index=frame, raw=True)
            return values, str(found["photometric_interpretation"])
        file.seek(header.place)
        values, found = decoder.as_array(file, index=frame, raw=True, decoding_plugin=plugin, **header.options)
        interpretation = str(found["photometric_interpretation"])
        if plugin == "pillow" and interpretation in YBR:
            # Where Adobe's segment says how to, Pillow turns colours into RGB by itself, and pydicom does not notice.
            file.seek(header.place)
            code = get_frame(file, frame, number_of_frames=header.options["number_of_frames"])
            with Image.open(io.BytesIO(code)) as opened:
                if opened.info.get("adobe_transform") == 1:
                    interpretation = "RGB"
    return values, "YBR_FULL" if interpretation in YBR else interpretation


def _check_layout(header: Header) -> None:
    options = header.options
    rows, columns, samples = options["rows"], options["columns"], options["samples_per_pixel"]
    if rows * columns > _MOST_PIXELS:
        raise Unusable(f"is too large to be decoded safely: {rows} × {columns} pixels; cut it into tiles.", "too large")
    if header.syntax in _PLUGINS or header.place is None:
        return
    stored = options.get("bits_stored")
    if header.high_bit is not None and stored is not None and header.high_bit != stored - 1:
        raise Unusable(
            f"has {stored}-bit values whose highest bit is {header.high_bit}; expected {stored - 1}: export it again."
        )
    full = -(-rows * columns * samples * options["number_of_frames"] * options["bits_allocated"] // 8)
    halved = options["photometric_interpretation"] == "YBR_FULL_422"
    if header.length < (full // 3 * 2 if halved else full) or (halved and header.length >= full):
        raise Unusable(
            f"cannot be decoded, it is truncated or damaged: {header.length} bytes of pixels do not fit its header.",
            "damaged",
        )


def _pick_plugin(header: Header) -> str:
    """Return the decoder of a compressed syntax, nothing for a native one."""
    syntax = header.syntax
    plugin = _PLUGINS.get(syntax, "")
    if syntax == JPEGExtended12Bit and header.options["bits_stored"] == 8:
        plugin = "pillow"
    if plugin and plugin not in get_decoder(syntax).available_plugins:
        remedy = "pylibjpeg-libjpeg (its licence is the GPL)" if syntax in _GPL else '"medalmighty[dicom]"'
        raise Unusable(
            f"is compressed as '{syntax.name}' ({syntax}), for which no decoder is installed; pip install {remedy}.",
            "no decoder",
        )
    return plugin


# ── Keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _describe(header: Header, shown: Shown, interpretation: str) -> dict[str, Any]:
    """Return what changes how values are shown, in one spelling."""
    if header.palette is not None:
        first, depth, colours = header.palette
        return {"colours": interpretation, "palette": [first, depth, _digest(colours.astype("<u2").tobytes())]}
    bits = header.options.get("bits_stored")
    if interpretation not in GREY:
        return {"colours": interpretation, "bits": bits}
    return {
        "grey": interpretation,
        "bits": bits,
        "signed": header.options.get("pixel_representation"),
        "modality": _describe_lut(shown.modality) if shown.modality else shown.rescale,
        "voi": _describe_lut(shown.voi) if shown.voi else shown.window,
    }


def _describe_lut(lut: Lut) -> list[Any]:
    return [lut.entries, lut.first, lut.bits, _digest(lut.words)]


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=KEY_BYTES).hexdigest()


def _plain_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return one type for all that the same whole numbers may be stored in, little-endian."""
    if dtype.kind == "f":
        return dtype.newbyteorder("<")
    return np.dtype("<i4" if dtype.itemsize <= 2 else "<i8")
