"""The command show: a cache described, and how a dataset fits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ...cache.store.options import resolve_cache, store_options
from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, print_json, say
from ...cache.text import plain
from ..datasets.fit import fit, remedies
from ..datasets.options import DATASET_GROUP, dataset_options, take_dataset_options

__all__ = ["show"]


@click.command(cls=Command, groups=DATASET_GROUP, short_help="Describe a cache.")
@click.argument("cache")
@click.argument("dataset", required=False)
@store_options
@json_option
@dataset_options
def show(
    cache: str,
    dataset: str | None,
    max_cache_size: str,
    signers: Path | None,
    revoked: Path | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Describe CACHE from its manifest: dataset, teacher, probe, digests. CACHE may be STORE#NAME-OR-ID.

    With DATASET, show how the two fit, by split: matched, missing and extra images, and labels that disagree; and the
    commands that correct it. The options about columns are for DATASET.

    \b
    medal show chest.zarr
    medal show chest.zarr --json
    medal show /mnt/lab/caches#pneumoniamnist
    medal show chest.zarr medmnist:pneumoniamnist
    """
    from ...cache.describe import describe
    from ...cache.reader import open_cache

    options = take_dataset_options(chosen)
    opened = open_cache(resolve_cache(cache, max_cache_size, signers, revoked))
    found = None if dataset is None else fit(opened, dataset, options)
    if as_json:
        report = {} if found is None else {"fit": {**asdict(found), "fits": found.is_perfect}}
        print_json({**opened.manifest.raw, "content_digest": opened.content_digest, **report})
        return
    _print({"cache": cache, **describe(opened.manifest)})
    if found is None or dataset is None:
        return
    click.echo("")
    lines = {
        "matched": _counts(found.matched),
        "missing": _counts(found.missing) + (f"; {found.left_out} of them cannot be used" if found.left_out else ""),
        "extra": _counts(found.extra),
        "labels disagree": _counts(found.disagree),
        "other split": str(found.moved or "none"),
    }
    _print(lines)
    for command in remedies(found, cache, dataset):
        click.echo(plain(f"  {command}"))
    if found.is_perfect:
        say(plain(f"'{dataset}' fits '{cache}'."))


def _print(lines: Mapping[str, str]) -> None:
    width = max(map(len, lines))
    for name, value in lines.items():
        say(f"{name:<{width}}  {plain(value)}", hang=width + 2)


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in found.items() if count) or "none"
