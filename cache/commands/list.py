"""The command list."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from ..progress import Alert
from ..terminal.command import Command
from ..terminal.console import columns, json_option, note, print_json, stack
from ..text import plain

if TYPE_CHECKING:
    from ..store.place.layout import Entry


__all__ = ["list_"]


@click.command("list", cls=Command, short_help="List the caches in a store.")
@click.argument("store")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only list caches whose field KEY is VALUE, e.g. dataset=chest or by=Ana; may be repeated.",
)
@json_option
def list_(store: str, filters: tuple[str, ...], as_json: bool) -> None:
    """List the caches of STORE: dataset, task, rows, teacher, the probe's AUROC, views, size, who and when.

    \b
    medal list /mnt/lab/caches
    medal list s3://lab/caches --filter task=multilabel --json
    """
    from ..store.collect import distinct
    from ..store.place.entries import read_entries
    from ..store.place.store import open_store

    opened = open_store(store)
    opened.check()
    entries, problems = read_entries(opened)
    for problem in problems:
        note(Alert(problem))
    first = {entry.cache_id: entry.content for entry in reversed(entries)}
    rows = [_described(entry, first[entry.cache_id] == entry.content) for entry in distinct(entries)]
    for text in filters:
        key, equal, value = text.partition("=")
        if not equal or (rows and key not in rows[0]):
            known = ", ".join(rows[0]) if rows else "dataset, task, teacher, by"
            raise click.BadParameter(
                (f"'{text}' is not KEY=VALUE; expected one of these keys: {known}"), param_hint="--filter"
            )
        kept = [row for row in rows if _matches(row[key], value)]
        if rows and not kept:
            note(Alert(_name_near(key, value, {str(row[key]) for row in rows})))
        rows = kept
    if as_json:
        print_json({"store": store, "caches": rows, "problems": problems})
        return
    _print_table(rows)


def _name_near(key: str, asked: str, there: set[str]) -> str:
    """Name the closest values in the store; for a teacher, the last part of its name counts most."""
    last = asked.rstrip("/").rpartition("/")[2]
    near = [name for name in sorted(there) if name.rpartition("/")[2] == last] or get_close_matches(
        asked, sorted(there)
    )
    hint = f"; near to it are {', '.join(f'{key}={plain(name)}' for name in near)}" if near else ""
    return f"no cache has {key}={asked}{hint}"


def _described(entry: Entry, is_served: bool) -> dict[str, Any]:
    summary = entry.summary
    shown = (
        "dataset",
        "task",
        "classes",
        "rows",
        "teacher",
        "revision",
        "weights_sha256",
        "feature",
        "image_size",
        "auroc",
        "views",
        "features_kept",
    )
    return {
        **{name: summary.get(name) for name in shown},
        "bytes": entry.size,
        "by": entry.by,
        "published": datetime.fromtimestamp(min(entry.published / 1000, 253402300799), UTC).isoformat(
            timespec="seconds"
        ),
        "cache_id": entry.cache_id,
        "content_digest": entry.content_digest,
        "served": is_served,
    }


def _matches(found: Any, asked: str) -> bool:
    if isinstance(found, bool):
        return asked.lower() == str(found).lower()
    return str(found) == asked


def _print_table(rows: list[dict[str, Any]]) -> None:
    heads = ("id", "dataset", "task", "rows", "teacher", "auroc", "views", "MB", "by", "when")
    lines = [heads] + [
        (
            row["cache_id"][:8] + ("" if row["served"] else "*"),
            str(row["dataset"]),
            str(row["task"]),
            str(_total(row["rows"])),
            str(row["teacher"]).rpartition("/")[2],
            _auroc(row["auroc"]),
            str(row["views"]),
            f"{row['bytes'] / 1e6:.1f}",
            row["by"] or "-",
            row["published"][:10],
        )
        for row in rows
    ]
    lines = [tuple(plain(text)[:40] for text in line) for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if rows and sum(widths) + 2 * len(widths) - 2 > (columns() or math.inf):
        click.echo("\n".join(stack(heads, lines[1:], names=2)))
    else:
        for line in lines:
            click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    if any(not row["served"] for row in rows):
        note("* the same request with different content: 'pull' gives the one published first")


def _total(rows: Any) -> int:
    return sum(count for count in rows.values() if isinstance(count, int)) if isinstance(rows, dict) else 0


def _auroc(found: Any) -> str:
    values = found if isinstance(found, dict) else {}
    value = values.get("test", values.get("val"))
    return f"{value:.4f}" if isinstance(value, float) else "-"
