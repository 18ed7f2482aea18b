"""Images in files: their keys and their pixels, one file at a time, on any thread or worker process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from ...cache.errors import DataError
from ...cache.keys import file_key
from .dataset import UNREADABLE, Intensity

__all__ = ["FORMATS", "FileImages", "Format"]

Pixels = npt.NDArray[Any]


def _decode_picture(content: bytes, what: str, intensity: Intensity) -> Pixels:
    from .picture import decode_picture  # Pillow is not paid for by a run that only needs keys

    return decode_picture(content, what, intensity)


class Format(NamedTuple):
    """How files of one kind are read: both functions get the whole content of a file."""

    key: Callable[[bytes], bytes]
    decode: Callable[[bytes, str, Intensity], Pixels]


_PICTURE = Format(file_key, _decode_picture)

# By suffix, in lower case. DICOM joins here, with a key and a decoder of its own.
FORMATS = dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), _PICTURE)


@dataclass(frozen=True)
class FileImages:
    """Image files by name under a folder.

    Attributes
    ----------
    folder : where the names start
    names : one a row, with forward slashes; a name may repeat, leave the folder or be absolute
    """

    folder: Path
    names: tuple[str, ...]
    intensity: Intensity = "declared"

    def __len__(self) -> int:
        return len(self.names)

    def key(self, row: int) -> bytes:
        return self._format(row).key(self._content(row))

    def read(self, row: int) -> Pixels:
        return self._format(row).decode(self._content(row), self.describe(row), self.intensity)

    def describe(self, row: int) -> str:
        return f"file '{self.names[row]}'"

    def _format(self, row: int) -> Format:
        # A table may name any file; what has no known suffix may still be a picture.
        return FORMATS.get(Path(self.names[row]).suffix.lower(), _PICTURE)

    def _content(self, row: int) -> bytes:
        try:
            return (self.folder / self.names[row]).read_bytes()
        except OSError as exc:
            reason = exc.strerror or type(exc).__name__
            raise DataError(f"{self.describe(row)} in '{self.folder}' cannot be read: {reason}.", UNREADABLE) from exc
