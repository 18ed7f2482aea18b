"""The work directory: stage one keeps computed chunks here until the cache is sealed.

It stands beside the target, `OUT.work`, and holds `work.json` (what is being computed, and how) and one file a chunk
of rows. A chunk file is written beside, flushed, and renamed to a name that carries its count of rows and its own
digest: a name that is there is a chunk that is whole, so the folder's listing is the record of what is finished, and
it is atomic. A chunk of fewer rows than were planned for it lacks those whose images could not be read.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import CacheCorrupt
from ..format.digest import canonical_json
from ..format.manifest import MAX_BYTES, parse_json
from ..format.plain_files import read_plain
from ..machine.drafts import write_file
from ..machine.system_files import is_system_file, is_system_folder
from .writer import remove

__all__ = ["Chunk", "ChunkedRows", "WorkDirectory", "work_path"]

_SETTINGS = "work.json"
_DRAFT = re.compile(r"\..*\.part")
_CHUNK = re.compile(r"(train|val|test)-(\d{9})-(\d+)-([0-9a-f]{16})\.npy")


def work_path(target: Path) -> Path:
    """Return the work directory of a target."""
    return target.with_name(target.name + ".work")


class Chunk(NamedTuple):
    """A finished chunk: its file, and how many rows it has."""

    file: Path
    rows: int


@dataclass(frozen=True)
class WorkDirectory:
    """Durable chunks of rows, each a structured array (n,) of `record`, addressed by split and first row."""

    path: Path

    def read_settings(self) -> Mapping[str, Any] | None:
        """Return what is being computed here, or None if nothing was started."""
        try:
            record = "work directory's record"
            return parse_json(read_plain(self.path / _SETTINGS, MAX_BYTES, record), record)
        except (FileNotFoundError, NotADirectoryError, CacheCorrupt):
            return None

    def is_strange(self) -> bool:
        """Tell whether something here was not made by medal: it is never touched."""
        if not self.path.is_dir():
            return self.path.exists()
        return not all(_is_part(file) for file in self.path.iterdir())

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Start anew: empty the directory, then write down what is to be computed, before the first chunk."""
        self.remove()
        self.path.mkdir(parents=True, exist_ok=True)
        self.note(settings)

    def note(self, settings: Mapping[str, Any]) -> None:
        """Replace the record of the work in one step."""
        self._write(_SETTINGS, canonical_json(settings))

    def chunks(self) -> dict[tuple[str, int], Chunk]:
        """Return the finished chunks by (split, first row planned); what is damaged or half written is removed."""
        found: dict[tuple[str, int], Chunk] = {}
        for file in sorted(self.path.iterdir()):
            match = _CHUNK.fullmatch(file.name)
            if match and _digest(file.read_bytes()) == match[4]:
                found[match[1], int(match[2])] = Chunk(file, int(match[3]))
            elif match or _DRAFT.fullmatch(file.name):
                remove(file)
        return found

    def count(self) -> tuple[int, int]:
        """Return how many chunks there are and how many rows they have, by their names; nothing is read or removed."""
        rows = [int(match[3]) for file in self.path.iterdir() if (match := _CHUNK.fullmatch(file.name))]
        return len(rows), sum(rows)

    def write_chunk(self, split: str, start: int, rows: npt.NDArray[Any]) -> Chunk:
        """Make a chunk durable."""
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        data = buffer.getvalue()
        return Chunk(self._write(f"{split}-{start:09d}-{len(rows)}-{_digest(data)}.npy", data), len(rows))

    def scratch(self, name: str) -> Path:
        """Return a file for what can be made again; the next look at the chunks removes it."""
        return self.path / f".{name}.part"

    def remove(self) -> None:
        """Remove the directory, except files that medal did not make and files that a file server still holds open."""
        if self.path.is_symlink() or not self.path.is_dir():
            remove(self.path)
            return
        for file in filter(_is_part, list(self.path.iterdir())):
            try:
                remove(file)
            except OSError:
                if not is_system_file(file.name):
                    raise
        try:
            self.path.rmdir()
        except OSError:
            if not any(self.path.iterdir()):
                raise

    def _write(self, name: str, data: bytes) -> Path:
        write_file(self.path / name, data)
        return self.path / name


def _is_part(file: Path) -> bool:
    """Tell whether something in a work directory was made by medal or the operating system and may be deleted."""
    if is_system_file(file.name):
        return not file.is_symlink() and not file.is_dir()
    if is_system_folder(file.name):
        return not file.is_symlink() and file.is_dir()
    return file.name == _SETTINGS or any(pattern.fullmatch(file.name) for pattern in (_CHUNK, _DRAFT))


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]


class ChunkedRows:
    """One field of consecutive chunk files, as an array that is read by slice and never whole.

    Parameters
    ----------
    chunks : in the order of their rows
    field : name of the record's field
    """

    def __init__(self, chunks: Sequence[Chunk], field: str) -> None:
        # A chunk none of whose images could be read is an empty file, which cannot be mapped.
        chunks = [chunk for chunk in chunks if chunk.rows]
        self._files, self._field = [chunk.file for chunk in chunks], field
        self._starts = np.cumsum([0, *(chunk.rows for chunk in chunks)])
        first = self._open(0)
        self.dtype: np.dtype[Any] = first.dtype
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *first.shape[1:])

    def _open(self, index: int) -> npt.NDArray[Any]:
        # Opened for each use: a mapping holds a file descriptor, and large sets have more chunks than a process may.
        chunk: npt.NDArray[Any] = np.load(self._files[index], mmap_mode="r", allow_pickle=False)[self._field]
        return chunk

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        return (
            np.concatenate(list(self._parts(start, stop)))
            if stop > start
            else np.empty((0, *self.shape[1:]), self.dtype)
        )

    def _parts(self, start: int, stop: int) -> Iterator[npt.NDArray[Any]]:
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        for index in range(first, len(self._files)):
            offset = int(self._starts[index])
            if offset >= stop:
                return
            yield np.array(self._open(index)[max(0, start - offset) : stop - offset])
