"""Keeping what can be made or fetched again within bounds: what was used longest ago goes first."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

__all__ = ["make_room"]


def make_room(found: Collection[tuple[float, int, Path]], most: int, take: Callable[[Path], bool]) -> None:
    """Take things away, those used longest ago first, until the rest fits.

    Parameters
    ----------
    found : when each was used last, how many bytes it has, and where it is
    most : bytes that may stay
    take : removes one, or leaves it for a reason of its own; tells whether it is gone
    """
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        if take(path):
            total -= size
