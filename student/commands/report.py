"""The command report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...cache.errors import StudentError
from ...cache.progress import Alert
from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json, say
from ...cache.text import plain, plural
from ...pipeline.datasets.options import dataset_options, take_dataset_options
from .options import overwrite_option, require_place

if TYPE_CHECKING:
    from ..report.thumbnails import Draw

__all__ = ["report"]


@click.command(cls=Command, short_help="Write one HTML report for one or more runs.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.html", help="The page."
)
@click.option(
    "--with-images",
    "images",
    metavar="DATASET",
    help="Show the images of DATASET that the page lists by key; these are patients' images.",
)
@click.option("--with-heat", "heat", is_flag=True, help="Also show a heat map (Grad-CAM) beside each of these images.")
@click.option(
    "--with-map",
    "cache",
    metavar="CACHE",
    type=click.Path(path_type=Path),
    help="Show a map of the images by the features of CACHE, that the runs were trained with.",
)
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also save every chart in this folder as SVG and PDF, for papers.",
)
@overwrite_option
@click.option("--dry-run", is_flag=True, help="Read the runs, show what the page would contain, and write nothing.")
@json_option
@dataset_options
def report(
    runs: tuple[Path, ...],
    *,
    out: Path,
    images: str | None,
    heat: bool,
    cache: Path | None,
    figures: Path | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Write one HTML page on one or more RUNs of train-student.

    It has the verdict in words; figures with 95 % intervals by split, class and domain; ROC and precision-recall curves
    with bands, calibration, confusion, training; student, baseline and teacher against each other; what labels are
    worth, if runs differ in --label-fraction; and by key the images on which student and teacher disagree most, and
    the surest errors of each class.

    The page needs no other file and no network, so it can be sent by mail. The column options are for --with-images.

    \b
    medal report runs/chest --out chest.html
    medal report runs/five runs/twenty runs/all --out labels.html
    """
    options = take_dataset_options(chosen)
    if out.suffix.lower() not in (".html", ".htm"):
        raise StudentError(f"'{out}' must end in .html; give another --out.")
    if heat and images is None:
        raise click.UsageError("--with-heat only works with --with-images.")
    require_place(out, overwrite=overwrite)
    from ...cache.machine.drafts import write_file
    from ...cache.reader import open_cache
    from ..report.collecting import collect
    from ..report.page import build_page

    found = collect(runs)
    told: dict[str, Any] = {
        "report": str(out),
        "runs": [
            {"run": str(place), "split": getattr(one, "split", "test"), "verdict": one.metrics["verdict"]}
            for place, one in zip(runs, found, strict=True)
        ],
    }
    if dry_run:
        if as_json:
            print_json(told)
        else:
            listed = ", ".join(map(str, runs))
            say(plain(f"Would write '{out}' on {len(found)} {plural(len(found), 'run')}: {listed}."))
        return
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
    page = build_page(
        found,
        heat=_heat() if heat else None,
        images=images,
        options=options,
        figures=figures,
        cache=open_cache(cache) if cache else None,
    )
    if page.missing:
        note(Alert(f"{page.missing} {plural(page.missing, 'image')} not in '{images}': shown without a picture"))
    content = page.html.encode()
    write_file(out, content)
    if as_json:
        print_json(told | {"bytes": len(content), "thumbnails": page.thumbnails})
        return
    for one in found:
        say(plain(f"{one.name}: {one.metrics['verdict']}"))
    shown = f", with {page.thumbnails} {plural(page.thumbnails, 'image')} of patients" if page.thumbnails else ""
    say(plain(f"Wrote '{out}': {len(content) / 1e6:.2f} MB{shown}."))


def _heat() -> Callable[[Path], Draw]:
    from ..using.explaining import heat_of, require_captum

    require_captum()
    return heat_of
