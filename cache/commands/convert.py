"""The command that needs one cache and nothing else: convert."""

from __future__ import annotations

import click

from ..terminal.command import Command
from ..terminal.console import json_option, print_json, say

__all__ = ["convert"]


@click.command(cls=Command, short_help="Convert a cache between Zarr and HDF5.")
@click.argument("cache")
@click.argument("out")
@click.option("--overwrite", is_flag=True, help="Replace OUT when the new one is sealed.")
@json_option
def convert(cache: str, out: str, overwrite: bool, as_json: bool) -> None:
    """Write CACHE in the form that OUT's suffix names (.zarr or .h5): same content, same digest.

    \b
    medal convert chest.zarr chest.h5
    """
    from ..convert import convert_path

    made = convert_path(cache, out, overwrite=overwrite)
    if as_json:
        print_json({"cache": out, "cache_id": made.cache_id, "content_digest": made.content_digest})
    else:
        say(f"Wrote '{out}', content digest {made.content_digest}.")
