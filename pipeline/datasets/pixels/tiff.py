"""TIFF files whose pixels Pillow does not know or gets wrong, read with tifffile."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tifffile import PHOTOMETRIC, TiffFile, TiffFileError

from ....cache.errors import DataError

__all__ = ["Layers", "count_tiff_pages", "is_tiff", "read_tiff"]

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
_ALPHA = (1, 2)  # ExtraSamples: associated and unassociated alpha
_ORIENTATION = 274
# By the value of that tag: whether rows and columns change places first, then whether rows, then columns, are reversed.
_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

# tifffile logs what it finds odd in tags; a file that cannot be read is refused in a sentence of its own.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class Layers(NamedTuple):
    """The pixels of a page as they are stored.

    Attributes
    ----------
    values : (H, W, C), C 1 or 3, turned as the file says
    alpha : (H, W, 1) of the same type, None where all is opaque
    inverted : whether 0 is white
    """

    values: npt.NDArray[Any]
    alpha: npt.NDArray[Any] | None
    inverted: bool


def is_tiff(content: bytes) -> bool:
    """Tell whether a file begins as a TIFF does."""
    return content[:4] in _MAGIC


def count_tiff_pages(path: Path) -> int:
    """Return the number of pages; 1 if it makes no sense, which is said when the file is read."""
    try:
        with TiffFile(path) as file:
            return max(1, len(file.pages))
    except Exception:  # noqa: BLE001 - a damaged file makes tifffile raise nearly anything
        return 1


def read_tiff(content: bytes, what: str, page: int) -> Layers:
    """Read a page, counted from 0.

    Parameters
    ----------
    what : the image's name, for messages

    Raises
    ------
    DataError
        The page is not there, is neither grey nor RGB, or is compressed in a way that tifffile alone cannot undo.
    """
    try:
        with TiffFile(io.BytesIO(content)) as file:
            found = file.pages[page].aspage()
            axes, photometric = found.axes, found.photometric
            extra = tuple(int(kind) for kind in found.extrasamples)
            values = found.asarray()
            turned = _TURNS.get(found.tags.valueof(_ORIENTATION, 1), (False, False, False))
    except (TiffFileError, IndexError) as error:
        raise DataError(f"{what} is not a TIFF image that can be read ({error}).", "not an image") from error
    except Exception as error:
        if "imagecodecs" in str(error):
            raise DataError(
                f"{what} is a TIFF of a kind that only tifffile reads, compressed in a way that it cannot undo by "
                "itself; save it without compression, or pip install imagecodecs.",
                "no decoder",
            ) from error
        # As Pillow's plugins, tifffile raises nearly anything on a damaged file.
        raise DataError(
            f"{what} cannot be decoded, it is truncated or damaged: {error or type(error).__name__}.", "damaged"
        ) from error
    return _arrange(values, axes, photometric, extra, turned, what)


def _arrange(
    values: npt.NDArray[Any],
    axes: str,
    photometric: int,
    extra: tuple[int, ...],
    turned: tuple[bool, bool, bool],
    what: str,
) -> Layers:
    layers = values[:, :, None] if axes == "YX" else np.moveaxis(values, 0, 2) if axes == "SYX" else values
    colours = 1 if photometric in _GREY else 3 if photometric == PHOTOMETRIC.RGB else 0
    samples = layers.shape[2] if layers.ndim == 3 and axes in ("YX", "YXS", "SYX") else 0
    if not colours or samples < colours or (samples > colours and extra[:1] not in {(kind,) for kind in _ALPHA}):
        raise DataError(
            f"{what} is a TIFF of {samples or layers.shape} samples and the photometric interpretation {photometric}; "
            "expected grey or RGB, with or without an alpha channel: convert it.",
            "unusable values",
        )
    transposed, rows, columns = turned
    layers = layers.swapaxes(0, 1) if transposed else layers
    layers = layers[:: -1 if rows else 1, :: -1 if columns else 1]
    alpha = layers[:, :, colours : colours + 1] if samples > colours else None
    return Layers(layers[:, :, :colours], alpha, inverted=photometric == PHOTOMETRIC.MINISWHITE)
