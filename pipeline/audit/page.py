"""The audit as one HTML page: no other file, no script, no network; light and dark as the reader's system is."""

from __future__ import annotations

from pathlib import Path

from ...cache.making.writer import write_file
from ...cache.terminal.page import render
from .report import Audit

__all__ = ["write_page"]

_TEMPLATE = Path(__file__).with_name("audit.html")
_MOST_ROWS = 100


def write_page(path: Path, found: Audit) -> None:
    """Write an audit as a page of HTML; of each check, the first hundred rows."""
    rows: dict[str, list[dict[str, str]]] = {}
    for row in found.rows():
        rows.setdefault(row["check"], []).append(row)
    write_file(path, render(_TEMPLATE, audit=found.to_dict(), rows=rows, most=_MOST_ROWS).encode())
