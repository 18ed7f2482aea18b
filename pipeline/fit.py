"""How a dataset and a cache fit: which images have a row, which do not, whose labels disagree; and the command show."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..cache.store.options import resolve_cache, store_options
from ..cache.terminal.command import Command
from ..cache.terminal.console import json_option, print_json
from ..cache.text import plain
from .datasets.options import DATASET_GROUP, dataset_options, take_dataset_options

if TYPE_CHECKING:
    from ..cache.reader import Cache
    from .datasets.dataset import DatasetOptions

__all__ = ["Fit", "fit", "show"]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a dataset and a cache fit, in counts of images by split.

    Attributes
    ----------
    matched : of the dataset's images by the cache's split, those with a row; with another label included
    disagree : those of `matched` whose label is another one in the cache
    missing : of the dataset's images by its own split (`none` where it has none), those without a row
    left_out : those of `missing` that the cache declares as images that could not be used
    extra : rows of the cache that no image of the dataset stands for
    moved : images that stand in another split of the cache
    """

    matched: Mapping[str, int]
    disagree: Mapping[str, int]
    missing: Mapping[str, int]
    left_out: int
    extra: Mapping[str, int]
    moved: int

    @property
    def is_perfect(self) -> bool:
        """Whether stage two has nothing to refuse."""
        return not sum(self.missing.values()) - self.left_out and not sum(self.disagree.values())


def fit(cache: Cache, spec: str, options: DatasetOptions) -> Fit:
    """Join a dataset with a cache by content and count.

    Raises
    ------
    DataError, CacheError
        One of them cannot be read.
    """
    import numpy as np

    from ..cache.join import image_members, join
    from .datasets import SPLITS, open_dataset
    from .datasets.recorded import recorded_options

    dataset = open_dataset(spec, recorded_options(options, cache.manifest, spec), cache.manifest.classes)
    key, unreadable = dataset.find_keys()
    readable = np.setdiff1d(np.arange(len(dataset)), np.array(list(unreadable), np.int64))
    dataset, key = dataset.take(readable), key[readable]
    joined = join(cache, key, dataset.label, dataset.split)
    split = np.full(len(dataset), -1, np.int8) if dataset.split is None else dataset.split
    disagree = np.zeros(len(dataset), np.bool_)
    disagree[joined.disagree] = True
    rows = {name: partner[partner >= 0] for name, partner in joined.rows.items()}
    missing = split[joined.missing]
    return Fit(
        matched={name: len(found) for name, found in rows.items()},
        disagree={name: int(disagree[found].sum()) for name, found in rows.items()},
        missing={
            name: count
            for code, name in enumerate([*SPLITS, "none"])
            if (count := int((missing == (code if code < len(SPLITS) else -1)).sum()))
        },
        left_out=int(image_members(key[joined.missing], cache.manifest.skipped.keys).sum()) + len(unreadable),
        extra={name: int((partner < 0).sum()) for name, partner in joined.rows.items()},
        moved=sum(
            int(((split[found] >= 0) & (split[found] != SPLITS.index(name))).sum()) for name, found in rows.items()
        ),
    )


def remedies(found: Fit, cache: str, spec: str) -> list[str]:
    """Return the commands that would mend what does not fit."""
    train = shlex.join(["medal", "train-student", cache, spec, "--out", "RUN"])
    commands = []
    if sum(found.missing.values()) > found.left_out:
        commands.append(f"medal cache-teacher {shlex.quote(spec)} {shlex.quote(cache)}   # computes the missing images")
        commands.append(f"{train} --on-missing drop   # leaves them out")
    if sum(found.disagree.values()):
        commands.append(f"{train} --labels dataset   # or --labels cache: whose labels count")
    return commands


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

    With DATASET, say how the two fit: matched, missing and extra images, labels that disagree, by split, and the
    commands that would mend it. The options about columns are for DATASET.

    \b
    medal show chest.zarr
    medal show chest.zarr --json
    medal show /mnt/lab/caches#pneumoniamnist
    medal show chest.zarr medmnist:pneumoniamnist
    """
    from ..cache.describe import describe
    from ..cache.reader import open_cache

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
        click.echo(plain(f"'{dataset}' fits '{cache}'."))


def _print(lines: Mapping[str, str]) -> None:
    width = max(map(len, lines))
    for name, value in lines.items():
        click.echo(f"{name:<{width}}  {plain(value)}")


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in found.items() if count) or "none"
