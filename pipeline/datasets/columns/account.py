"""What was found where a dataset lies, what of it is used, and what is not and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["CLASS_LEFT_OUT", "Account"]

CLASS_LEFT_OUT = "of classes left out"  # a reason

Unit = Literal["files", "rows"]


@dataclass(frozen=True, kw_only=True)
class Account:
    """Every file, or every row of a table, of a dataset: used or left out.

    Attributes
    ----------
    unit : what is counted
    found : how many there are, outside `system` folders
    used : how many of them the dataset reads
    left : names by the reason for which they are left out, with forward slashes
    beside : files under folders of images that no row of a table names, by what they are
    system : files and folders that belong to a system (``Thumbs.db``, ``__MACOSX``), which are not looked into
    """

    unit: Unit
    found: int
    used: int
    left: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    system: int = 0

    @property
    def left_out(self) -> int:
        """How many are not used."""
        return sum(map(len, self.left.values()))

    def __str__(self) -> str:
        """Say it in one line."""
        line = f"{self.found} {self.unit if self.found != 1 else self.unit[:-1]} found, {self.used} used"
        if self.left_out:
            line += f", {self.left_out} left out ({_listed(self.left)})"
        if self.beside:
            line += f"; beside them {sum(map(len, self.beside.values()))} files ({_listed(self.beside)})"
        if self.system:
            line += f"; {self.system} of the system's own (hidden files, __MACOSX and the like) not looked into"
        return line

    def to_dict(self) -> dict[str, object]:
        """Return the counts, for JSON."""
        left, beside = ({reason: len(names) for reason, names in part.items()} for part in (self.left, self.beside))
        return {
            "unit": self.unit,
            "found": self.found,
            "used": self.used,
            "left_out": left,
            "beside": beside,
            "system": self.system,
        }


def _listed(parts: Mapping[str, tuple[str, ...]]) -> str:
    by_count = sorted(parts.items(), key=lambda item: (-len(item[1]), item[0]))
    return "; ".join(f"{reason} {len(names)}, for instance '{min(names)}'" for reason, names in by_count)
