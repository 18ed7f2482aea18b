"""How a store's files are listed, read and written: a POSIX folder, objects, or a server that renames.

All three guarantee that an existing name is complete. A folder and a server get there by writing beside and
renaming, an object store by one PUT.
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from ...errors import CacheCorrupt
from ...format.plain_files import read_plain
from ...machine.drafts import drafted
from ...machine.permission import FOLDER_BITS, mode_for_new, require_writable, share

__all__ = ["Files", "Folder", "Objects", "Server", "Stat"]


_TRIES = 10


class Stat(NamedTuple):
    """What a listing says of a name: its bytes, when it was modified by the server's clock, and what it is."""

    bytes: int
    modified: float | None
    kind: str  # file, folder or other


class Files(Protocol):
    """What a store needs. Names are relative, with slashes, and made by `layout` alone."""

    read_only: bool
    can_list: bool

    def names(self, folder: str) -> Mapping[str, Stat]:
        """Return what stands in a folder; nothing if the folder is not there."""
        ...

    def read(self, name: str, limit: int) -> bytes:
        """Return a whole file, of which no more than `limit` + 1 bytes are read, or raise FileNotFoundError."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file in one step, replacing what is there."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def remove_folder(self, name: str) -> None:
        """Remove an empty folder, where there are folders at all."""
        ...

    def require_writable(self, folders: tuple[str, ...]) -> None:
        """Raise PermissionError if these folders are known to be read-only without trying to write."""
        ...


def _draft(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}.{last}.{secrets.token_hex(4)}.draft"


class Folder:
    """A folder of this machine or of a mount."""

    read_only = False
    can_list = True

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, folder: str) -> Mapping[str, Stat]:
        found = {}
        try:
            with os.scandir(self._inside(folder)) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # removed just now
                        found[entry.name] = _stat(entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            return {}
        return found

    def read(self, name: str, limit: int) -> bytes:
        return read_plain(self._inside(name), limit, f"object '{name}'")

    def write(self, name: str, data: bytes) -> None:
        path, draft = self._inside(name), self._inside(_draft(name))
        mode = mode_for_new(self.root)
        with drafted(path, draft), self._create(draft, mode) as file:
            share(draft, mode, self.root.stat().st_gid)
            file.write(data)

    def _create(self, draft: Path, mode: int | None) -> BinaryIO:
        for _ in range(_TRIES):
            self._make(draft.parent, mode)
            # A collector may just have removed the folder, as it was empty.
            with suppress(FileNotFoundError):
                return draft.open("xb")
        return draft.open("xb")

    def _make(self, folder: Path, mode: int | None) -> None:
        """Make a folder of the store, and the store's own, with the mode bits of its group."""
        if folder.is_dir():
            return
        group = self.root.stat().st_gid if folder != self.root and self.root.exists() else None
        if folder == self.root:
            folder.parent.mkdir(parents=True, exist_ok=True)
        else:
            self._make(folder.parent, mode)
        with suppress(FileExistsError):
            folder.mkdir()
            share(folder, mode, folder.stat().st_gid if group is None else group)

    def remove(self, name: str) -> None:
        path = self._inside(name)
        path.unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        # Somebody may have written into it meanwhile, or removed it too.
        with suppress(OSError):
            self._inside(name).rmdir()

    def require_writable(self, folders: tuple[str, ...]) -> None:
        require_writable(self.root, folders)

    def _inside(self, name: str) -> Path:
        """Return a name's path; a folder on the way that is a link could lead anywhere."""
        path = self.root / name
        for parent in (path.parent, path.parent.parent):
            if parent != self.root and self.root in parent.parents and parent.is_symlink():
                raise CacheCorrupt(f"'{parent}' is a symbolic link; a store holds plain files and folders only.")
        return path


def _stat(status: os.stat_result) -> Stat:
    mode = status.st_mode
    kind = "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"
    return Stat(status.st_size, status.st_mtime, kind)


