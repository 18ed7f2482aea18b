"""Decoding PNG, JPEG, TIFF, BMP, WebP, GIF and JPEG 2000 into what a radiologist would expect to see.

Pillow decodes; tifffile does where Pillow does not know a kind of TIFF, or gets it wrong.
"""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ....cache.errors import DataError
from ...views.preprocessing import Intensity, levels_of, window_levels
from ..columns.dataset import Deep, Window
from .intensity import stretch, type_range
from .quiet import quiet_decoders
from .stored import Range, Stored, range_of_type

__all__ = ["count_pages", "decode_picture", "deep_picture"]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000")
# TIFF tags and their values.
_BITS, _PHOTOMETRIC, _MAX_SAMPLE, _SAMPLE_FORMAT, _PLANES, _SAMPLES = 258, 262, 281, 339, 284, 277
_WHITE_IS_ZERO, _SIGNED, _SEPARATE = 0, 2, 2

# How 16-bit colours lie in a file → the same with the bytes of a word the other way round, as Pillow's raw modes.
_OTHER_ORDER = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA")
    for order, other in (("L", "B"), ("B", "L"), ("N", "B" if sys.byteorder == "little" else "L"))
}

Pixels = npt.NDArray[Any]


def decode_picture(
    content: bytes, what: str, intensity: Intensity, window: Window | None = None, page: int = 0
) -> Pixels:
    """Decode an image of a file.

    EXIF orientation is applied, transparency is composited on black, palettes and CMYK become RGB. Deep values are
    scaled by the bits they are declared to have (PNG ``sBIT``, TIFF ``BitsPerSample`` and ``MaxSampleValue``) where all
    fit into these, else by the full range of their type, unless `intensity` or `window` says what is black and white.

    JPEG is decoded whole, however small the target, and not at reduced scale (Pillow's draft mode). Measured on mosaics
    of blood smears, 1280 × 960 px, brought to 224: decoded at twice the target or more, pixels differed by up to 4/255
    from full decode and resize, at once the target by up to 11/255 (mean 0.2 and 0.5; cosine of features at least
    0.99997 and 0.9996), for 3 to 5 ms saved of 7. Stored views are compared to 0.5/255, and what an image is would
    depend on the size asked for.

    Parameters
    ----------
    what : the image's name, for messages
    intensity : ``minmax`` maps the image's own minimum…maximum to 0…255 instead, ``LOW,HIGH`` these two values
    window : centre and width, for deep values
    page : of a TIFF of several, counted from 0

    Returns
    -------
    (H, W, C), C 1 or 3: uint8, or float32 in 0…255 where the file is deeper

    Raises
    ------
    DataError
        The file is no such image, is cut short, is too large to be one, or has values without a meaning.
    """
    levels = levels_of(intensity) if window is None else window_levels(window)
    # Colour of 16 bits is reduced to 8, as Pillow does it, unless somebody says what is black and white.
    found = _load(content, what, page, deep_colour=levels is not None)
    if isinstance(found, Stored):
        return found.show(what, intensity, levels)
    assert found is not None  # noqa: S101 - that is so with only_deep alone
    return stretch(found, what) if intensity == "minmax" else found


def deep_picture(content: bytes, what: str, page: int = 0) -> Deep | None:
    """Return the values of a file of more than 8 bits as they are stored; None where it has no more.

    Raises
    ------
    DataError
        As `decode_picture`.
    """
    if content[:3] == b"\xff\xd8\xff" or content[:2] == b"BM":
        return None
    found = _load(content, what, page, deep_colour=True, only_deep=True)
    return Deep(found.values, found.declared(what)) if isinstance(found, Stored) else None


def count_pages(path: Path) -> int:
    """Return the number of pages of a file; 1 if it makes no sense, which is said when it is read."""
    try:
        with quiet_decoders, Image.open(path, formats=_FORMATS) as opened:
            return int(getattr(opened, "n_frames", 1))
    except UnidentifiedImageError:
        from .tiff import count_tiff_pages

        return count_tiff_pages(path)
    except Exception:  # noqa: BLE001 - a damaged file makes Pillow's plugins raise nearly anything
        return 1


