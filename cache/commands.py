"""Commands on one cache: show, verify, convert."""

from __future__ import annotations

import sys
from typing import Any

import click

from .console import json_option, print_json

__all__ = ["convert", "show", "verify"]


@click.command(short_help="Describe a cache.")
@click.argument("cache")
@json_option
def show(cache: str, as_json: bool) -> None:
    """Describe CACHE from its manifest: dataset, teacher, probe, digests.

    \b
    medal show chest.zarr
    medal show chest.zarr --json
    """
    from .reader import open_cache

    opened = open_cache(cache)
    if as_json:
        print_json({**opened.manifest.raw, "content_digest": opened.content_digest})
        return
    manifest = opened.manifest
    probe = manifest.probe.get("metrics", {})
    lines = {
        "cache": cache,
        "dataset": f"{manifest.dataset.get('name')} ({manifest.task}, {len(manifest.classes)} classes)",
        "classes": ", ".join(manifest.classes),
        "domains": ", ".join(manifest.domains) or "none",
        "rows": ", ".join(f"{split} {count}" for split, count in manifest.rows.items()),
        "teacher": f"{manifest.teacher.get('name')}, {manifest.teacher.get('feature')}, "
        f"{manifest.teacher.get('precision_used')}",
        "images": f"{manifest.preprocessing.get('image_size')} px, {manifest.preprocessing.get('resize')}",
        **({"left out": f"{skipped} images that cannot be used"} if (skipped := manifest.skipped.images) else {}),
        "features": "kept" if manifest.size.features_kept else "not kept",
        **{f"probe on {split}": _figures(probe[split]) for split in manifest.rows if split in probe},
        "cache_id": opened.cache_id,
        "content_digest": opened.content_digest,
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        click.echo(f"{name:<{width}}  {_plain(value)}")


def _plain(text: str) -> str:
    """Escape what would steer a terminal: names come from whoever made the cache."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _figures(figures: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4f}" for name in ("auroc", "accuracy") if isinstance(value := figures.get(name), float)
    )


@click.command(short_help="Check every byte of a cache.")
@click.argument("cache")
@json_option
def verify(cache: str, as_json: bool) -> None:
    """Read every byte of CACHE and compare it with its manifest and seal; exit 1 if anything is wrong.

    \b
    medal verify chest.zarr
    """
    from .verify import verify_path

    problems = verify_path(cache)
    if as_json:
        print_json({"ok": not problems, "problems": problems})
    else:
        click.echo("\n".join(map(_plain, problems)) or f"'{cache}' is sound: every byte is what was sealed.")
    if problems:
        sys.exit(1)


@click.command(short_help="Change a cache between Zarr and HDF5.")
@click.argument("cache")
@click.argument("out")
@click.option("--overwrite", is_flag=True, help="Replace OUT, once the new one is sealed.")
@json_option
def convert(cache: str, out: str, overwrite: bool, as_json: bool) -> None:
    """Write CACHE in the form that OUT's suffix names (.zarr or .h5): same content, same digest.

    \b
    medal convert chest.zarr chest.h5
    """
    from .convert import convert_path

    made = convert_path(cache, out, overwrite=overwrite)
    if as_json:
        print_json({"cache": out, "cache_id": made.cache_id, "content_digest": made.content_digest})
    else:
        click.echo(f"Wrote '{out}', content digest {made.content_digest}.")
