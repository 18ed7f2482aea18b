"""Text that is safe to show: names come from whoever made a cache or shares a folder."""

from __future__ import annotations

__all__ = ["plain"]


def plain(text: str) -> str:
    """Escape what would steer a terminal: names come from whoever made a cache or shares a folder."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
