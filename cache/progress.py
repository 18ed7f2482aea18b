"""Progress of long jobs: they call back and print nothing themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Advance", "Alert", "Progress", "Tell", "silent"]

Advance = Callable[[int], None]  # called with the number of units finished since the last call
Tell = Callable[[str], None]  # called with a sentence that is not the result


class Alert(str):
    """A warning: callbacks may show it differently from other messages."""

    __slots__ = ()


class Progress(Protocol):
    """Starts to show a job of `total` units, of which `done` are finished; yields a function to report the others."""

    def __call__(self, what: str, total: int, done: int = 0, /) -> AbstractContextManager[Advance]: ...


@contextmanager
def silent(_what: str, _total: int, _done: int = 0) -> Iterator[Advance]:
    """Show no progress."""
    yield lambda _: None
