"""Keys of image files that were read before, so that asking again for a dataset does not read it again.

A key is believed only if the file's path, size, inode and time of change, in nanoseconds, are what they were. Nobody
but the file system sets that time, whatever is written and however. A file that was changed within the last two seconds
is not remembered, since it could be changed once more within one tick of a coarse clock.

MEDAL_HOME/keys/FOLDER.keys, FOLDER being a hash of the folder's path: 16 bytes of BLAKE2b of the rest, then records.
No path and no name stands in it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from stat import S_ISREG
from types import TracebackType
from typing import NamedTuple

import numpy as np

from ....cache.machine.drafts import drafted
from ....cache.machine.eviction import make_room
from ....cache.machine.home import home_folder

__all__ = ["KeyMemory"]

_RECORD = np.dtype(
    [("name", "u1", (16,)), ("size", "<u8"), ("inode", "<u8"), ("changed", "<i8"), ("key", "u1", (16,))]
)  # 56 bytes
# Another number whenever a key is made in another way.
_MAGIC = b"medal:keys:1\0"
_SUM_BYTES = 16
_RECENT_NS = 2 * 10**9
# Four million files; of all folders, the ones used longest ago go first.
_MOST_BYTES_OF_ONE, _MOST_BYTES = 1 << 28, 1 << 29
_DRAFT_SECONDS = 86400


class _Stamp(NamedTuple):
    """What must not have changed of a file."""

    size: int
    inode: int
    changed: int


class KeyMemory:
    """What is known of the files of a folder, as a context: what is new is written down at its end.

    Several processes may do so at once: each writes a file of its own and renames it, and the last one counts. Whatever
    cannot be read, written or understood is as if nothing were remembered.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._known: dict[bytes, tuple[_Stamp, bytes]] = {}
        self._new: dict[bytes, tuple[_Stamp, bytes]] = {}

    def __enter__(self) -> KeyMemory:
        with suppress(OSError, RuntimeError):  # RuntimeError: there is no home to be found
            self._known = _parse(self._place().read_bytes())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, RuntimeError):
            place = self._place()
            if self._new:
                _write(place, _to_bytes({**self._known, **self._new}))
                _evict(place)
            elif self._known:
                os.utime(place)

    def key(self, path: Path, frame: int, read: Callable[[], bytes]) -> bytes:
        """Return the key of a frame of a file, read only if it is not known.

        Parameters
        ----------
        frame : counted from 0
        read : reads the file and returns the key
        """
        name = blake2b(os.fsencode(self._folder / path) + b"\0%d" % frame, digest_size=16).digest()
        before = _stamp(path)
        if before is None:
            return read()
        known = self._known.get(name)
        if known is not None and known[0] == before:
            return known[1]
        now = time.time_ns()
        key = read()
        if _stamp(path) == before and before.changed < now - _RECENT_NS:
            self._new[name] = (before, key)
        return key

    def _place(self) -> Path:
        named = blake2b(os.fsencode(self._folder), digest_size=16).hexdigest()
        return home_folder() / "keys" / f"{named}.keys"


def _stamp(path: Path) -> _Stamp | None:
    """Return the stamp of a plain file, None where there is no such thing."""
    if sys.platform == "win32":  # where that time is of the creation
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return _Stamp(status.st_size, status.st_ino, status.st_ctime_ns) if S_ISREG(status.st_mode) else None


def _parse(data: bytes) -> dict[bytes, tuple[_Stamp, bytes]]:
    """Return what a file remembers; nothing, if it is not as it was written."""
    body = data[_SUM_BYTES:]
    if data[:_SUM_BYTES] != _sum(body) or not body.startswith(_MAGIC):
        return {}
    records = np.frombuffer(body, _RECORD, offset=len(_MAGIC))
    names, keys = (np.ascontiguousarray(records[field]).view("V16").reshape(-1).tolist() for field in ("name", "key"))
    stamps = zip(*(records[field].tolist() for field in _Stamp._fields), strict=True)
    return {name: (_Stamp(*stamp), key) for name, stamp, key in zip(names, stamps, keys, strict=True)}


def _to_bytes(known: dict[bytes, tuple[_Stamp, bytes]]) -> bytes:
    # What was found last stands last, and is kept where not all can be.
    kept = list(known.items())[-(_MOST_BYTES_OF_ONE // _RECORD.itemsize) :]
    records = np.zeros(len(kept), _RECORD)
    for field, values in (("name", [name for name, _ in kept]), ("key", [key for _, (_, key) in kept])):
        records[field] = np.frombuffer(b"".join(values), np.uint8).reshape(-1, 16)
    for number, field in enumerate(_Stamp._fields):
        records[field] = [stamp[number] for _, (stamp, _) in kept]
    body = _MAGIC + records.tobytes()
    return _sum(body) + body


def _sum(body: bytes) -> bytes:
    return blake2b(body, digest_size=_SUM_BYTES).digest()


def _write(place: Path, data: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with drafted(place, place.with_name(f".{place.name}.{os.getpid()}.part")) as draft:
        draft.write_bytes(data)


def _evict(keep: Path) -> None:
    """Remove memories used longest ago until the rest fits, and what killed processes were writing."""
    found = []
    for path in keep.parent.iterdir():
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.suffix == ".part" and time.time() - status.st_mtime > _DRAFT_SECONDS:
                path.unlink()
            elif path.suffix == ".keys":
                found.append((status.st_mtime, status.st_size, path))

    def take(path: Path) -> bool:
        if path != keep:
            path.unlink(missing_ok=True)
        return path != keep

    make_room(found, _MOST_BYTES, take)
