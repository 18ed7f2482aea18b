"""Text that is safe to show: names come from whoever made a cache or shares a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["plain", "plural", "quoted", "say_scores"]


def plain(text: str) -> str:
    """Escape control characters: names may come from other people's caches and folders."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a noun in the singular or plural: ``class`` or ``classes``."""
    if count == 1:
        return one
    return many or one + ("es" if one.endswith("s") else "s")


def quoted(names: Sequence[str], most: int = 20) -> str:
    """Write names for a message, the first `most` of them."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def say_scores(figures: Mapping[str, Any]) -> str:
    """Return AUROC and accuracy in words, as ``auroc 0.9123, accuracy undefined``."""
    values = {name: figures.get(name) for name in ("auroc", "accuracy")}
    return ", ".join(
        f"{name} {format(value, '.4f') if isinstance(value, int | float) else 'undefined'}"
        for name, value in values.items()
    )
