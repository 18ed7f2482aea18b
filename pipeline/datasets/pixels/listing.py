"""Files as rows: how many images each has, whose they are, and which are none of a study."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import plural
from ..columns.dataset import DatasetOptions
from .file_kinds import suffix_of
from .files import FORMATS, LOCALIZERS, Facts, FileImages, Format, across, find_format
from .nifti.slices import choose_slices, say_slices
from .pages import HARDLY_PAGED, PAGED, holds_more

__all__ = ["Listing", "list_images"]

_log = logging.getLogger(__name__)

_HEADER_THREADS = 8  # headers are read from network shares as well, where waiting is all that it costs
_LOOKED_AT = 64


class Listing(NamedTuple):
    """Images of files, of which some have several frames.

    Attributes
    ----------
    place : (M,) int64 index of each image's file among those listed
    tied : (M,) bool, whether an image is a frame of a file that is one examination
    names : (N,) the files listed
    patients : (N,) of the files listed, as `Facts.patient`; empty where no file names one
    left : files that are DICOM or volumes and no image of the study, by what they are; no image is of them
    paged : files of several pages or frames, of which the first alone is an image; of PNG a sample was looked at
    slices : what to say of the slices of volumes
    """

    images: FileImages
    place: npt.NDArray[np.int64]
    tied: npt.NDArray[np.bool_]
    names: tuple[str, ...] = ()
    patients: tuple[bytes, ...] = ()
    left: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    paged: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What looks odd, in words."""
        if not self.paged:
            return self.slices
        named = suffix_of(self.paged[0]) in PAGED
        remedy = "a table with a column 'frame' names others, or split them" if named else "split them"
        return (
            f"{len(self.paged)} {plural(len(self.paged), 'file')} of {len(self.names)} hold several pages or frames, "
            f"'{self.paged[0]}' for one, and the first of each is read alone: {remedy} into files",
            *self.slices,
        )

    def group(self, group: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return (M,) int64 groups of the images, from (N,) of the files: frames of one examination are in one."""
        group = group[self.place]
        alone = np.flatnonzero((group < 0) & self.tied).tolist()
        first = int(group.max(initial=-1)) + 1
        names = [self.images.names[row] for row in alone]
        number = {name: index for index, name in enumerate(dict.fromkeys(names), first)}
        group[alone] = [number[name] for name in names]
        return group


def list_images(
    folder: Path, names: Sequence[str], options: DatasetOptions, what: str, frames: Sequence[str] | None = None
) -> Listing:
    """Make a row of every frame; of DICOM files and volumes the headers are read, of others nothing.

    Of a TIFF, GIF or WebP file of several pages, only the first is an image, unless `frames` names others.

    Parameters
    ----------
    names : (N,) files under the folder
    frames : (N,) of a file that has several, the number of the only one wanted, counted from 1; empty = all

    Raises
    ------
    DataError
        There is nothing to read DICOM files or volumes with, no image for a window, or no frame of that number.
    """
    # By suffix first: a path for each of a hundred thousand names is not free.
    found = [FORMATS.get(suffix_of(name)) or find_format(folder / name) for name in names]
    formats = [across(kind, options.slice_axis) for kind in found]
    film = np.array([kind is not None and kind.facts is not None for kind in formats], bool)
    counts, patients, left = _read_headers(folder, names, formats, options, what)
    if frames is not None:
        counts = _count_pages_asked(folder, names, formats, counts)
    # Of what has no frames, a column of that name says something else.
    asked = [
        frames[row] if frames is not None and _has_frames(kind, counts[row]) else "" for row, kind in enumerate(formats)
    ]
    wanted = [_wanted(count, asked[row], names[row], what) for row, count in enumerate(counts)]
    volumes = [row for row, kind in enumerate(formats) if kind is not None and kind.axis is not None]
    for row in volumes:
        if not asked[row] and counts[row] > 1:
            wanted[row] = choose_slices(counts[row], options)
    place = np.repeat(np.arange(len(names)), [len(part) for part in wanted])
    numbers = np.array([frame for part in wanted for frame in part], np.int64)
    images = FileImages(
        folder,
        tuple(names[row] for row in place.tolist()),
        options.intensity,
        tuple(numbers.tolist()) if numbers.any() else (),
        options.window,
        options.slice_axis,
    )
    if options.window is not None and not film.any() and not _any_deep(images):
        raise DataError(f"{what} has no DICOM file and no image of more than 8 bits for --window; leave it out.")
    chosen = np.array(list(map(bool, asked)), bool)
    known = tuple(patients) if any(patients) else ()
    paged = _find_paged(folder, names, formats) if frames is None else ()
    slices = tuple(say_slices([len(wanted[row]) for row in volumes if wanted[row]], options))
    return Listing(images, place, (numbers > 0) & (film | ~chosen)[place], tuple(names), known, left, paged, slices)


def _read_headers(
    folder: Path, names: Sequence[str], formats: Sequence[Format | None], options: DatasetOptions, what: str
) -> tuple[list[int], list[bytes], dict[str, tuple[str, ...]]]:
    """Return the frames and the patient of each file, and files that are no images, by what they are: of 0 frames."""
    counts, patients = [1] * len(names), [b""] * len(names)
    left: dict[str, list[str]] = {}
    odd: dict[tuple[str, str], list[str]] = {}
    films = [(row, kind) for row, kind in enumerate(formats) if kind is not None and kind.facts is not None]
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        facts = list(pool.map(lambda film: _facts(film[1], folder / names[film[0]]), films))
    for (row, kind), fact in zip(films, facts, strict=True):
        counts[row], patients[row] = fact.frames, fact.patient
        if fact.odd is not None:
            odd.setdefault((kind.name, fact.odd), []).append(names[row])
        if fact.no_image is not None and (fact.no_image != LOCALIZERS or options.skip_localizers):
            left.setdefault(fact.no_image, []).append(names[row])
            counts[row] = 0
    for (standard, oddity), files in odd.items():
        _log.warning("%s: %d %s files %s, for instance '%s'", what, len(files), standard, oddity, files[0])
    return counts, patients, {kind: tuple(files) for kind, files in left.items()}


def _facts(kind: Format, path: Path) -> Facts:
    return Facts() if kind.facts is None else kind.facts(path)


def _find_paged(folder: Path, names: Sequence[str], formats: Sequence[Format | None]) -> tuple[str, ...]:
    """Return the files that have pages beside the first; each that may have is opened for a few bytes, of PNG some."""
    asked = [name for name, kind in zip(names, formats, strict=True) if kind is not None and kind.pages is not None]
    few = names[:: max(1, len(names) // _LOOKED_AT)]
    asked += [name for name in few if suffix_of(name) in HARDLY_PAGED]
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        held = pool.map(lambda name: holds_more(folder / name), asked)
        return tuple(name for name, several in zip(asked, held, strict=True) if several)


def _count_pages_asked(
    folder: Path, names: Sequence[str], formats: Sequence[Format | None], counts: Sequence[int]
) -> list[int]:
    """Return the counts with those of files whose pages a table names one by one; each file is opened once."""
    pages = {name: kind.pages for name, kind in zip(names, formats, strict=True) if kind is not None and kind.pages}
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        found = dict(zip(pages, pool.map(lambda item: item[1](folder / item[0]), pages.items()), strict=True))
    return [found.get(name, count) for name, count in zip(names, counts, strict=True)]


def _has_frames(kind: Format | None, count: int) -> bool:
    return count > 1 or (kind is not None and kind.facts is not None)


def _wanted(count: int, asked: str, name: str, what: str) -> list[int]:
    """Return the frames of a file that are images of their own, [0] where it is one as a whole."""
    if count and asked and not (asked.isdecimal() and 1 <= int(asked) <= count):
        raise DataError(
            f"{what} asks for frame '{asked}' of file '{name}', which has {count}; expected 1 to {count}, or empty = "
            "all of them."
        )
    if count <= 1:
        return [0] * count
    return [int(asked)] if asked else list(range(1, count + 1))


def _any_deep(images: FileImages) -> bool:
    """Tell whether one of the first few images that can be read is of more than 8 bits."""
    for row in range(min(len(images), _LOOKED_AT)):
        with suppress(DataError):
            if images.deep(row) is not None:
                return True
    return False
