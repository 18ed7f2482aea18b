"""Where medal keeps what it can make or fetch again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["home_folder"]


def home_folder() -> Path:
    """Return medal's folder: ``MEDAL_HOME``, else one inside the platform's cache folder. It need not exist yet."""
    if named := os.environ.get("MEDAL_HOME"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "medal" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "medal"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medal"
