"""How a long job says where it is: it calls back, and prints nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Advance", "Alert", "Progress", "Tell", "silent"]

Advance = Callable[[int], None]  # called with the number of units finished since the last call
Tell = Callable[[str], None]  # called with a sentence that is not the result


class Alert(str):
    """A sentence that warns: whoever is told it may show it otherwise than news."""

    __slots__ = ()


class Progress(Protocol):
    """Begins to show a job of `total` units, of which `done` are done; what it yields is told of the others."""

    def __call__(self, what: str, total: int, done: int = 0, /) -> AbstractContextManager[Advance]: ...


@contextmanager
def silent(_what: str, _total: int, _done: int = 0) -> Iterator[Advance]:
    """Show no progress."""
    yield lambda _: None
