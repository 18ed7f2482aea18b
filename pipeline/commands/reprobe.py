"""The command reprobe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from ...cache.progress import Alert
from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json, say
from ...cache.text import plain, say_scores
from ..probe.settings import Recipe

if TYPE_CHECKING:
    from ..caching.reprobe import Reprobing

__all__ = ["reprobe"]

_FILE = click.Path(path_type=Path)


@click.command(cls=Command, short_help="Fit another probe on cached features.")
@click.argument("cache")
@click.argument("out")
@click.option(
    "--probe",
    type=click.Choice(get_args(Recipe)),
    help="How the probe learns, as in cache-teacher; a cache older than this choice has grid (default: CACHE's).",
)
@click.option("--folds", type=int, help="Number of out-of-fold probes for train, 0 = none (default: CACHE's).")
@click.option(
    "--exclude-class", "exclude_classes", metavar="CLASS", multiple=True, help="Leave a class out; may be repeated."
)
@click.option(
    "--exclude-domain", "exclude_domains", metavar="NAME", multiple=True, help="Leave a domain out; may be repeated."
)
@click.option(
    "--exclude-keys",
    type=_FILE,
    metavar="FILE",
    help="Leave these images out, e.g. of withdrawn patients: content keys in hexadecimal, one per line.",
)
@click.option(
    "--labels",
    type=_FILE,
    metavar="TABLE",
    help="Correct labels: a .csv with the columns key and label, or key and a 0/1 column for each label to correct.",
)
@click.option("--overwrite", is_flag=True, help="Replace another cache at OUT when the new one is sealed.")
@click.option("--no-wait", is_flag=True, help="Refuse, instead of waiting, if another process is making OUT.")
@click.option(
    "--dry-run", is_flag=True, help=("Show what would be done, how long it would take and how much disk it needs.")
)
@json_option
def reprobe(cache: str, out: str, overwrite: bool, no_wait: bool, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Fit another probe on the features of CACHE and seal the new soft targets in OUT; no teacher, no images.

    OUT has CACHE's splits. Patients and copies of an image stay together in the folds. If nothing is changed, OUT has
    the same content to the bit. A student of OUT needs --on-missing drop if images were left out, and --labels cache
    if labels were corrected.

    \b
    medal reprobe chest.zarr ten-folds.zarr --folds 10
    medal reprobe old.zarr new.zarr --probe auto
    medal reprobe scans.h5 without.h5 --exclude-domain cedar --exclude-keys withdrawn.txt
    """
    from ..caching.reprobe import ReprobeSettings, estimate, prepare
    from ..caching.reprobe import reprobe as make

    asked = prepare(cache, out, ReprobeSettings(**chosen), overwrite=overwrite)
    for warning in asked.warnings:
        note(Alert(warning))
    rows = {split: len(part) for split, part in asked.rows.items()}
    changed = _changes(asked)
    if dry_run:
        size, seconds = estimate(asked)
        foreseen = {
            "cache": out,
            "action": asked.action,
            "cache_id": asked.cache_id,
            "rows": rows,
            **changed,
            "bytes": size,
            "seconds": seconds,
        }
        if as_json:
            print_json(foreseen)
        else:
            say(plain(f"Would {asked.action} '{out}': {_words(asked)}, about {size / 1e6:.1f} MB and {seconds:.0f} s."))
        return
    made = make(asked, wait=not no_wait, tell=note)
    before, after = (one.manifest.probe.get("metrics", {}) for one in (asked.source, made.cache))
    if as_json:
        print_json(
            {
                "cache": out,
                "action": made.action,
                "cache_id": made.cache.cache_id,
                "content_digest": made.cache.content_digest,
                "rows": rows,
                **changed,
                "seconds": made.seconds,
                "teacher": {split: after.get(split) for split in ("val", "test")},
                "before": {split: before.get(split) for split in ("val", "test")},
            }
        )
        return
    verb = "Made" if made.action == "create" else "Nothing to do: found"
    say(plain(f"{verb} '{out}': {_words(asked)}, {made.seconds:.0f} s."))
    for split in ("val", "test"):
        if split in after:
            say(f"  probe on {split}: {say_scores(after[split])}, before: {say_scores(before.get(split, {}))}")


def _changes(asked: Reprobing) -> dict[str, Any]:
    counts = dict(asked.amended.counts)
    return {"relabelled": counts.pop("relabelled"), "left_out": counts}


def _words(asked: Reprobing) -> str:
    left_out = sum(_changes(asked)["left_out"].values())
    words = [f"{sum(map(len, asked.rows.values()))} images"]
    words += [f"{left_out} left out"] if left_out else []
    words += [f"{asked.amended.counts['relabelled']} relabelled"] if asked.amended.counts["relabelled"] else []
    return ", ".join(words)
