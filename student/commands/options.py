"""Options that the commands of a finished run share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click

from ...cache.errors import StudentError
from ...cache.machine import permission
from ...pipeline.datasets.columns.aggregate import Aggregate, PatientRule

__all__ = ["overwrite_option", "require_place"]

# RUN, or a member of one: RUN/baseline, RUN/seed-1, RUN/domain-NAME.
run_argument = click.argument("run", type=click.Path(path_type=Path))


device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", help="Where to compute."
)


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace FILE when the new one is finished.")


dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would be done, how long it would take and how much disk it needs."
)


aggregate_option = click.option(
    "--aggregate",
    type=click.Choice(get_args(Aggregate)),
    default=None,
    help="How a patient's images are combined into one answer (default: as in the run's own figures).",
)


finding_option = click.option(
    "--finding",
    multiple=True,
    metavar="CLASS",
    help="A patient has this class if one image has it; may be repeated, most severe class first.",
)


def chosen_rule(request: Mapping[str, Any], aggregate: Aggregate | None, finding: Sequence[str] = ()) -> PatientRule:
    """Return how images make a patient: as asked for, and else as a run's request says."""
    usual = PatientRule(request.get("aggregate", "mean"), tuple(request.get("finding", ())))
    grades = bool(request.get("ordinal", False))
    return PatientRule(aggregate or usual.aggregate, tuple(finding) or usual.finding, grades)


workers_option = click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=None,
    help="Processes that decode images, 0 = only this one (default: decode all images once, if they fit into memory).",
)


def require_place(out: Path | None, *, overwrite: bool) -> None:
    """Refuse a place that cannot be written, or where something stands, before anything is computed."""
    if out is None:
        return
    if not out.parent.is_dir():
        raise StudentError(
            f"There is no folder '{out.parent}' to write '{out.name}' into; make it, or give another --out."
        )
    permission.require_place(out)
    if out.exists() and not overwrite:
        raise StudentError(f"'{out}' is there already; give --overwrite to replace it, or another --out.")
