"""Images in files: their keys and their pixels, one at a time, on any thread or worker process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.keys import file_key
from ....cache.system_files import is_system_file
from ..columns.dataset import UNREADABLE, DatasetOptions, Intensity, Place, Window
from .file_kinds import DICOM, PICTURES, kind_of_content, kind_of_name, suffix_of
from .key_memory import KeyMemory

__all__ = ["FORMATS", "Facts", "FileImages", "Format", "Listing", "find_format", "list_images"]

Pixels = npt.NDArray[Any]
T = TypeVar("T")

# Headers are read from network shares as well, where waiting is all that it costs.
_HEADER_THREADS = 8
NOWHERE, LOCALIZERS = "link to nothing", "localizers"  # why a file is left out


class Facts(NamedTuple):
    """What a file's header says before any image is read.

    Attributes
    ----------
    frames : how many images it has
    patient : a code that is equal for equal patients in this process alone; empty where none is named
    no_image : what the file is instead of an image of the study, for instance ``segmentations``
    """

    frames: int = 1
    patient: bytes = b""
    no_image: str | None = None


class Format(NamedTuple):
    """How files of one kind are read; a frame is counted from 0.

    Attributes
    ----------
    facts : what a file's header says; None = one image a file, and nothing else
    key : content key of a frame; the text names the image, for messages
    decode : pixels of a frame, as `Images.read` returns them
    """

    facts: Callable[[Path], Facts] | None
    key: Callable[[Path, str, int], bytes]
    decode: Callable[[Path, str, int, Intensity, Window | None], Pixels]


def _picture_key(path: Path, _what: str, _frame: int) -> bytes:
    return file_key(path.read_bytes())


def _decode_picture(path: Path, what: str, _frame: int, intensity: Intensity, _window: Window | None) -> Pixels:
    from .picture import decode_picture  # Pillow is not paid for by a run that only needs keys

    return decode_picture(path.read_bytes(), what, intensity)


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


_PICTURE = Format(None, _picture_key, _decode_picture)
_DICOM = Format(_dicom_facts, _dicom_key, _decode_dicom)

# By suffix, in lower case.
FORMATS = dict.fromkeys(PICTURES, _PICTURE) | dict.fromkeys(DICOM, _DICOM)
_BY_KIND = {"picture": _PICTURE, "dicom": _DICOM}


def find_format(path: Path) -> Format | None:
    """Tell how a file is read, None if it is no image that is known.

    That goes by suffix. A file without one, with a number for one as in 1.2.840.113619, or with one that is not known,
    is what its first bytes say; the directory of a disc also says that it is DICOM, but has no image.
    """
    kind = kind_of_name(path.name)
    if kind == "unknown" and not is_system_file(path.name):
        kind = kind_of_content(path)
    return _BY_KIND.get(kind)


@dataclass(frozen=True)
class FileImages:
    """Image files by name under a folder.

    Attributes
    ----------
    folder : where the names start
    names : one a row, with forward slashes; a name may repeat, leave the folder or be absolute
    frames : one a row: which frame of a file of several, counted from 1 as DICOM counts, 0 where a file has only one
        image; may be empty if that is all of them
    window : centre and width for all DICOM files, instead of their own
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
    names : (N,) the files listed
    patients : (N,) of the files listed, as `Facts.patient`; empty where no file names one
    left : files that are DICOM and no image of the study, by what they are; no image is of them
    """

    images: FileImages
    place: npt.NDArray[np.int64]
    names: tuple[str, ...] = ()
    patients: tuple[bytes, ...] = ()
    left: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def group(self, group: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return (M,) int64 groups of the images, from (N,) of the files: frames of one file are always in one."""
        group = group[self.place]
        if not self.images.frames:
            return group
        alone = np.flatnonzero((group < 0) & (np.array(self.images.frames, np.int64) > 0)).tolist()
        first = int(group.max(initial=-1)) + 1
        names = [self.images.names[row] for row in alone]
        number = {name: index for index, name in enumerate(dict.fromkeys(names), first)}
        group[alone] = [number[name] for name in names]
        return group


def list_images(
    folder: Path, names: Sequence[str], options: DatasetOptions, what: str, frames: Sequence[str] | None = None
) -> Listing:
    """Make a row of every frame; of DICOM files the headers are read, of others nothing.

    Parameters
    ----------
    names : (N,) files under the folder
    frames : (N,) of a file that has several, the number of the only one wanted, counted from 1; empty = all

    Raises
    ------
    DataError
        There is no pydicom to read DICOM files with, no DICOM file for a window, or no frame of that number.
    """
    formats = [FORMATS.get(suffix_of(name)) or find_format(folder / name) for name in names]
    dicom = [(row, kind.facts) for row, kind in enumerate(formats) if kind is not None and kind.facts is not None]
    if options.window is not None and not dicom:
        raise DataError(f"{what} has no DICOM file for --window; leave that option out.")
    wanted = [[0]] * len(names)
    patients = [b""] * len(names)
    left: dict[str, list[str]] = {}
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        facts = list(pool.map(lambda item: item[1](folder / names[item[0]]), dicom))
    for (row, _), (count, patient, no_image) in zip(dicom, facts, strict=True):
        patients[row] = patient
        if no_image is not None and (no_image != LOCALIZERS or options.skip_localizers):
            left.setdefault(no_image, []).append(names[row])
            wanted[row] = []
            continue
        asked = frames[row] if frames is not None else ""
        if asked and not (asked.isdecimal() and 1 <= int(asked) <= count):
            raise DataError(
                f"{what} asks for frame '{asked}' of file '{names[row]}', which has {count}; expected 1 to {count}, or "
                "empty = all of them."
            )
        if count > 1:
            wanted[row] = [int(asked)] if asked else list(range(1, count + 1))
    place = np.repeat(np.arange(len(names)), [len(part) for part in wanted])
    numbers = tuple(frame for part in wanted for frame in part)
    images = FileImages(
        folder,
        tuple(names[row] for row in place.tolist()),
        options.intensity,
        numbers if any(numbers) else (),
        options.window,
    )
    named = tuple(patients) if any(patients) else ()
    gone = {kind: tuple(files) for kind, files in left.items()}
    return Listing(images, place, tuple(names), named, gone)
