"""The command pull."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..terminal.command import Command
from ..terminal.console import json_option, note, print_json, say
from ..text import plain

if TYPE_CHECKING:
    from ..store.place.layout import Entry
from .push import _bytes

__all__ = ["pull"]


@click.command(cls=Command, short_help="Get a cache from a store, verified.")
@click.argument("name")
@click.argument("store")
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace another cache at OUT, once the new one is complete.")
@click.option(
    "--signers",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Only accept a cache signed by someone in this file (ssh-keygen's format of allowed signers).",
)
@click.option("--revoked", type=click.Path(path_type=Path), metavar="FILE", help="Revoked keys.")
@json_option
def pull(
    name: str, store: str, out: Path | None, overwrite: bool, signers: Path | None, revoked: Path | None, as_json: bool
) -> None:
    """Get a cache from STORE by its dataset's name or the beginning of its id, and verify every byte of it.

    OUT ends in .zarr or .h5 (default: caches/DATASET-TEACHER.zarr). OUT appears only when the transfer is complete. Run
    an interrupted command again to continue it.

    \b
    medal pull pneumoniamnist /mnt/lab/caches
    medal pull 3f2a9c https://lab.example.org/caches chest.h5
    """
    from ..store.fetch import Trust, choose_signed
    from ..store.fetch import pull as get
    from ..store.place.entries import find_entries
    from ..store.place.store import open_store

    opened = open_store(store)
    opened.check()
    trust = None if signers is None else Trust(signers, revoked)
    entry = choose_signed(opened, find_entries(opened, name), trust)
    target = out or default_target(entry)
    pulled = get(opened, entry, target, _bytes, overwrite=overwrite, trust=trust, tell=note)
    cache = pulled.cache
    if as_json:
        print_json(
            {
                "cache": str(cache.path),
                "action": pulled.action,
                "cache_id": cache.cache_id,
                "content_digest": cache.content_digest,
                "rows": dict(cache.manifest.rows),
            }
        )
        return
    what = "Pulled" if pulled.action == "pulled" else "Nothing to do: found"
    say(plain(f"{what} '{cache.path}', every byte verified; content digest {cache.content_digest}."))


def default_target(entry: Entry) -> Path:
    """Return where a cache goes if nobody says; its names come from a stranger."""
    names = (
        str(entry.summary.get("dataset") or "cache"),
        str(entry.summary.get("teacher") or "teacher").rpartition("/")[2],
    )
    safe = "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60].strip("._-") or "cache" for name in names)
    return Path("caches") / f"{safe}.zarr"
