"""Images in files: their keys and their pixels, one at a time, on any thread or worker process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.keys import file_key, page_key
from ....cache.system_files import is_system_file
from ...views.preprocessing import Intensity
from ..columns.dataset import UNREADABLE, DatasetOptions, Deep, Place, Window
from .file_kinds import DICOM, PICTURES, kind_of_content, kind_of_name, suffix_of
from .key_memory import KeyMemory

__all__ = ["FORMATS", "Facts", "FileImages", "Format", "Listing", "find_format", "list_images"]

_log = logging.getLogger(__name__)
Pixels = npt.NDArray[Any]
T = TypeVar("T")

_HEADER_THREADS = 8  # headers are read from network shares as well, where waiting is all that it costs
_FILES_KEPT = 32
_LOOKED_AT = 64
NOWHERE, LOCALIZERS = "link to nothing", "localizers"  # why a file is left out


class Facts(NamedTuple):
    """What a file's header says before any image is read.

    Attributes
    ----------
    frames : how many images it has
    patient : a code that is equal for equal patients in this process alone; empty where none is named
    no_image : what the file is instead of an image of the study, for instance ``segmentations``
    odd : in what it does not keep to its standard, though it can be read; follows "DICOM files"
    """

    frames: int = 1
    patient: bytes = b""
    no_image: str | None = None
    odd: str | None = None


class Format(NamedTuple):
    """How files of one kind are read; a frame is counted from 0.

    Attributes
    ----------
    facts : what a file's header says; None = one image a file, and nothing else
    pages : number of frames of a file of which a table names one; None = as the header says
    key : content key of a frame; the text names the image, for messages
    decode : pixels of a frame, as `Images.read` returns them
    deep : values of a frame, as `Images.deep` returns them
    """

    facts: Callable[[Path], Facts] | None
    pages: Callable[[Path], int] | None
    key: Callable[[Path, str, int], bytes]
    decode: Callable[[Path, str, int, Intensity, Window | None], Pixels]
    deep: Callable[[Path, str, int], Deep | None]


def _picture_key(path: Path, _what: str, frame: int) -> bytes:
    if not frame:
        return file_key(path.read_bytes())
    status = path.stat()
    return page_key(_file_key(path, status.st_size, status.st_mtime_ns), frame)


@lru_cache(_FILES_KEPT)
def _file_key(path: Path, _size: int, _modified: int) -> bytes:
    """Return the key of a file of many pages, each of which asks for it."""
    return file_key(path.read_bytes())


def _count_pages(path: Path) -> int:
    from .picture import count_pages

    return count_pages(path)


def _decode_picture(path: Path, what: str, frame: int, intensity: Intensity, window: Window | None) -> Pixels:
    from .picture import decode_picture  # Pillow is not paid for by a run that only needs keys

    return decode_picture(path.read_bytes(), what, intensity, window, frame)


def _deep_picture(path: Path, what: str, frame: int) -> Deep | None:
    from .picture import deep_picture

    return deep_picture(path.read_bytes(), what, frame)


def _dicom(what: str = "") -> ModuleType:
    try:
        from . import dicom
    except ImportError as exc:
        raise DataError(
            f"{what}{': ' if what else ''}DICOM files are read with pydicom 3 or newer, which cannot be imported "
            f'({exc}); pip install "medalmighty[dicom]".',
            "no decoder",
        ) from exc
    return dicom


def _dicom_facts(path: Path) -> Facts:
    return Facts(*_dicom().read_facts(path))


def _dicom_key(path: Path, what: str, frame: int) -> bytes:
    return bytes(_dicom(what).dicom_key(path, what, frame))


def _decode_dicom(path: Path, what: str, frame: int, intensity: Intensity, window: Window | None) -> Pixels:
    pixels: Pixels = _dicom(what).decode_dicom(path, what, frame, intensity, window)
    return pixels


def _deep_dicom(path: Path, what: str, frame: int) -> Deep | None:
    found: Deep | None = _dicom(what).deep_dicom(path, what, frame)
    return found


_PICTURE = Format(None, None, _picture_key, _decode_picture, _deep_picture)
_TIFF = _PICTURE._replace(pages=_count_pages)
_DICOM = Format(_dicom_facts, None, _dicom_key, _decode_dicom, _deep_dicom)

# By suffix, in lower case.
FORMATS = dict.fromkeys(PICTURES, _PICTURE) | dict.fromkeys((".tif", ".tiff"), _TIFF) | dict.fromkeys(DICOM, _DICOM)
_BY_KIND = {"picture": _PICTURE, "dicom": _DICOM}


def find_format(path: Path) -> Format | None:
    """Tell how a file is read, None if it is no image that is known.

    That goes by suffix. A file without one, with a number for one as in 1.2.840.113619, or with one that is not known,
    is what its first bytes say; the directory of a disc also says that it is DICOM, but has no image.
    """
    kind = kind_of_name(path.name)
    if kind in _BY_KIND:
        return FORMATS[suffix_of(path.name)]
    if kind == "unknown" and not is_system_file(path.name):
        return _BY_KIND.get(kind_of_content(path))
    return None


@dataclass(frozen=True)
class FileImages:
    """Image files by name under a folder.

    Attributes
    ----------
    folder : where the names start
    names : one a row, with forward slashes; a name may repeat, leave the folder or be absolute
    frames : one a row: which frame of a file of several, counted from 1 as DICOM counts, 0 where a file has only one
        image; may be empty if that is all of them
    window : centre and width for all grey DICOM files, instead of their own, and for all others that are deep
    memory : keys of files that have been read before
    """

    folder: Path
    names: tuple[str, ...]
    intensity: Intensity = "declared"
    frames: tuple[int, ...] = ()
    window: Window | None = None
    memory: KeyMemory | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def key(self, row: int) -> bytes:
        def find(kind: Format, path: Path, what: str, frame: int) -> bytes:
            if self.memory is None:
                return kind.key(path, what, frame)
            return self.memory.key(path, frame, lambda: kind.key(path, what, frame))

        return self._ask(row, find)

    @contextmanager
    def remembering(self) -> Iterator[FileImages]:
        with KeyMemory(self.folder) as memory:
            yield replace(self, memory=memory)

    def read(self, row: int) -> Pixels:
        return self._ask(
            row, lambda kind, path, what, frame: kind.decode(path, what, frame, self.intensity, self.window)
        )

    def deep(self, row: int) -> Deep | None:
        return self._ask(row, lambda kind, path, what, frame: kind.deep(path, what, frame))

    def with_intensity(self, intensity: Intensity) -> FileImages:
        return replace(self, intensity=intensity)

    def describe(self, row: int) -> str:
        frame = self.frames[row] if self.frames else 0
        return f"file '{self.names[row]}'" + (f", frame {frame}" if frame else "")

    def locate(self, row: int) -> Place:
        return Place(file=self.names[row], frame=self.frames[row] or None if self.frames else None)

    def _ask(self, row: int, question: Callable[[Format, Path, str, int], T]) -> T:
        path, what = self.folder / self.names[row], self.describe(row)
        frame = max(0, self.frames[row] - 1) if self.frames else 0
        try:
            # A table may name any file; what has no known suffix may still be a picture.
            return question(find_format(path) or _PICTURE, path, what, frame)
        except FileNotFoundError as exc:
            if path.is_symlink():
                target = path.readlink()
                raise DataError(f"{what} is a link to nothing ('{target}'): fetch what it leads to.", NOWHERE) from exc
            raise DataError(f"{what} in '{self.folder}' cannot be read: {exc.strerror}.", UNREADABLE) from exc
        except OSError as exc:
            reason = exc.strerror or type(exc).__name__
            raise DataError(f"{what} in '{self.folder}' cannot be read: {reason}.", UNREADABLE) from exc


class Listing(NamedTuple):
    """Images of files, of which some have several frames.

    Attributes
    ----------
    place : (M,) int64 index of each image's file among those listed
    tied : (M,) bool, whether an image is a frame of a file that is one examination
    names : (N,) the files listed
    patients : (N,) of the files listed, as `Facts.patient`; empty where no file names one
    left : files that are DICOM and no image of the study, by what they are; no image is of them
    """

    images: FileImages
    place: npt.NDArray[np.int64]
    tied: npt.NDArray[np.bool_]
    names: tuple[str, ...] = ()
    patients: tuple[bytes, ...] = ()
    left: Mapping[str, tuple[str, ...]] = MappingProxyType({})

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
    """Make a row of every frame; of DICOM files the headers are read, of others nothing.

    Of a TIFF file of several pages, only the first is an image, unless `frames` names others.

    Parameters
    ----------
    names : (N,) files under the folder
    frames : (N,) of a file that has several, the number of the only one wanted, counted from 1; empty = all

    Raises
    ------
    DataError
        There is no pydicom to read DICOM files with, no image for a window, or no frame of that number.
    """
    # By suffix first: a path for each of a hundred thousand names is not free.
    formats = [FORMATS.get(suffix_of(name)) or find_format(folder / name) for name in names]
    dicom = [(row, kind.facts) for row, kind in enumerate(formats) if kind is not None and kind.facts is not None]
    counts, patients = [1] * len(names), [b""] * len(names)
    left: dict[str, list[str]] = {}
    odd: dict[str, list[str]] = {}
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        facts = list(pool.map(lambda item: item[1](folder / names[item[0]]), dicom))
    for (row, _), fact in zip(dicom, facts, strict=True):
        counts[row], patients[row] = fact.frames, fact.patient
        if fact.odd is not None:
            odd.setdefault(fact.odd, []).append(names[row])
        if fact.no_image is not None and (fact.no_image != LOCALIZERS or options.skip_localizers):
            left.setdefault(fact.no_image, []).append(names[row])
            counts[row] = 0
    for oddity, found in odd.items():
        _log.warning("%s: %d DICOM files %s, for instance '%s'", what, len(found), oddity, found[0])
    if frames is not None:
        counts = _count_pages_asked(folder, names, formats, counts)
    # Of what has no frames, a column of that name says something else.
    asked = [
        frames[row] if frames is not None and _has_frames(kind, counts[row]) else "" for row, kind in enumerate(formats)
    ]
    wanted = [_wanted(count, asked[row], names[row], what) for row, count in enumerate(counts)]
    place = np.repeat(np.arange(len(names)), [len(part) for part in wanted])
    numbers = np.array([frame for part in wanted for frame in part], np.int64)
    images = FileImages(
        folder,
        tuple(names[row] for row in place.tolist()),
        options.intensity,
        tuple(numbers.tolist()) if numbers.any() else (),
        options.window,
    )
    if options.window is not None and not dicom and not _any_deep(images):
        raise DataError(f"{what} has no DICOM file and no image of more than 8 bits for --window; leave it out.")
    chosen = np.array(list(map(bool, asked)), bool)
    film = np.array([kind is not None and kind.facts is not None for kind in formats], bool)
    known = tuple(patients) if any(patients) else ()
    gone = {kind: tuple(files) for kind, files in left.items()}
    return Listing(images, place, (numbers > 0) & (film | ~chosen)[place], tuple(names), known, gone)


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
