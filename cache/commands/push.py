"""The command push."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..terminal.command import Command
from ..terminal.console import json_option, note, print_json, progress, say
from ..text import plain

if TYPE_CHECKING:
    from ..format.manifest import Manifest

__all__ = ["confirm", "confirm_names", "push"]

_bytes = partial(progress, unit="bytes")


@click.command(cls=Command, short_help="Publish a cache in a store.")
@click.argument("cache")
@click.argument("store")
@click.option("--as", "by", envvar="MEDAL_NAME", metavar="NAME", help="Your name in the list (default: none).")
@click.option("--sign", "key", type=click.Path(path_type=Path), metavar="KEY", help="Sign with this SSH key.")
@click.option("--yes", is_flag=True, help="Publish the names in the cache without asking.")
@json_option
def push(cache: str, store: str, by: str | None, key: Path | None, yes: bool, as_json: bool) -> None:
    """Verify CACHE and publish it in STORE: a folder, or s3://, gs://, az://, sftp://, hf://datasets/ORG/NAME.

    You see the free text of the manifest (names of dataset, classes, domains, teacher) and have to confirm it. Data
    that the store already has is not sent again. Run an interrupted push again to continue it.

    \b
    medal push chest.zarr /mnt/lab/caches
    medal push chest.zarr /mnt/lab/caches --sign ~/.ssh/id_ed25519 --yes
    medal push chest.zarr sftp://lab.example.org/srv/caches --as "Ana"
    """
    from ..reader import open_cache
    from ..store.place.store import open_store
    from ..store.publish import push as publish
    from ..store.signing import sign

    opened = open_cache(cache)
    signature = None if key is None else sign(opened.seal.to_bytes(), key)
    pushed = publish(
        open_store(store), opened, _bytes, by=by, signature=signature, confirm=lambda manifest: confirm(manifest, yes)
    )
    if as_json:
        print_json(
            {
                "store": store,
                "action": pushed.action,
                "cache_id": pushed.entry.cache_id,
                "content_digest": pushed.entry.content_digest,
                "served": pushed.served,
                "sent": pushed.sent,
                "kept": pushed.kept,
            }
        )
        return
    what = "Nothing to do: it is there already" if pushed.action == "there" else f"Pushed {pushed.sent / 1e6:.1f} MB"
    say(plain(f"{what}; others get it by: medal pull {pushed.entry.cache_id} {store}"))
    if not pushed.served:
        note(
            "note: the store already has different content for the same request (another CPU rounds differently); "
            "'pull' gives that one, and `medal list` shows both"
        )


def confirm(manifest: Manifest, yes: bool) -> None:
    """Show the free text of a manifest, and refuse to publish it unless somebody says yes."""
    from ..store.privacy import free_names

    confirm_names(free_names(manifest), yes)


def confirm_names(found: Mapping[str, Sequence[str]], yes: bool) -> None:
    """Show names, and refuse to publish them unless somebody says yes."""
    from ..errors import CacheError

    note("These names will be published:")
    for what, names in found.items():
        note(f"  {what}: {', '.join(names)}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise CacheError(
            "Nothing was pushed: a person has to check the names above. If they may be published, run the same "
            "command with --yes."
        )
    if not click.confirm("May they?", err=True):
        raise CacheError("Nothing was pushed. Rename them in the dataset, and make the cache again.")
