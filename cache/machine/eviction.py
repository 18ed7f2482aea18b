"""Limits the size of files that can be made or fetched again: the least recently used are deleted first."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

__all__ = ["make_room"]


def make_room(found: Collection[tuple[float, int, Path]], most: int, take: Callable[[Path], bool]) -> None:
    """Remove items, the least recently used first, until the rest fits.

    Parameters
    ----------
    found : time of last use, bytes and place of each
    most : bytes that may be kept
    take : removes one item, or decides to keep it; returns whether it is gone
    """
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        if take(path):
            total -= size
