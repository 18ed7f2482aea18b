"""The command clean, which looks after what both stages leave behind."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json, say
from ...cache.text import plain, plural

if TYPE_CHECKING:
    from ...cache.making.leftovers import Leftover, Outcome

__all__ = ["clean"]

_DAY = 86400
_ADVICE = {
    "abandoned": "",
    "only copy": (
        "; a process was killed while it replaced '{target}', so this is the only copy: it is put back, not removed"
    ),
    "perhaps the only copy": "; '{target}' is not finished, so this may be the only copy: left alone, compare both",
    "mixed": "; it contains something that medal did not make: left alone, move that away first",
}


@click.command(cls=Command, short_help="Find and delete what killed commands left behind.")
@click.argument(
    "folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--remove", is_flag=True, help="Delete what is listed.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="DAYS",
    help="Only list what was last changed at least this many days ago.",
)
@json_option
def clean(folders: tuple[Path, ...], remove: bool, older_than: float, as_json: bool) -> None:
    """List what killed or abandoned commands left in each FOLDER (default: the current one) and the folders below.

    That is: work directories of stage one (CACHE.work), unfinished runs of stage two (RUN.unfinished), unfinished pulls
    from a store, drafts and dead locks. Until they are deleted, the same command can continue them. Sealed caches,
    finished runs, files of a running process and files that are not medal's are never touched, and links are not
    followed. If a command was killed while it replaced a finished cache or run, the old one is restored.

    \b
    medal clean
    medal clean /data/caches --remove --older-than 7
    """
    from ...cache.making.leftovers import action_for, find_leftovers, take_away
    from ...cache.making.recognise import CACHE
    from ..run.folder import RUN_KIND

    kinds, seconds = (CACHE, RUN_KIND), older_than * _DAY
    places = folders or (Path(),)
    found = find_leftovers(places, kinds, older_than=seconds, tell=_warn)
    outcome = take_away(found if remove else (), kinds, older_than=seconds, tell=_warn)
    if as_json:
        listed = [
            {
                "path": str(one.path),
                "kind": one.kind,
                "target": str(one.target),
                "bytes": one.bytes,
                **one.holds,
                "age_seconds": round(one.age_seconds, 1),
                "held_by": one.held_by,
                "action": action_for(one),
            }
            for one in found
        ]
        removed, put_back = ([str(path) for path in paths] for paths in (outcome.removed, outcome.put_back))
        print_json({"found": listed, "removed": removed, "put_back": put_back, "freed": outcome.freed})
    else:
        for one in found:
            say(plain(_done(one, outcome) + _describe(one) if remove else _describe(one)))
        where = ", ".join(f"'{place}'" for place in places)
        if not found:
            age = f"Nothing older than {older_than:g} days" if older_than else "Nothing"
            say(plain(f"{age} was left behind in {where}."))
        elif remove:
            back = f"put back {len(outcome.put_back)}, " if outcome.put_back else ""
            click.echo(f"Removed {len(outcome.removed)}, {back}freed {_size(outcome.freed)}.")
        elif any(action_for(one) != "leave" for one in found):
            limit = ["--older-than", f"{older_than:g}"] if older_than else []
            again = shlex.join(["medal", "clean", "--remove", *limit, *map(str, places)])
            say(plain(f"To remove it: {again}"))
    if outcome.failed:
        sys.exit(1)


def _done(leftover: Leftover, outcome: Outcome) -> str:
    if leftover.path in outcome.removed:
        return "removed "
    return "put back " if leftover.state == "only copy" and leftover.target in outcome.put_back else "left "


def _describe(leftover: Leftover) -> str:
    """Say in one line what was left behind, and what is to be known before it is removed."""
    one = leftover
    files = one.holds.get("files")
    if files is None:
        holds = f"{one.holds['images']} images in {one.holds['chunks']} chunks"
    else:
        holds = f"{files} {plural(files, 'file')}"
    line = f"'{one.path}': {one.kind} of '{one.target}', {holds}, {_size(one.bytes)}, {_age(one.age_seconds)} old"
    if one.held_by is not None:
        return f"{line}; in use by {one.held_by}: left alone"
    return line + _ADVICE[one.state].format(target=one.target)


def _size(size: int) -> str:
    return f"{size} bytes" if size < 10_000 else f"{size / 1e6:.2f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


def _age(seconds: float) -> str:
    for unit, length in (("days", _DAY), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _warn(text: str) -> None:
    note(plain(text))
