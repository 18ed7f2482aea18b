"""The command compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...cache.terminal.command import Command
from ...cache.terminal.console import columns, json_option, note, print_json, say
from ...cache.text import plain

if TYPE_CHECKING:
    from ...pipeline.datasets.columns.aggregate import Aggregate
from .options import aggregate_option, finding_option
from .train_student import _plain_lines

__all__ = ["compare"]


@click.command(cls=Command, short_help="Compare finished runs on the test images they share.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["test", "val"]), default="test", help="Images to compare on.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the differences as a forest plot, FILE ending in .png, .svg or .pdf.",
)
@aggregate_option
@finding_option
@json_option
def compare(
    runs: tuple[Path, ...],
    split: str,
    out: Path | None,
    aggregate: Aggregate | None,
    finding: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare runs with the first one, image by image, from the predictions that they recorded.

    Each RUN is a folder of train-student, or RUN/baseline or RUN/domain-NAME inside one; all its seeds count.
    Differences, 95 % intervals and p-values come from the same resamples of the images that all runs share. Images are
    matched by content; runs with other test images are refused. Where patients are known, one answer for each of
    them is compared as well.

    \b
    medal compare runs/resnet runs/mobilenet
    medal compare runs/three/baseline runs/three --out forest.svg
    """
    if len(runs) < 2:
        raise click.UsageError("give two runs or more: medal compare RUN RUN...")
    from ..figures.comparing import compare_runs

    result = compare_runs(runs, split, note, aggregate=aggregate, finding=finding)
    if out is not None:
        from ..figures.plots import plot_forest

        plot_forest(out, result)
    if as_json:
        print_json(result.to_dict() | {"plot": None if out is None else str(out)})
        return
    from ..figures.tables import show_comparison

    click.echo(_plain_lines(show_comparison(result, columns())))
    for sentence in result.sentences():
        say(plain(sentence))
    if out is not None:
        say(plain(f"Drawn: '{out}'"))
