"""The commands on stores: push, pull, list, remove, gc."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import Command
from ..console import json_option, note, plain, print_json, progress

if TYPE_CHECKING:
    from ..manifest import Manifest
    from .layout import Entry

__all__ = ["confirm", "confirm_names", "gc", "list_store", "pull", "push", "remove"]

_bytes = partial(progress, unit="bytes")


@click.command(cls=Command, short_help="Offer a cache to others.")
@click.argument("cache")
@click.argument("store")
@click.option("--as", "by", envvar="MEDAL_NAME", metavar="NAME", help="Who to be listed as (default: nobody).")
@click.option("--sign", "key", type=click.Path(path_type=Path), metavar="KEY", help="Sign with this SSH key.")
@click.option("--yes", is_flag=True, help="The names that are shown may be published.")
@json_option
def push(cache: str, store: str, by: str | None, key: Path | None, yes: bool, as_json: bool) -> None:
    """Verify CACHE and publish it in STORE: a folder, or s3://, gs://, az://, sftp://, hf://datasets/ORG/NAME.

    The free text of its manifest (names of dataset, classes, domains, teacher) is shown and has to be confirmed. What
    is there already is not sent again, and an interrupted push goes on where it stopped.

    \b
    medal push chest.zarr /mnt/lab/caches
    medal push chest.zarr /mnt/lab/caches --sign ~/.ssh/id_ed25519 --yes
    medal push chest.zarr sftp://lab.example.org/srv/caches --as "Ana"
    """
    from ..reader import open_cache
    from .publish import push as publish
    from .signing import sign
    from .store import open_store

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
    click.echo(plain(f"{what}; others get it by: medal pull {pushed.entry.cache_id} {store}"))
    if not pushed.served:
        note(
            "note: other content was published for the same request before (another chip rounds otherwise); that is "
            "served, and `medal list` shows both"
        )


def confirm(manifest: Manifest, yes: bool) -> None:
    """Show the free text of a manifest, and refuse to publish it unless somebody says yes."""
    from .privacy import free_names

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
            "Nothing was pushed: somebody has to see the names above. If they may be published, run the same command "
            "with --yes."
        )
    if not click.confirm("May they?", err=True):
        raise CacheError("Nothing was pushed. Rename them where the dataset is, and make the cache anew.")


@click.command(cls=Command, short_help="Get a cache from others, verified.")
@click.argument("name")
@click.argument("store")
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace another cache at OUT, once the new one is whole.")
@click.option(
    "--signers", type=click.Path(path_type=Path), metavar="FILE",
    help="Refuse what nobody signed whom this file of allowed signers names (as ssh-keygen has it).",
)  # fmt: skip
@click.option("--revoked", type=click.Path(path_type=Path), metavar="FILE", help="Keys that count no more.")
@json_option
def pull(
    name: str, store: str, out: Path | None, overwrite: bool, signers: Path | None, revoked: Path | None, as_json: bool
) -> None:
    """Get a cache from STORE by its dataset's name or the beginning of its id, and verify every byte of it.

    OUT ends in .zarr or .h5 (default: caches/DATASET-TEACHER.zarr). Half of a transfer is never visible, and an
    interrupted one goes on where it stopped.

    \b
    medal pull pneumoniamnist /mnt/lab/caches
    medal pull 3f2a9c https://lab.example.org/caches chest.h5
    """
    from .entries import find_entries
    from .fetch import Trust, choose_signed
    from .fetch import pull as get
    from .store import open_store

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
    click.echo(plain(f"{what} '{cache.path}', every byte verified; content digest {cache.content_digest}."))


def default_target(entry: Entry) -> Path:
    """Return where a cache goes if nobody says; its names come from a stranger."""
    names = (
        str(entry.summary.get("dataset") or "cache"),
        str(entry.summary.get("teacher") or "teacher").rpartition("/")[2],
    )
    safe = "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60].strip("._-") or "cache" for name in names)
    return Path("caches") / f"{safe}.zarr"


@click.command("list", cls=Command, short_help="Say what a store has.")
@click.argument("store")
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE",
    help="Only caches whose field KEY is VALUE, for instance dataset=chest or by=Ana; may be repeated.",
)  # fmt: skip
@json_option
def list_store(store: str, filters: tuple[str, ...], as_json: bool) -> None:
    """List the caches of STORE: dataset, task, rows, teacher, the probe's AUROC, views, size, who and when.

    \b
    medal list /mnt/lab/caches
    medal list s3://lab/caches --filter task=multilabel --json
    """
    from .collect import distinct
    from .entries import read_entries
    from .store import open_store

    opened = open_store(store)
    opened.check()
    entries, problems = read_entries(opened)
    for problem in problems:
        note(f"warning: {problem}")
    first = {entry.cache_id: entry.content for entry in reversed(entries)}
    rows = [_described(entry, first[entry.cache_id] == entry.content) for entry in distinct(entries)]
    for text in filters:
        key, equal, value = text.partition("=")
        if not equal or (rows and key not in rows[0]):
            known = ", ".join(rows[0]) if rows else "dataset, task, teacher, by"
            raise click.BadParameter(f"'{text}' is no KEY=VALUE with one of: {known}", param_hint="--filter")
        rows = [row for row in rows if _matches(row[key], value)]
    if as_json:
        print_json({"store": store, "caches": rows, "problems": problems})
        return
    _print_table(rows)


def _described(entry: Entry, is_served: bool) -> dict[str, Any]:
    summary = entry.summary
    shown = ("dataset", "task", "classes", "rows", "teacher", "revision", "weights_sha256", "feature", "image_size",
             "auroc", "views", "features_kept")  # fmt: skip
    return {
        **{name: summary.get(name) for name in shown},
        "bytes": entry.size,
        "by": entry.by,
        "published": datetime.fromtimestamp(min(entry.published / 1000, 253402300799), UTC).isoformat(
            timespec="seconds"
        ),
        "cache_id": entry.cache_id,
        "content_digest": entry.content_digest,
        "served": is_served,
    }


def _matches(found: Any, asked: str) -> bool:
    if isinstance(found, bool):
        return asked.lower() == str(found).lower()
    return str(found) == asked


def _print_table(rows: list[dict[str, Any]]) -> None:
    heads = ("id", "dataset", "task", "rows", "teacher", "auroc", "views", "MB", "by", "when")
    lines = [heads] + [
        (
            row["cache_id"][:8] + ("" if row["served"] else "*"),
            str(row["dataset"]),
            str(row["task"]),
            str(_total(row["rows"])),
            str(row["teacher"]).rpartition("/")[2],
            _auroc(row["auroc"]),
            str(row["views"]),
            f"{row['bytes'] / 1e6:.1f}",
            row["by"] or "-",
            row["published"][:10],
        )
        for row in rows
    ]
    widths = [max(len(plain(line[column])[:40]) for line in lines) for column in range(len(heads))]
    for line in lines:
        click.echo("  ".join(f"{plain(text)[:40]:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip())
    if any(not row["served"] for row in rows):
        note("* the same request with other content; the first published is served")


def _total(rows: Any) -> int:
    return sum(count for count in rows.values() if isinstance(count, int)) if isinstance(rows, dict) else 0


def _auroc(found: Any) -> str:
    values = found if isinstance(found, dict) else {}
    value = values.get("test", values.get("val"))
    return f"{value:.4f}" if isinstance(value, float) else "-"


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
    from .collect import withdraw
    from .store import open_store

    done = withdraw(open_store(store), name)
    result = {
        "store": store, "cache_id": done.entries[0].cache_id, "entries": len(done.entries), "freed": done.freed,
        "waiting": len(done.waiting),
    }  # fmt: skip
    if as_json:
        print_json(result)
        return
    click.echo(plain(f"Removed cache '{result['cache_id']}' from '{store}', {done.freed / 1e6:.1f} MB."))
    if done.waiting:
        note(f"note: somebody is reading its data just now; remove that later with: medal gc {store}")


@click.command(cls=Command, short_help="Remove what no cache of a store needs.")
@click.argument("store")
@json_option
def gc(store: str, as_json: bool) -> None:
    """Remove data of STORE that no cache needs: of removed ones, and what killed pushes left behind.

    What somebody reads or writes just now stays until the next time.

    \b
    medal gc /mnt/lab/caches
    """
    from .collect import collect
    from .store import open_store

    done = collect(open_store(store))
    if as_json:
        print_json({"store": store, "removed": len(done.sets), "freed": done.freed, "waiting": len(done.waiting)})
        return
    click.echo(plain(f"Removed {len(done.sets)} sets of data from '{store}', {done.freed / 1e6:.1f} MB."))
    if done.waiting:
        note(f"note: {len(done.waiting)} more are in use or being pushed; they stay")
