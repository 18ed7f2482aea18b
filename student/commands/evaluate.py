"""The command evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...cache.progress import Alert
from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json, say
from ...cache.text import plain
from ...pipeline.datasets.options import DATASET_GROUP, dataset_options, take_dataset_options

if TYPE_CHECKING:
    from ...pipeline.datasets.columns.aggregate import Aggregate
from ..figures.tables import NO_WIDTH, mark_interval
from .options import (
    aggregate_option,
    chosen_rule,
    device_option,
    dry_run_option,
    finding_option,
    overwrite_option,
    require_place,
    run_argument,
    workers_option,
)
from .predict import _foresee, _images

__all__ = ["evaluate"]


@click.command(cls=Command, groups=DATASET_GROUP, short_help="Measure a student on a dataset.")
@run_argument
@click.argument("dataset")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    default=None,
    help="Rows to measure on (default: test; all, if the dataset has no splits and is not the one trained on).",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.csv",
    help="Write the predictions to this file, in the form of a run's predictions.csv.",
)
@overwrite_option
@aggregate_option
@finding_option
@device_option
@workers_option
@dry_run_option
@json_option
@dataset_options
def evaluate(
    run: Path,
    dataset: str,
    *,
    split: str | None,
    out: Path | None,
    overwrite: bool,
    aggregate: Aggregate | None,
    finding: tuple[str, ...],
    device: str,
    workers: int | None,
    dry_run: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Measure the student in RUN on DATASET: an external test set, or a split of the one that it was trained on.

    The figures are those of train-student, with 95 % intervals over images, or over patients where they are known; then
    also by one answer a patient (--aggregate); and by domain where the dataset has domains. Classes are matched by
    name: a class that the student does not know is refused.

    \b
    medal evaluate runs/chest other-hospital/ --out other.csv
    medal evaluate runs/chest medmnist:pneumoniamnist --split val
    """
    options = take_dataset_options(chosen)
    from ..using.evaluation import choose_rows, open_for
    from ..using.evaluation import evaluate as measure
    from ..using.trained import open_run

    require_place(out, overwrite=overwrite)
    trained = open_run(run, device)
    opened = open_for(trained, dataset, options)
    rows = choose_rows(trained, opened, split)
    if dry_run:
        what = f"measure on {_images(len(rows.rows))} ({rows.split}) of '{opened.name}'"
        _foresee(trained, len(rows.rows), out, as_json=as_json, what=what)
        return
    rule = chosen_rule(trained.description["request"], aggregate, finding)
    result = measure(trained, opened, rows, rule=rule, out=out, workers=workers)
    for warning in result["warnings"]:
        note(Alert(warning))
    if as_json:
        print_json({"run": str(run), "dataset": opened.name, "out": None if out is None else str(out), **result})
        return
    where = "" if result["split"] == "all" else f" of '{result['split']}'"
    say(plain(f"'{run}' on {_images(result['images'])}{where} in '{opened.name}':"))
    say(f"  student: {_say_scores(result['student'])}")
    if patients := result["student"].get("patients"):
        mixed = f", {patients['mixed']} with images of several classes left out" if patients["mixed"] else ""
        counted = f"{patients['n']} labelled, {patients['aggregate']} of probabilities{mixed}"
        say(f"  by patient ({counted}): {_say_scores(patients)}")
    for name, figures in result["domains"].items():
        say(plain(f"  in '{name}' ({figures['n']} labelled): {_say_scores(figures)}"))
    if result["student"]["absent"]:
        say(plain(f"  left out of the mean AUROC, as it is undefined: {', '.join(result['student']['absent'])}"))
    errors = [result["student"][name] for name in ("calibration_error", "calibration_error_calibrated")]
    if None not in errors:
        say(
            f"  calibration error {errors[0]:.3f}, with the run's temperature {result['temperature']['value']:g} "
            f"{errors[1]:.3f}"
        )
    if _has_no_width(result["student"], *result["domains"].values()):
        say(f"  {NO_WIDTH}")
    if out is not None:
        say(f"Wrote '{out}'.")


_SAID = ("auroc", "accuracy")


def _say_scores(scores: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} undefined"
        if scores[name] is None
        else mark_interval(
            f"{name} {scores[name]:.4f} (95 % {scores['ci95'][name][0]:.3f} to {scores['ci95'][name][1]:.3f})",
            *scores["ci95"][name],
        )
        for name in (*_SAID, *(name for name in ("kappa", "mae") if name in scores))
    )


def _has_no_width(*figures: dict[str, Any]) -> bool:
    return any(
        one["ci95"][name][0] is not None and len(set(one["ci95"][name])) == 1 for one in figures for name in _SAID
    )