def _load(
    content: bytes, what: str, page: int, *, deep_colour: bool, only_deep: bool = False
) -> npt.NDArray[np.uint8] | Stored | None:
    """Decode an image, to 8 bits where it has no more.

    Parameters
    ----------
    deep_colour : keep all bits of colours
    only_deep : what has 8 bits at most is not decoded, and None
    """
    try:
        with quiet_decoders, Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
            if page:
                opened.seek(page)
            if _is_separate(opened):
                return _load_tiff(content, what, page)
            if _is_deep(opened):
                levels = _range(opened, content)
                opened.load()
                values = np.array(ImageOps.exif_transpose(opened))
                return Stored(_as_declared(values, opened)[:, :, None], levels)
            colours = _deep_colour(content, page) if deep_colour else None
            if colours is not None or only_deep:
                return colours
            opened.load()
            return _eight_bits(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as exc:
        from .tiff import is_tiff

        if is_tiff(content):
            return _load_tiff(content, what, page)
        raise DataError(
            f"{what} is not a PNG, JPEG, TIFF, BMP, WebP, GIF or JPEG 2000 image that can be read.", "not an image"
        ) from exc
    except Image.DecompressionBombError as exc:
        raise DataError(
            f"{what} is too large to be decoded safely ({exc}); cut it into tiles or shrink it.", "too large"
        ) from exc
    except DataError:
        raise
    except Exception as exc:
        # A damaged file makes Pillow's plugins raise nearly anything: OSError, SyntaxError, struct.error, TypeError …
        raise DataError(
            f"{what} cannot be decoded, it is truncated or damaged: {exc or type(exc).__name__}.", "damaged"
        ) from exc


def _is_separate(image: Image.Image) -> bool:
    """Tell whether a TIFF keeps 16-bit colours in planes of their own, which Pillow takes for 8-bit ones."""
    tags = getattr(image, "tag_v2", {})
    return _first(tags.get(_PLANES)) == _SEPARATE and (tags.get(_SAMPLES) or 1) > 1 and _bits(image) > 8


def _load_tiff(content: bytes, what: str, page: int) -> Stored:
    from .tiff import read_tiff

    layers = read_tiff(content, what, page)
    alpha = layers.alpha
    if alpha is not None:
        alpha = alpha.astype(np.float64) / (1.0 if alpha.dtype.kind == "f" else type_range(alpha.dtype)[1])
    return Stored(layers.values, range_of_type(layers.values.dtype, inverted=layers.inverted), alpha)


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16") or (image.mode == "L" and _is_signed(image))


def _is_signed(image: Image.Image) -> bool:
    return _first(getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT)) == _SIGNED


def _as_declared(values: Pixels, image: Image.Image) -> Pixels:
    """Give whole numbers the sign that a TIFF declares: Pillow has 8 bits without one, and 32 bits with one."""
    if values.dtype == np.uint8:
        return values.view(np.int8)
    unsigned = values.dtype == np.int32 and image.format == "TIFF" and _bits(image) == 32 and not _is_signed(image)
    return values.view(np.uint32) if unsigned else values


def _deep_colour(content: bytes, page: int) -> Stored | None:
    """Return colours of 16 bits, of which Pillow keeps the upper 8; None where there are no more than 8.

    Told that the bytes of a word stand the other way round, Pillow keeps the lower 8.
    """
    halves = []
    for lower in (False, True):
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if page:
                image.seek(page)
            modes = {_raw_mode(tile) for tile in image.tile}
            if image.mode not in ("RGB", "RGBA") or not modes <= set(_OTHER_ORDER):
                return None
            if lower:
                image.tile = [_with_raw_mode(tile, _OTHER_ORDER[_raw_mode(tile)]) for tile in image.tile]
            halves.append(np.array(ImageOps.exif_transpose(image)).astype(np.uint16))
    values = halves[0] << 8 | halves[1]
    alpha = values[:, :, 3:].astype(np.float64) / 0xFFFF if values.shape[2] == 4 else None
    return Stored(values[:, :, :3], Range(0, 0xFFFF), alpha)


def _raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _with_raw_mode(tile: Any, mode: str) -> Any:
    return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))


def _eight_bits(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return (H, W, 1 or 3) uint8 of an image that is not deep."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        layers = np.array(image.convert("LA" if grey else "RGBA")).astype(np.uint32)
        composited = (layers[:, :, :-1] * layers[:, :, -1:] + 127) // 255
        return composited.astype(np.uint8)
    pixels = np.array(image.convert("L" if grey else "RGB"))
    return pixels[:, :, None] if grey else pixels


def _range(image: Image.Image, content: bytes) -> Range:
    if image.format == "PNG":
        return Range(0, 0xFFFF, 2 ** (_png_significant_bits(content) or 16) - 1)
    tags = getattr(image, "tag_v2", {})
    bits, largest, signed = _bits(image), _first(tags.get(_MAX_SAMPLE)), _is_signed(image)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    declared = high if bits < 16 and not signed else None
    if largest and 0 < largest < high:
        # Some writers put the image's own maximum here. Rounded up to whole bits, both readings agree.
        declared = (1 << int(largest).bit_length()) - 1
    return Range(low, high, declared, inverted=_first(tags.get(_PHOTOMETRIC)) == _WHITE_IS_ZERO)


def _bits(image: Image.Image) -> int:
    return _first(getattr(image, "tag_v2", {}).get(_BITS)) or 16


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
