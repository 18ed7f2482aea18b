"""The command remove."""

from __future__ import annotations

import click

from ..terminal.command import Command
from ..terminal.console import json_option, note, print_json
from ..text import plain

__all__ = ["remove"]


@click.command(cls=Command, short_help="Take a cache out of a store.")
@click.argument("name")
@click.argument("store")
@click.option("--now", is_flag=True, help="Remove its data as well, from under whoever is reading it.")
@json_option
def remove(name: str, store: str, now: bool, as_json: bool) -> None:
    """Take a cache out of STORE, by its dataset's name or the beginning of its id: nobody finds it from now on.

    Its data stays for those who are reading it, and goes with a `medal gc` two weeks later, or --now. Copies that
    others have pulled are theirs to remove.

    \b
    medal remove 3f2a9c /mnt/lab/caches
    medal remove 3f2a9c /mnt/lab/caches --now
    """
    from ..store.collect import withdraw
    from ..store.place.store import open_store

    done = withdraw(open_store(store), name, now=now)
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
    freed = f", {done.freed / 1e6:.1f} MB" if now else ""
    click.echo(plain(f"Removed cache '{result['cache_id']}' from '{store}'{freed}."))
    if done.waiting:
        note(f"note: its data stays two weeks for those who are reading it; to remove it now: medal gc {store} --now")
