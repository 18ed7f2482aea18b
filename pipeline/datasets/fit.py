"""How a dataset and a cache fit: which images have a row, which do not, whose labels disagree."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...cache.reader import Cache
    from .columns.dataset import DatasetOptions


__all__ = ["Fit", "fit"]


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

    from ...cache.join import image_members, join
    from . import SPLITS
    from .opening import open_dataset
    from .recorded import recorded_options

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
