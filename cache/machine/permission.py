"""Permissions in a shared folder: modes of new files, and messages if access is denied."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from contextlib import suppress
from pathlib import Path

from ..errors import MedalError

__all__ = [
    "FOLDER_BITS",
    "is_denied",
    "mode_for_new",
    "require_place",
    "require_writable",
    "share",
    "share_as_parent",
    "why_denied",
]

# Not the sticky bit: in a folder that has it nobody can replace the index that somebody else wrote.
FOLDER_BITS = 0o777 | stat.S_ISGID


def mode_for_new(root: Path) -> int | None:
    """Return the mode bits that folders of a store take, whatever the umask; None = those that the umask leaves.

    They are those of the store's folder. A new store takes those of its parent folder, if that is set up for a group.
    """
    status = (root if root.exists() else _nearest(root.parent)).stat()
    if not root.exists() and not status.st_mode & stat.S_ISGID:
        return None
    return status.st_mode & FOLDER_BITS


def share(path: Path, mode: int | None, group: int) -> None:
    """Give a new file or folder of this process the mode bits and the group of a store."""
    if mode is None:
        return
    # Some mounts have no modes, and who is not of the group cannot give to it; what follows from that is told later.
    with suppress(OSError):
        if path.stat().st_gid != group:
            os.chown(path, -1, group)
    with suppress(OSError):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def share_as_parent(path: Path) -> None:
    """Give a new folder, and all in it, the group and mode of its parent folder, if that is set up for a group."""
    parent = path.absolute().parent
    status = parent.stat()
    if status.st_mode & stat.S_ISGID:
        for one in (path, *path.rglob("*")):
            share(one, status.st_mode & FOLDER_BITS, status.st_gid)


def require_place(target: Path) -> None:
    """Refuse, before anything is computed, a place where this process may not write or replace the content.

    Raises
    ------
    MedalError
        With what the owner can run.
    """
    folders = [_nearest(target.absolute().parent)]
    if target.is_dir() and not target.is_symlink():
        folders += [target, *(Path(place, name) for place, names, _ in os.walk(target) for name in names)]
    try:
        for folder in folders:
            _require_folder(folder)
        _require_own_in_sticky(target, folders[0])
    except OSError as error:
        raise MedalError(f"'{target}' cannot be written{why_denied(error)}. Nothing was done.") from error


def _require_own_in_sticky(target: Path, parent: Path) -> None:
    if not hasattr(os, "geteuid") or not os.path.lexists(target) or not parent.stat().st_mode & stat.S_ISVTX:
        return
    if os.geteuid() not in (0, target.lstat().st_uid, parent.stat().st_uid):
        raise PermissionError(errno.EPERM, "in a folder with the sticky bit only its owner may replace it", str(target))


def require_writable(root: Path, folders: tuple[str, ...]) -> None:
    """Raise PermissionError if this process may not write into a store's folder or one of those in it."""
    for folder in (_nearest(root), *(root / name for name in folders)):
        if folder.exists():
            _require_folder(folder)


def _require_folder(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY if hasattr(os, "statvfs") else 0
        code = errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(folder))


def is_denied(error: BaseException) -> bool:
    """Tell whether an error means that permission was denied."""
    return isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS)


def why_denied(error: BaseException) -> str:
    """Say why access is denied, and what the owner can run: the end of a message "… denies access to …"."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str) or not hasattr(os, "geteuid"):
        return f" ({type(error).__name__}: {error}); ask whoever keeps it for access"
    path = _nearest(Path(error.filename))
    if error.errno == errno.EROFS:
        return (
            f": '{path}' is mounted read only here; it can be listed and pulled from, and changed where it is mounted "
            "for writing"
        )
    status = path.stat()
    owner, group = _user_name(status.st_uid), _group_name(status.st_gid)
    quoted = shlex.quote(str(path))
    if error.errno == errno.EPERM and error.strerror:
        return f": {error.strerror}, '{owner}'; ask them, or take another place"
    says = f": '{path}' belongs to '{owner}' and group '{group}' with mode {stat.filemode(status.st_mode)}, and you are"
    if status.st_gid not in (os.getegid(), *os.getgroups()):
        return f"{says} '{_user_name(os.geteuid())}', who is not in that group; ask to be added to it"
    remedy = f"chmod g+rwxs {quoted}" if path.is_dir() else f"chmod g+rw {quoted}"
    return f"{says} '{_user_name(os.geteuid())}'; ask '{owner}' to run: {remedy}"


def _nearest(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists and can be read."""
    for one in (path, *path.absolute().parents):
        with suppress(OSError):
            one.stat()
            return one
    return Path(path.anchor)


def _user_name(number: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):  # Windows; or the server's users are not known here
        return str(number)


def _group_name(number: int) -> str:
    try:
        import grp

        return grp.getgrgid(number).gr_name
    except (ImportError, KeyError):
        return str(number)
