"""The command audit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...cache.errors import MedalError
from ...cache.progress import Alert
from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json, progress, say
from ...cache.text import plain
from ..datasets.options import DATASET_GROUP, dataset_options, take_dataset_options

if TYPE_CHECKING:
    from ..audit.report import Audit

__all__ = ["audit"]

_STYLES = {"serious": "bold red", "look": "yellow", "fine": "green", "left out": "dim"}
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(cls=Command, groups=DATASET_GROUP, short_help="Find leaks, duplicates and doubtful labels in a dataset.")
@click.argument("cache")
@click.argument("dataset")
@click.option(
    "--csv", "table", type=_FILE, metavar="FILE", help="Write a table of the rows to look at, each with advice."
)
@click.option("--html", "page", type=_FILE, metavar="FILE", help="Write the findings as one HTML page.")
@click.option(
    "--with-images",
    is_flag=True,
    help="Show the images to check, and their counterparts, on the page of --html; these are patients' images.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="COSINE",
    help="Count images as near-duplicates from this cosine of whitened features (default: compare pixels).",
)
@click.option("--overwrite", is_flag=True, help="Replace the files of --csv and --html if they exist.")
@click.option("--strict", is_flag=True, help="Exit with status 1 if something serious is found.")
@json_option
@dataset_options
def audit(
    cache: str,
    dataset: str,
    table: Path | None,
    page: Path | None,
    with_images: bool,
    threshold: float | None,
    overwrite: bool,
    strict: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Find problems in DATASET, from what CACHE holds; the teacher is not needed.

    It finds duplicates and near-duplicates, inside a split or across splits; copies with different labels; patients in
    several splits; labels that the out-of-fold logits contradict; classes that a split lacks; and splits, domains and
    classes that can be told by something other than the disease. Nothing is changed or deleted.

    \b
    medal audit chest.zarr medmnist:pneumoniamnist
    medal audit scans.h5 labels.csv --group-column patient --html audit.html --csv audit.csv --strict
    """
    options = take_dataset_options(chosen)
    if with_images and page is None:
        raise click.UsageError("--with-images needs --html FILE.")
    for place in (table, page):
        if place is not None and place.exists() and not overwrite:
            raise MedalError(f"'{place}' is there already; give another name, or --overwrite to replace it.")
    from ...cache.reader import open_cache
    from ..audit.report import audit as examine

    found = examine(open_cache(cache), dataset, options, progress, threshold=threshold)
    for told in found.subject.notes:
        note(Alert(told))
    written = found.write_csv(table) if table is not None else 0
    if page is not None:
        shown = found.write_page(page, with_images=with_images)
        if shown:
            note(Alert(f"'{page}' shows {shown} images of patients: share it as you would share them"))
    if as_json:
        print_json({"cache": cache, **found.to_dict()})
    else:
        _print_table(found)
        if table is not None:
            say(plain(f"'{table}' lists {written} rows with advice."))
    if strict and found.serious:
        sys.exit(1)


def _print_table(found: Audit) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"Audit of {plain(found.subject.name)}"), show_lines=False)
    for heading in ("check", "", "found"):
        table.add_column(heading, no_wrap=heading != "found")
    for one in found.findings:
        style = _STYLES[one.severity]
        table.add_row(Text(one.check), Text(one.severity, style=style), Text(plain(one.sentence)))
    # Where there is no terminal to ask, a line of a log may be as long as it likes.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(table)
