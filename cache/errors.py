"""The errors of medal, all of them.

MedalError
├── CacheError
│   ├── CacheBusy          (BlockingIOError)    another process is making it
│   ├── CacheNotFound      (FileNotFoundError)  nothing there
│   ├── CacheIncomplete    (ValueError)         no seal: stage one did not finish
│   ├── CacheMismatch      (ValueError)         sealed, but made from something else than asked for
│   ├── CacheCorrupt       (ValueError)         sealed, but its bytes are not what the seal says
│   └── StoreUnusable      (OSError)            a store cannot be reached, or does not let this user in
├── DataError              (ValueError)         images, labels, splits
├── TeacherError           (ValueError)         the teacher's files or what it computes
└── StudentError           (ValueError)         the student's model, run folder or settings

A message says what (quoted), what was expected, what was found, what was done about it and what to do
next, as an exact command where there is one. The command line prints it without a traceback and exits 1.
"""

from __future__ import annotations

__all__ = [
    "CacheBusy",
    "CacheCorrupt",
    "CacheError",
    "CacheIncomplete",
    "CacheMismatch",
    "CacheNotFound",
    "DataError",
    "MedalError",
    "StoreUnusable",
    "StudentError",
    "TeacherError",
    "first_line",
]


class MedalError(Exception):
    """Anything medal refuses, with the remedy in the message."""


class CacheError(MedalError):
    """A cache cannot be used."""


class CacheBusy(CacheError, BlockingIOError):
    """Another process is making the cache."""


class CacheNotFound(CacheError, FileNotFoundError):
    """There is no cache at the path given."""


class CacheIncomplete(CacheError, ValueError):
    """The cache has no seal: stage one has not finished it."""


class CacheMismatch(CacheError, ValueError):
    """The cache is sound but does not fit what it was asked for."""


class CacheCorrupt(CacheError, ValueError):
    """The cache's bytes are not what its seal says."""


class StoreUnusable(CacheError, OSError):
    """A store cannot be reached, or does not let this user do what was asked."""


class DataError(MedalError, ValueError):
    """A dataset cannot be read, or contradicts itself.

    Attributes
    ----------
    reason : what is wrong with an image that cannot be used, in a word or two, for counts
    """

    def __init__(self, message: str, reason: str = "unusable values") -> None:
        super().__init__(message)
        self.reason = reason


class TeacherError(MedalError, ValueError):
    """The teacher cannot be loaded, or computes nonsense."""


class StudentError(MedalError, ValueError):
    """The student or its run folder cannot be used."""


def first_line(error: Exception) -> str:
    """Return the first line of another library's error, shortened and without a full stop, for use in a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
