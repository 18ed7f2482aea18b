"""Commands on one cache that need nothing but the cache: show, convert."""

from __future__ import annotations

import click

from .console import copies_option, json_option, plain, print_json, resolve_cache

__all__ = ["convert", "show"]


@click.command(short_help="Describe a cache.")
@click.argument("cache")
@copies_option
@json_option
def show(cache: str, max_cache_size: str, as_json: bool) -> None:
    """Describe CACHE from its manifest: dataset, teacher, probe, digests. CACHE may be STORE#NAME-OR-ID.

    \b
    medal show chest.zarr
    medal show chest.zarr --json
    medal show /mnt/lab/caches#pneumoniamnist
    """
    from .describe import describe
    from .reader import open_cache

    opened = open_cache(resolve_cache(cache, max_cache_size))
    if as_json:
        print_json({**opened.manifest.raw, "content_digest": opened.content_digest})
        return
    lines = {"cache": cache, **describe(opened.manifest)}
    width = max(map(len, lines))
    for name, value in lines.items():
        click.echo(f"{name:<{width}}  {plain(value)}")


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
