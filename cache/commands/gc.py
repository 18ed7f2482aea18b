"""The command gc."""

from __future__ import annotations

import click

from ..terminal.command import Command
from ..terminal.console import json_option, note, print_json
from ..text import plain

__all__ = ["gc"]

# As `collect.DAYS`, which would bring numpy in.
_DAYS = 14.0


@click.command(cls=Command, short_help="Remove what no cache of a store needs.")
@click.argument("store")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=_DAYS,
    metavar="DAYS",
    help="Only what no cache of the store has needed for that many days.",
)
@click.option(
    "--now", is_flag=True, help="Whatever its age, for instance after a withdrawn consent. Who reads it loses it."
)
@json_option
def gc(store: str, older_than: float, now: bool, as_json: bool) -> None:
    """Remove data of STORE that no cache needs: of removed ones, and what killed pushes left behind.

    It stays for some days, for those who are reading or pushing it. Who pushes something that is removed --now begins
    anew and loses nothing; who reads it is told that it was withdrawn.

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
    click.echo(plain(f"Removed {len(done.sets)} sets of data from '{store}', {done.freed / 1e6:.1f} MB."))
    if done.waiting:
        note(f"note: {len(done.waiting)} more are no {days:g} days old; they stay (--now removes them)")
