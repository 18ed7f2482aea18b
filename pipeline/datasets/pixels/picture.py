"""Decoding PNG, JPEG, TIFF, BMP, WebP, GIF and JPEG 2000 with Pillow into what a radiologist would expect to see."""

from __future__ import annotations

import io
import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ....cache.errors import DataError
from ..columns.dataset import Intensity
from .intensity import REMEDY, float_range, scale, stretch
from .quiet import quiet_decoders

__all__ = ["decode_picture"]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000")
_BITS, _PHOTOMETRIC, _MAX_SAMPLE, _SAMPLE_FORMAT = 258, 262, 281, 339  # TIFF tags
_WHITE_IS_ZERO, _SIGNED = 0, 2

Pixels = npt.NDArray[Any]


def decode_picture(content: bytes, what: str, intensity: Intensity) -> Pixels:
    """Decode a file's first image.

    EXIF orientation is applied, transparency is composited on black, palettes and CMYK become RGB. Deep grey values
    are scaled by the bits they are declared to have (PNG ``sBIT``, TIFF ``BitsPerSample`` and ``MaxSampleValue``)
    where all fit into these, else by the full range of their type. Pillow reduces 16-bit colour to 8 bits.

    JPEG is decoded whole, however small the target, and not at reduced scale (Pillow's draft mode). Measured on mosaics
    of blood smears, 1280 × 960 px, brought to 224: decoded at twice the target or more, pixels differed by up to 4/255
    from full decode and resize, at once the target by up to 11/255 (mean 0.2 and 0.5; cosine of features at least
    0.99997 and 0.9996), for 3 to 5 ms saved of 7. Stored views are compared to 0.5/255, and what an image is would
    depend on the size asked for.

    Parameters
    ----------
    what : the image's name, for messages
    intensity : ``minmax`` maps the image's own minimum…maximum to 0…255 instead

    Returns
    -------
    (H, W, C), C 1 or 3: uint8, or float32 in 0…255 where the file is deeper

    Raises
    ------
    DataError
        The file is no such image, is cut short, is too large to be one, or has values without a meaning.
    """
    try:
        with quiet_decoders, Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
            deep = _is_deep(opened.mode)
            levels = _levels(opened, content) if deep else _EIGHT_BITS
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            values = np.array(upright) if deep else _eight_bits(upright)
    except UnidentifiedImageError as exc:
        raise DataError(
            f"{what} is not a PNG, JPEG, TIFF, BMP, WebP, GIF or JPEG 2000 image that can be read.", "not an image"
        ) from exc
    except Image.DecompressionBombError as exc:
        raise DataError(
            f"{what} is too large to be decoded safely ({exc}); cut it into tiles or shrink it.", "too large"
        ) from exc
    except Exception as exc:
        # A damaged file makes Pillow's plugins raise nearly anything: OSError, SyntaxError, struct.error, TypeError …
        raise DataError(
            f"{what} cannot be decoded, it is truncated or damaged: {exc or type(exc).__name__}.", "damaged"
        ) from exc
    if deep:
        return _scaled(values, levels, what, intensity)[:, :, None]
    return stretch(values, what) if intensity == "minmax" else values


class _Levels(NamedTuple):
    """What a deep file says of its values: the range of their type, the white declared, and whether 0 is white."""

    low: int
    high: int
    declared: int | None
    inverted: bool


_EIGHT_BITS = _Levels(0, 255, None, inverted=False)


def _is_deep(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;16")


def _eight_bits(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return (H, W, 1 or 3) uint8 of an image that is not deep."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        layers = np.array(image.convert("LA" if grey else "RGBA")).astype(np.uint32)
        composited = (layers[:, :, :-1] * layers[:, :, -1:] + 127) // 255
        return composited.astype(np.uint8)
    pixels = np.array(image.convert("L" if grey else "RGB"))
    return pixels[:, :, None] if grey else pixels


def _scaled(values: Pixels, levels: _Levels, what: str, intensity: Intensity) -> npt.NDArray[np.float32]:
    """Scale deep grey values (H, W) to 0…255."""
    if intensity == "minmax":
        pixels = stretch(values, what)
    elif values.dtype.kind == "f":
        pixels = scale(values, *float_range(float(values.min()), float(values.max()), what))
    else:
        pixels = _scaled_integers(values, levels, what)
    return np.float32(255) - pixels if levels.inverted else pixels


def _scaled_integers(values: Pixels, levels: _Levels, what: str) -> npt.NDArray[np.float32]:
    low, high = int(values.min()), int(values.max())
    if levels.declared is not None and low >= 0 and high <= levels.declared:
        return scale(values, 0, levels.declared)
    pixels = scale(values, levels.low, levels.high)
    if levels.high > 0xFFFF and high > low and np.ptp(pixels) < 1:
        raise DataError(
            f"{what} has 32-bit pixels from {low} to {high} and does not declare their range, so that it would come "
            f"out as one grey; expected 8 or 16 bits, or a MaxSampleValue: convert it, or {REMEDY}."
        )
    return pixels


def _levels(image: Image.Image, content: bytes) -> _Levels:
    if image.format == "PNG":
        return _Levels(0, 0xFFFF, 2 ** (_png_significant_bits(content) or 16) - 1, inverted=False)
    tags = getattr(image, "tag_v2", {})
    bits, largest = _first(tags.get(_BITS)) or 16, _first(tags.get(_MAX_SAMPLE))
    signed = _first(tags.get(_SAMPLE_FORMAT)) == _SIGNED
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    declared = high if bits < 16 else None
    if largest and 0 < largest < high:
        # Some writers put the image's own maximum here. Rounded up to whole bits, both readings agree.
        declared = (1 << int(largest).bit_length()) - 1
    return _Levels(low, high, declared, inverted=_first(tags.get(_PHOTOMETRIC)) == _WHITE_IS_ZERO)


def _first(value: Any) -> int | None:
    return (value[0] if value else None) if isinstance(value, tuple) else value


def _png_significant_bits(content: bytes) -> int | None:
    """Return the grey bits that a PNG's sBIT chunk declares; Pillow does not read it."""
    place = 8
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"sBIT" and length:
            return content[place + 8] or None
        if kind in (b"IDAT", b"IEND"):
            break
        place += 12 + length
    return None
