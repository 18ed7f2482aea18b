"""The command gc."""

from __future__ import annotations

import click

from ..terminal.command import Command
from ..terminal.console import json_option, note, print_json, say
from ..text import plain

__all__ = ["gc"]

# As `collect.DAYS`, which would bring numpy in.
_DAYS = 14.0


@click.command(cls=Command, short_help="Delete data that no cache in a store needs.")
@click.argument("store")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=_DAYS,
    metavar="DAYS",
    help="Only delete data that no cache in the store has needed for this many days.",
)
@click.option(
    "--now",
    is_flag=True,
    help="Delete data of any age, e.g. after a withdrawn consent; anyone still reading it gets an error.",
)
@json_option
def gc(store: str, older_than: float, now: bool, as_json: bool) -> None:
    """Delete data in STORE that no cache needs: data of removed caches, and what killed pushes left behind.

    Data is kept for some days, as somebody may be reading or pushing it. If --now deletes what somebody is pushing,
    the push starts again and loses nothing. Anyone still reading it gets an error that it was withdrawn.

    \b
    medal gc /mnt/lab/caches
    medal gc /mnt/lab/caches --now
    """
    from ..store.collect import collect
    from ..store.place.store import open_store

    days = 0.0 if now else older_than
    done = collect(open_store(store), days=days)
    if as_json:
        print_json({"store": store, "removed": len(done.sets), "freed": done.freed, "waiting": len(done.waiting)})
        return
    say(plain(f"Removed {len(done.sets)} sets of data from '{store}', {done.freed / 1e6:.1f} MB."))
    if done.waiting:
        note(f"note: {len(done.waiting)} more are less than {days:g} days old and are kept (--now removes them)")
