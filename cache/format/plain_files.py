"""Reading files and folders that somebody else made: links are not followed, and pipes are not opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from ..errors import CacheCorrupt
from ..machine.system_files import is_system_file, is_system_folder
from .manifest import parse_json

__all__ = ["PROBLEM_LIMIT", "Scan", "is_system", "read_plain"]

Kind = Literal["file", "folder"]

# Whoever sends a folder of a million strange files gets a hundred sentences.
PROBLEM_LIMIT = 100
# Absent on Windows, where links are rare and there are no pipes among files.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_BAD = -1


def read_plain(path: Path, limit: int, what: str) -> bytes:
    """Read a whole regular file of at most `limit` bytes.

    Raises
    ------
    CacheCorrupt
        It is a link, a folder, a pipe or a device, or longer than that.
    OSError
        It cannot be read.
    """
    # Looked at before it is opened: opening a device can do things.
    _check_plain(path.lstat(), limit, what)
    with os.fdopen(os.open(path, _OPEN_FLAGS), "rb") as file:
        _check_plain(os.fstat(file.fileno()), limit, what)
        return file.read(limit)


def _check_plain(status: os.stat_result, limit: int, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CacheCorrupt(f"The {what} {_instead_of_file(status)}; a cache holds plain files and folders only.")
    if status.st_size > limit:
        raise CacheCorrupt(f"The {what} is {status.st_size} bytes long; expected at most {limit}.")


def _instead_of_file(status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if stat.S_ISDIR(status.st_mode):
        return "is a folder, not a file"
    return "is a pipe, socket or device"


def is_system(name: str, mode: int) -> bool:
    """Tell whether a name with this mode, links not followed, is a file or folder of the operating system."""
    return (stat.S_ISREG(mode) and is_system_file(name)) or (stat.S_ISDIR(mode) and is_system_folder(name))


class Scan:
    """A walk over a folder that collects what is wrong with it, as sentences."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []

    @property
    def is_full(self) -> bool:
        """Whether there are so many problems that no more are looked for."""
        return len(self.problems) >= PROBLEM_LIMIT

    def report(self, problem: str) -> None:
        """Note a problem."""
        if not self.is_full:
            self.problems.append(problem)

    def list_folder(self, where: str, kind_of: Callable[[str], Kind | None]) -> Mapping[str, int]:
        """List a folder, reporting every entry that should not be there or is of another kind.

        Files and folders of the operating system are passed over.

        Parameters
        ----------
        where : the folder relative to the root, "" for the root
        kind_of : what an entry of a name should be, None if there should be none

        Returns
        -------
        name → bytes, of every entry that should be there; -1 where it has been reported
        """
        found = {}
        with os.scandir(self.root / where) as entries:
            for entry in entries:
                if self.is_full:
                    break
                kind = kind_of(entry.name)
                status = entry.stat(follow_symlinks=False)
                if kind is None and is_system(entry.name, status.st_mode):
                    continue
                problem = _problem_of(status, kind, entry.name)
                if problem:
                    self.report(f"{_inside(where, entry.name)!r} {problem}.")
                if kind:
                    found[entry.name] = _BAD if problem else status.st_size
        return found

    def require(self, where: str, found: Mapping[str, int], *names: str) -> bool:
        """Report those of some names that were not found; return whether all are there and of the right kind."""
        for name in names:
            if name not in found:
                self.report(f"'{_inside(where, name)}' is missing.")
        return all(found.get(name, _BAD) != _BAD for name in names)

    def read_json(self, name: str, limit: int) -> dict[str, Any] | None:
        """Parse a small JSON file, or report why not."""
        try:
            return parse_json(read_plain(self.root / name, limit, f"file '{name}'"), f"file '{name}'")
        except CacheCorrupt as error:
            self.report(str(error))
            return None


def _inside(where: str, name: str) -> str:
    return f"{where}/{name}" if where else name


def _problem_of(status: os.stat_result, kind: Kind | None, name: str) -> str | None:
    mode = status.st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return f"{_instead_of_file(status)}; a cache holds plain files and folders only"
    if name in (".zarray", ".zgroup", ".zattrs", ".zmetadata"):
        return "belongs to version 2 of Zarr; a cache of format 1 is version 3"
    if kind is None:
        return "does not belong to a cache; remove it if you know where it came from"
    if kind == "folder" and not stat.S_ISDIR(mode):
        return "is a file where a folder should be"
    if kind == "file" and not stat.S_ISREG(mode):
        return "is a folder where a file should be"
    return None
