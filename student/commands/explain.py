"""The command explain."""

from __future__ import annotations

from pathlib import Path

import click

from ...cache.errors import DataError, StudentError
from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json, progress, say
from ...cache.text import plain, plural
from .options import device_option, run_argument

__all__ = ["explain"]


@click.command(cls=Command, short_help="Draw heat maps of what a student's answers come from.")
@run_argument
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="New folder for pictures and a page."
)
@click.option("--class", "name", metavar="NAME", help="The class to explain (default: the most likely one).")
@device_option
@json_option
def explain(run: Path, images: tuple[Path, ...], *, out: Path, name: str | None, device: str, as_json: bool) -> None:
    """Draw heat maps (Grad-CAM) of the student in RUN over each IMAGE: what its answer comes from.

    DIR gets a picture of each image and index.html with all of them, which also says what a heat map does not show: not
    where the disease is, nor how sure the student is. Needs pip install "medalmighty[explain]". Research software, not
    a medical device.

    \b
    medal explain runs/chest new.png more/ --out heat
    medal explain runs/chest new.png --out heat --class pneumonia
    """
    from ..using.explaining import explain_images, require_captum
    from ..using.prediction import list_frames
    from ..using.trained import open_run

    require_captum()
    if out.exists():
        raise StudentError(f"'{out}' is there already; give a new folder with --out.")
    if not out.parent.is_dir():
        raise StudentError(
            f"There is no folder '{out.parent}' to make '{out.name}' in; make it, or give another --out."
        )
    trained = open_run(run, device)
    if name is not None and name not in trained.classes:
        raise DataError(f"There is no class '{name}'; expected one of {', '.join(trained.classes)}.")
    listing, said = list_frames(trained, images)
    for sentence in said:
        note(sentence)
    frames = listing.images
    with progress("explain", len(frames)) as advance:
        found = explain_images(trained, frames, out, name, advance)
    if as_json:
        print_json({"run": str(run), "out": str(out), "pictures": list(found.rows), "bad": list(found.bad)})
    else:
        page = out / "index.html"
        say(plain(f"Wrote {len(found.rows)} {plural(len(found.rows), 'picture')} and '{page}'."))
    if found.bad:
        listed = "\n  ".join(found.bad)
        raise DataError(f"{len(found.bad)} of {len(frames)} images cannot be used; fix them:\n  {listed}")
