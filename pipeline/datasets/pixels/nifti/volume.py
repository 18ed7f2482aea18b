"""Slices of NIfTI volumes, read with nibabel, as a radiologist looks at them."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, io_orientation

from .....cache.errors import DataError
from .....cache.keys import KEY_BYTES, page_key
from ....views.preprocessing import Intensity, levels_of, window_levels
from ...columns.dataset import AXES, Deep, Window
from ..intensity import REMEDY, require_finite, stretch
from ..stored import Stored, range_of_type

__all__ = ["decode_slice", "deep_slice", "read_facts", "slice_key"]

Pixels = npt.NDArray[Any]

# It prints to the terminal what it finds odd in headers; what cannot be read is refused in a sentence of its own.
logging.getLogger("nibabel.global").handlers[:] = [logging.NullHandler()]

_PREFIX = b"medal:volume\0"
_KEPT = 2  # volumes that are unpacked: rows come file by file
_PART = 1 << 22
_LOCKS = tuple(Lock() for _ in range(16))
_LABELS = 1002  # NIFTI_INTENT_LABEL
# Voxels are this much longer along the axis that was scanned across.
_THICKER = 1.5


class _Volume(NamedTuple):
    """A volume as it is stored, seen in RAS: its axes go to the right, to the front and up.

    Attributes
    ----------
    values : (X, Y, Z), mapped into memory where the file is not compressed
    slope, inter : what makes values of them; 1 and 0 where they are values
    """

    values: Pixels
    slope: float
    inter: float


def read_facts(path: Path, axis: str) -> tuple[int, str | None, str | None]:
    """Return how many slices a file has, what it is if no image, and in what it is odd.

    What makes no sense has 1, and is no oddity: what is wrong with a file is said when it is read.
    """
    try:
        image = _open(path)
        header = image.header
        order = io_orientation(image.affine)
        shape, zooms = _three(image.shape), header.get_zooms()
        place = [int(np.flatnonzero(order[:, 0] == number)[0]) for number in range(3)]
    except Exception:  # noqa: BLE001 - a damaged file makes nibabel raise nearly anything
        return 1, None, None
    labels = "segmentations" if int(header["intent_code"]) == _LABELS else None
    odd = None
    thick = [float(zooms[one]) if one < len(zooms) else 1.0 for one in place]  # mm, by the axes of RAS
    across = AXES[int(np.argmax(thick))]
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        odd = "say nothing of their orientation (sform and qform code are 0), and LAS is assumed"
    elif across != axis and max(thick) > _THICKER * thick[AXES.index(axis)]:
        odd = f"have their thickest slices across the {across} axis, which --slice-axis {across} takes"
    return shape[place[AXES.index(axis)]], labels, odd


def slice_key(axis: str, path: Path, what: str, frame: int) -> bytes:
    """Return the key of a slice: of the file's content before any compression, the axis and the number.

    Parameters
    ----------
    what : the image's name, for messages
    frame : counted from 0

    Raises
    ------
    DataError
        As `decode_slice`, but no value is looked at.
    """
    with _named(what):
        _open(path)
        status = path.stat()
        content = _content_key(path, status.st_size, status.st_mtime_ns)
    return page_key(content, (AXES.index(axis) + 1 << 32) + frame)


def decode_slice(axis: str, path: Path, what: str, frame: int, intensity: Intensity, window: Window | None) -> Pixels:
    """Decode a slice as it is looked at: the front or the head is up, the patient's right or front is on the left.

    Nothing is resampled: oblong voxels stay as they are, and the axis is the stored one that is closest.

    Parameters
    ----------
    what : the image's name, for messages
    frame : number of the slice, counted from 0 from the left, the back or below
    intensity, window : as of a picture; values are those after the header's slope and intercept

    Returns
    -------
    (H, W, 1): uint8 where 8 bits are stored, without a slope; else float32 in 0…255

    Raises
    ------
    DataError
        The file is no volume, has no three dimensions, is cut short, or has values that are no grey.
    """
    values, whole = _cut(path, what, axis, frame)
    levels = levels_of(intensity) if window is None else window_levels(window)
    if intensity == "minmax" and window is None:
        return stretch(values, what)
    if values.dtype == np.uint8:
        return values
    if whole or levels is not None:
        return Stored(values, range_of_type(values.dtype, inverted=False)).show(what, intensity, levels)
    low, high = float(values.min()), float(values.max())
    raise DataError(
        f"{what} has values from {low:g} to {high:g} and says nothing of black and white; give all one window with "
        f"--window C,W, {REMEDY}."
    )


def deep_slice(axis: str, path: Path, what: str, frame: int) -> Deep | None:
    """Return the values of a slice; None where it has 8 bits.

    Raises
    ------
    DataError
        As `decode_slice`.
    """
    values, whole = _cut(path, what, axis, frame)
    if values.dtype == np.uint8:
        return None
    declared = Stored(values, range_of_type(values.dtype, inverted=False)).declared(what) if whole else None
    return Deep(values, declared, windowless="NIfTI")


def _cut(path: Path, what: str, axis: str, frame: int) -> tuple[Pixels, bool]:
    """Return (H, W, 1) values of a slice, and whether they are whole numbers as they are stored."""
    status = path.stat()
    with _named(what):
        with _LOCKS[hash(path) % len(_LOCKS)]:  # several threads want the same file at once
            volume = _load(path, status.st_size, status.st_mtime_ns)
        plane = np.moveaxis(volume.values, AXES.index(axis), 0)[frame]
        values = np.array(plane[::-1, ::-1].T)[:, :, None]
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    whole = values.dtype.kind in "iu" and (volume.slope, volume.inter) == (1.0, 0.0)
    if not whole:
        values = values.astype(np.float64) * volume.slope + volume.inter
        require_finite(float(values.min()), float(values.max()), what)
    return values, whole


@lru_cache(_KEPT)
def _load(path: Path, _size: int, _modified: int) -> _Volume:
    image = _open(path)
    values = np.asanyarray(image.dataobj.get_unscaled()).reshape(_three(image.shape))
    slope, inter = float(image.dataobj.slope), float(image.dataobj.inter)
    return _Volume(apply_orientation(values, io_orientation(image.affine)), slope, inter)


def _open(path: Path) -> Any:
    """Return an image of which no value is read yet."""
    try:
        image: Any = nibabel.load(path)
    except ImageFileError as exc:  # whose text has the whole path
        raise _Unusable("is no NIfTI volume that can be read, it is damaged or of another kind.") from exc
    if not isinstance(image, nibabel.Nifti1Image):  # Nifti2Image is one
        raise _Unusable("is no NIfTI volume but of another kind that is called so; convert it.")
    shape, stored = _three(image.shape), image.get_data_dtype()
    if len(shape) != 3:
        raise _Unusable(
            f"is a NIfTI volume of {' × '.join(map(str, image.shape))}; expected three dimensions: save each volume of "
            "a series, or the one that is meant, as a file of its own."
        )
    if stored.kind not in "iuf":
        raise _Unusable(
            f"is a NIfTI volume of colours, complex numbers or bits ({stored}); expected one number a voxel: convert "
            "it."
        )
    if np.isnan(io_orientation(image.affine)).any():
        raise _Unusable(
            "is a NIfTI volume whose affine is singular, so that an axis has no direction; mend its header."
        )
    return image


class _Unusable(Exception):
    """A volume that cannot be used; the message goes on after the file's name."""


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Give errors the name of the image."""
    try:
        yield
    except (DataError, OSError) as exc:
        # Of its own errors nibabel makes OSErrors without a number.
        if isinstance(exc, DataError) or exc.errno is not None:
            raise
        raise DataError(_damaged(what, exc), "damaged") from exc
    except _Unusable as exc:
        raise DataError(f"{what} {exc}", "unusable values") from exc
    except Exception as exc:
        # nibabel lets through what gzip, zlib, numpy and struct raise.
        raise DataError(_damaged(what, exc), "damaged") from exc


def _damaged(what: str, exc: Exception) -> str:
    return f"{what} cannot be read as a NIfTI volume, it is truncated or damaged: {exc or type(exc).__name__}."


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without axes of one behind the third, and with those that are missing before it."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return (*shape, *(1,) * (3 - len(shape)))


@lru_cache(32)
def _content_key(path: Path, _size: int, _modified: int) -> bytes:
    digest = blake2b(_PREFIX, digest_size=KEY_BYTES)
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.digest()
