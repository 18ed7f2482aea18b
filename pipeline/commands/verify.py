"""The command verify: every byte of a cache, its signatures, and a sample through the teacher again."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json, progress, say
from ...cache.text import plain
from ..datasets.options import DATASET_GROUP, dataset_options, take_dataset_options
from ..planning.request import CacheSettings

__all__ = ["verify"]

_DEFAULT = CacheSettings()


@click.command(cls=Command, groups=DATASET_GROUP, short_help="Check every byte of a cache.")
@click.argument("cache")
@click.argument("dataset", required=False)
@click.option(
    "--sample", type=click.IntRange(min=1), metavar="N", help="Send N images of DATASET through the teacher again."
)
@click.option(
    "--teacher",
    help="Folder or hub id of the teacher, for --sample (default: the one CACHE names, if it is on this machine).",
)
@click.option("--device", default=_DEFAULT.device, help="For --sample: auto, cpu, cuda …")
@click.option(
    "--signers",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CACHE.sig must be from someone in this file (ssh-keygen's format of allowed signers).",
)
@click.option("--revoked", type=click.Path(path_type=Path), metavar="FILE", help="Revoked keys.")
@json_option
@dataset_options
def verify(
    cache: str,
    dataset: str | None,
    sample: int | None,
    teacher: str | None,
    device: str,
    signers: Path | None,
    revoked: Path | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Read every byte of CACHE and compare it with its manifest and seal; exit 1 if anything is wrong.

    With --sample, DATASET is what CACHE was made from. N of its images, drawn at random, go through the teacher again;
    their features must agree with the cached ones to a cosine of 0.999. The options about columns are for DATASET.

    \b
    medal verify chest.zarr
    medal verify chest.zarr medmnist:pneumoniamnist --sample 50
    """
    from ...cache.verify import verify_path

    options = take_dataset_options(chosen)
    if (dataset is None) != (sample is None):
        raise click.UsageError("--sample N and DATASET go together: medal verify CACHE DATASET --sample N")
    problems = verify_path(cache)
    if signers is not None and not problems:
        problems += _signature_problems(cache, signers, revoked)
    checked: dict[str, Any] | None = None
    if dataset is not None and sample is not None and not problems:
        from ...cache.reader import open_cache
        from ..features.recheck import recheck

        found = recheck(open_cache(cache), dataset, options, sample, progress, teacher=teacher, device=device)
        problems = found.problems
        for told in found.notes:
            note(told)
        checked = {"images": found.images, "min_cosine": found.min_cosine}
    if as_json:
        print_json({"ok": not problems, "problems": problems, "sample": checked})
    else:
        sound = f"'{cache}' is intact: every byte is as it was sealed."
        if checked and not problems:
            # Rounded down, as it is a bound.
            worst = math.floor(checked["min_cosine"] * 1e5) / 1e5
            sound += (
                f" {checked['images']} images were sent through the teacher again: the features agree, cosine at "
                f"least {worst:.5f}."
            )
        say("\n".join(map(plain, problems)) or sound)
    if problems:
        sys.exit(1)


def _signature_problems(cache: str, signers: Path, revoked: Path | None) -> list[str]:
    from ...cache.errors import CacheMismatch
    from ...cache.reader import open_cache
    from ...cache.store.signing import check_signature, signature_path

    path = signature_path(Path(cache))
    try:
        seal = open_cache(cache).seal.to_bytes()
        principal, _ = check_signature(
            f"'{cache}'", seal, [path.read_bytes()] if path.is_file() else [], signers, revoked
        )
    except CacheMismatch as error:
        return [str(error)]
    note(f"signed by {principal}")
    return []
