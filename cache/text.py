"""Text that is safe to show: names come from whoever made a cache or shares a folder."""

from __future__ import annotations

__all__ = ["plain", "plural"]


def plain(text: str) -> str:
    """Escape what would steer a terminal: names come from whoever made a cache or shares a folder."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a noun as its number asks for: ``class`` or ``classes``."""
    if count == 1:
        return one
    return many or one + ("es" if one.endswith("s") else "s")