class Objects:
    """Objects under a prefix, or pages under an address, which are read only."""

    def __init__(self, filesystem: Any, root: str, *, read_only: bool) -> None:
        self._fs, self._root = filesystem, root.rstrip("/")
        self.read_only = read_only
        self.can_list = not read_only

    def names(self, folder: str) -> Mapping[str, Stat]:
        path = f"{self._root}/{folder}".rstrip("/")
        try:
            listed = self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        return {last: _listed(item) for item in listed if (last := item["name"].rstrip("/").rpartition("/")[2])}

    def read(self, name: str, limit: int) -> bytes:
        path = f"{self._root}/{name}"
        if self.read_only:
            # A page server need not keep to a range; what it sends beyond the limit is not read.
            try:
                with self._fs.open(path, "rb", block_size=0) as file:
                    return _read_to(file, limit + 1)
            except FileNotFoundError as error:
                # fsspec says so of servers that it cannot reach as well.
                why = error.__cause__
                if why is None or isinstance(why, FileNotFoundError) or getattr(why, "status", None) == 404:
                    raise
                raise ConnectionError(str(why) or type(why).__name__) from error
        return bytes(self._fs.cat_file(path, start=0, end=limit + 1))

    def write(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{name}", data)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")

    def remove_folder(self, name: str) -> None:
        """Do nothing: folders of objects are their names."""

    def require_writable(self, folders: tuple[str, ...]) -> None:
        """Do nothing: what keys allow is told by trying."""


class Server:
    """Files on a server that renames: SFTP, SMB. Each thread has a connection of its own."""

    read_only = False
    can_list = True

    def __init__(self, connect: Any, root: str) -> None:
        self._connect, self._root = connect, root.rstrip("/")
        self._own = threading.local()
        self._made: set[str] = set()
        self._fs()  # who cannot connect shall learn it now

    def _fs(self) -> Any:
        if not hasattr(self._own, "fs"):
            self._own.fs = self._connect()
        return self._own.fs

    def names(self, folder: str) -> Mapping[str, Stat]:
        try:
            listed = self._fs().ls(f"{self._root}/{folder}".rstrip("/"), detail=True)
        except FileNotFoundError:
            return {}
        return {item["name"].rstrip("/").rpartition("/")[2]: _listed(item) for item in listed}

    def read(self, name: str, limit: int) -> bytes:
        with self._fs().open(f"{self._root}/{name}", "rb") as file:
            # paramiko asks for one block after the other otherwise, each a way there and back.
            if hasattr(file, "prefetch"):
                size = file.stat().st_size or 0
                file.prefetch(min(size, limit + 1))
            return _read_to(file, limit + 1)

    def write(self, name: str, data: bytes) -> None:
        fs, path, draft = self._fs(), f"{self._root}/{name}", f"{self._root}/{_draft(name)}"
        folder = path.rpartition("/")[0]
        self._make(fs, folder)
        try:
            try:
                self._put(fs, draft, data)
            except FileNotFoundError:  # a collector has just removed the folder, as it was empty
                self._made.discard(folder)
                self._make(fs, folder)
                self._put(fs, draft, data)
            with suppress(OSError):
                fs.ftp.chmod(draft, fs.ftp.stat(self._root).st_mode & 0o666)
            fs.mv(draft, path)
        except BaseException:
            with suppress(Exception):
                fs.rm_file(draft)
            raise

    def _make(self, fs: Any, folder: str) -> None:
        """Make a folder of the store with the mode bits of the store's own, as `Folder` does."""
        if folder in self._made:
            return
        with suppress(OSError):  # it is there, or writing says why not
            if folder == self._root:
                fs.makedirs(folder, exist_ok=True)
            else:
                self._make(fs, folder.rpartition("/")[0])
                fs.ftp.mkdir(folder)
                fs.ftp.chmod(folder, fs.ftp.stat(self._root).st_mode & FOLDER_BITS)
        self._made.add(folder)

    @staticmethod
    def _put(fs: Any, path: str, data: bytes) -> None:
        with fs.open(path, "wb") as file:
            if hasattr(file, "set_pipelined"):
                file.set_pipelined(True)
            file.write(data)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._fs().ftp.remove(f"{self._root}/{name}")

    def remove_folder(self, name: str) -> None:
        self._made.discard(f"{self._root}/{name}")
        with suppress(OSError):
            self._fs().rmdir(f"{self._root}/{name}")

    def require_writable(self, folders: tuple[str, ...]) -> None:
        """Do nothing: what the server allows is told by trying."""


def _listed(item: Mapping[str, Any]) -> Stat:
    kind = {"file": "file", "directory": "folder"}.get(str(item.get("type")), "other")
    modified = next(
        (value for name in ("mtime", "LastModified", "updated", "last_modified") if (value := item.get(name))), None
    )
    if isinstance(modified, datetime):
        modified = modified.timestamp()
    return Stat(int(item.get("size") or 0), modified if isinstance(modified, int | float) else None, kind)


def _read_to(file: Any, most: int) -> bytes:
    parts, left = [], most
    while left > 0 and (block := file.read(left)):
        parts.append(block)
        left -= len(block)
    return b"".join(parts)
