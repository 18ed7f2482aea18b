"""The command gc."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..terminal.command import Command
from ..terminal.console import json_option, note, print_json
from ..text import plain

if TYPE_CHECKING:
    pass


__all__ = ["gc"]


@click.command(cls=Command, short_help="Remove what no cache of a store needs.")
@click.argument("store")
@json_option
def gc(store: str, as_json: bool) -> None:
    """Remove data of STORE that no cache needs: of removed ones, and what killed pushes left behind.

    What somebody reads or writes just now stays until the next time.

    \b
    medal gc /mnt/lab/caches
    """
    from ..store.collect import collect
    from ..store.place.store import open_store

    done = collect(open_store(store))
    if as_json:
        print_json({"store": store, "removed": len(done.sets), "freed": done.freed, "waiting": len(done.waiting)})
        return
    click.echo(plain(f"Removed {len(done.sets)} sets of data from '{store}', {done.freed / 1e6:.1f} MB."))
    if done.waiting:
        note(f"note: {len(done.waiting)} more are in use or being pushed; they stay")
