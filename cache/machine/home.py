"""Folder for files that medal can make or fetch again, and paths below a user's home folder."""

from __future__ import annotations

import os
import sys
from os import PathLike, fspath
from pathlib import Path

__all__ = ["expand_home", "home_folder"]


def expand_home(path: str | PathLike[str]) -> str:
    """Return a path with ~ or ~USER expanded, in case it was quoted and the shell did not."""
    return os.path.expanduser(fspath(path))  # noqa: PTH111 - words that are no paths come by here


def home_folder() -> Path:
    """Return medal's folder: ``MEDAL_HOME``, else one inside the platform's cache folder. It need not exist yet."""
    if named := os.environ.get("MEDAL_HOME"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "medal" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "medal"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medal"
