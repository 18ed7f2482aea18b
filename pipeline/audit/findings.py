"""Findings of an audit: one per check, with advice for single rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...cache.text import plural

__all__ = ["Advice", "Finding", "Severity", "count_of"]

# serious: figures are misleading until it is fixed; look: a person should look; fine; left out: not checked.
Severity = Literal["serious", "look", "fine", "left out"]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to do about one row.

    Attributes
    ----------
    row : of the subject
    say : one sentence
    score : rows of a check are ranked by it, highest first; its meaning depends on the check
    related : further rows that it concerns, for instance the copies
    """

    row: int
    say: str
    score: float
    related: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes
    ----------
    check : its name, for scripts
    sentence : what was found, for people
    figures : the same for scripts, JSON values
    advice : rows to look at, the most urgent first
    """

    check: str
    severity: Severity
    sentence: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    advice: tuple[Advice, ...] = ()


def count_of(count: int, one: str, many: str | None = None) -> str:
    """Say a number with its noun: ``1 image``, ``3 images``."""
    return f"{count:,} {plural(count, one, many)}"
