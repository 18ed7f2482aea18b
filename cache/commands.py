"""What commands do on one cache that need nothing but the cache: describe, convert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .console import json_option, plain, print_json

if TYPE_CHECKING:
    from .reader import Cache

__all__ = ["convert", "describe"]


def describe(opened: Cache, name: str) -> None:
    """Print what a cache's manifest says, a line for each thing; `medal show` is in `pipeline`, for its DATASET."""
    manifest = opened.manifest
    probe = manifest.probe.get("metrics", {})
    lines = {
        "cache": name,
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
    for field, value in lines.items():
        click.echo(f"{field:<{width}}  {plain(value)}")


def _figures(figures: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4f}" for name in ("auroc", "accuracy") if isinstance(value := figures.get(name), float)
    )


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
