"""The command remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..terminal.command import Command
from ..terminal.console import json_option, note, print_json
from ..text import plain

if TYPE_CHECKING:
    pass


__all__ = ["remove"]


@click.command(cls=Command, short_help="Take a cache out of a store.")
@click.argument("name")
@click.argument("store")
@json_option
def remove(name: str, store: str, as_json: bool) -> None:
    """Take a cache out of STORE, by its dataset's name or the beginning of its id: nobody finds it from now on.

    Its data goes at the same time, or with the next `medal gc` if somebody is reading it. Copies that others have
    pulled are theirs to remove.

    \b
    medal remove 3f2a9c /mnt/lab/caches
    """
    from ..store.collect import withdraw
    from ..store.place.store import open_store

    done = withdraw(open_store(store), name)
    result = {
        "store": store,
        "cache_id": done.entries[0].cache_id,
        "entries": len(done.entries),
        "freed": done.freed,
        "waiting": len(done.waiting),
    }
    if as_json:
        print_json(result)
        return
    click.echo(plain(f"Removed cache '{result['cache_id']}' from '{store}', {done.freed / 1e6:.1f} MB."))
    if done.waiting:
        note(f"note: somebody is reading its data just now; remove that later with: medal gc {store}")
