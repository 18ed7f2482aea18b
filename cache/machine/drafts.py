"""Files that appear whole: written beside, flushed, and renamed; so a name that is there is a file that is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["drafted", "sync_folder", "write_file"]


@contextmanager
def drafted(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """Yield the name of a draft beside a file; it takes the file's place, durably, at the end, and goes after an error.

    Parameters
    ----------
    draft : its name; by default one per file, for whoever holds a lock or is alone there
    """
    draft = path.with_name(f".{path.name}.part") if draft is None else draft
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    sync_folder(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Write a small file durably and in one step."""
    with drafted(path) as draft:
        draft.write_bytes(data)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. File systems that cannot (some network mounts) say so; that is theirs."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
