"""Files that appear complete: a draft is written, flushed and renamed. So an existing name is a complete file."""

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
    draft : its name; the default is one per file, for a process that holds a lock or is the only writer
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
    """Make the names in a folder durable. Some network mounts cannot do that; their error is ignored."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
