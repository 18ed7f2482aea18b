"""The command remove."""

from __future__ import annotations

import click

from ..terminal.command import Command
from ..terminal.console import json_option, note, print_json, say
from ..text import plain

__all__ = ["remove"]


@click.command(cls=Command, short_help="Remove a cache from a store.")
@click.argument("name")
@click.argument("store")
@click.option("--now", is_flag=True, help="Also delete its data now; anyone still reading it gets an error.")
@json_option
def remove(name: str, store: str, now: bool, as_json: bool) -> None:
    """Remove a cache from STORE, by its dataset's name or the beginning of its id: nobody finds it from now on.

    Its data is kept for those who are reading it. `medal gc` deletes it two weeks later, --now at once. Copies that
    others have pulled are not deleted.

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
    say(plain(f"Removed cache '{result['cache_id']}' from '{store}'{freed}."))
    if done.waiting:
        note(
            f"note: its data is kept for two weeks, for anyone still reading it; to delete it now: medal gc {store} "
            "--now"
        )
