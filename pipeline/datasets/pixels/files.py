"""Images in files: their keys and their pixels, one at a time, on any thread or worker process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.keys import file_key, page_key
from ....cache.machine.system_files import is_system_file
from ...views.preprocessing import Intensity
from ..columns.dataset import AXES, UNREADABLE, Deep, Place, Window
from .file_kinds import DICOM, IMAGES, PICTURES, VOLUMES, kind_of_content, kind_of_name, suffix_of
from .key_memory import KeyMemory
from .nifti.slices import DEFAULT_AXIS
from .pages import PAGED

__all__ = ["FORMATS", "LOCALIZERS", "NOWHERE", "Facts", "FileImages", "Format", "across", "find_format"]

_log = logging.getLogger(__name__)
Pixels = npt.NDArray[Any]
T = TypeVar("T")

_FILES_KEPT = 32
# Why a file is left out.
NOWHERE = "link to nothing"
LOCALIZERS = "localizers"


class Facts(NamedTuple):
    """What a file's header says before any image is read.

    Attributes
    ----------
    frames : how many images it has
    patient : a code that is equal for equal patients in this process alone; empty where none is named
    no_image : what the file is instead of an image of the study, for instance ``segmentations``
    odd : in what it does not keep to its standard, though it can be read; follows "DICOM files" or "NIfTI files"
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
    name : of the standard
    axis : across which a volume is cut; None = no volume
    """

    facts: Callable[[Path], Facts] | None
    pages: Callable[[Path], int] | None
    key: Callable[[Path, str, int], bytes]
    decode: Callable[[Path, str, int, Intensity, Window | None], Pixels]
    deep: Callable[[Path, str, int], Deep | None]
    name: str = ""
    axis: str | None = None

    def remembered(self, frame: int) -> int:
        """Return the number under which the key of a frame is remembered, another one across each axis."""
        return frame if self.axis is None else frame + (AXES.index(self.axis) + 1 << 32)


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
        from .dicom import decoding
    except ImportError as exc:
        raise DataError(
            f"{what}{': ' if what else ''}DICOM files are read with pydicom 3 or newer, which cannot be imported "
            f'({exc}); pip install "medalmighty[dicom]".',
            "no decoder",
        ) from exc
    return decoding


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


def _nifti(what: str = "") -> ModuleType:
    try:
        from .nifti import volume
    except ImportError as exc:
        raise DataError(
            f"{what}{': ' if what else ''}NIfTI volumes are read with nibabel, which cannot be imported ({exc}); "
            'pip install "medalmighty[nifti]".',
            "no decoder",
        ) from exc
    return volume


def _volume_facts(axis: str, path: Path) -> Facts:
    slices, no_image, odd = _nifti().read_facts(path, axis)
    return Facts(slices, no_image=no_image, odd=odd)


def _slice_key(axis: str, path: Path, what: str, frame: int) -> bytes:
    return bytes(_nifti(what).slice_key(axis, path, what, frame))


def _decode_slice(axis: str, path: Path, what: str, frame: int, intensity: Intensity, window: Window | None) -> Pixels:
    pixels: Pixels = _nifti(what).decode_slice(axis, path, what, frame, intensity, window)
    return pixels


def _deep_slice(axis: str, path: Path, what: str, frame: int) -> Deep | None:
    found: Deep | None = _nifti(what).deep_slice(axis, path, what, frame)
    return found


_PICTURE = Format(None, None, _picture_key, _decode_picture, _deep_picture)
_PAGED = _PICTURE._replace(pages=_count_pages)
_DICOM = Format(_dicom_facts, None, _dicom_key, _decode_dicom, _deep_dicom, "DICOM")
_VOLUME = {
    axis: Format(
        partial(_volume_facts, axis),
        None,
        partial(_slice_key, axis),
        partial(_decode_slice, axis),
        partial(_deep_slice, axis),
        "NIfTI",
        axis,
    )
    for axis in AXES
}

# By suffix, in lower case.
FORMATS = {
    **dict.fromkeys(PICTURES, _PICTURE),
    **dict.fromkeys(PAGED, _PAGED),
    **dict.fromkeys(DICOM, _DICOM),
    **dict.fromkeys(VOLUMES, _VOLUME[DEFAULT_AXIS]),
}
_BY_KIND = {"picture": _PAGED, "dicom": _DICOM}


def find_format(path: Path) -> Format | None:
    """Tell how a file is read, None if it is no image that is known.

    That goes by suffix. A file without one, with a number for one as in 1.2.840.113619, or with one that is not known,
    is what its first bytes say; the directory of a disc also says that it is DICOM, but has no image.
    """
    kind = kind_of_name(path.name)
    if kind in IMAGES:
        return FORMATS[suffix_of(path.name)]
    if kind == "unknown" and not is_system_file(path.name):
        return _BY_KIND.get(kind_of_content(path))
    return None


def across(kind: Format | None, axis: str | None) -> Format | None:
    """Return how a file is read where volumes are cut across some axis."""
    return kind if kind is None or kind.axis is None else _VOLUME[axis or DEFAULT_AXIS]


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
    axis : across which volumes are cut; None = axial
    memory : keys of files that have been read before
    """

    folder: Path
    names: tuple[str, ...]
    intensity: Intensity = "declared"
    frames: tuple[int, ...] = ()
    window: Window | None = None
    axis: str | None = None
    memory: KeyMemory | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def key(self, row: int) -> bytes:
        def find(kind: Format, path: Path, what: str, frame: int) -> bytes:
            if self.memory is None:
                return kind.key(path, what, frame)
            return self.memory.key(path, kind.remembered(frame), lambda: kind.key(path, what, frame))

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
            return question(across(find_format(path), self.axis) or _PICTURE, path, what, frame)
        except FileNotFoundError as exc:
            if path.is_symlink():
                target = path.readlink()
                raise DataError(f"{what} is a link to nothing ('{target}'): fetch what it leads to.", NOWHERE) from exc
            raise DataError(f"{what} in '{self.folder}' cannot be read: {exc.strerror}.", UNREADABLE) from exc
        except OSError as exc:
            reason = exc.strerror or type(exc).__name__
            raise DataError(f"{what} in '{self.folder}' cannot be read: {reason}.", UNREADABLE) from exc
