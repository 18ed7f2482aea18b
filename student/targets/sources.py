"""What a student learns from, opened: caches, and the datasets that they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...cache.errors import CacheMismatch
from ...cache.reader import Cache, open_cache
from ...pipeline.datasets.columns.dataset import UNLABELLED, Dataset, DatasetOptions
from ...pipeline.datasets.opening import open_dataset
from ...pipeline.datasets.recorded import recorded_options
from .unlabelled import Beside, open_beside

__all__ = ["Sources", "open_sources"]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """A cache and its dataset, and what is learned from beside them.

    Attributes
    ----------
    spec : what the user calls the dataset
    options : how the dataset is read, as the cache records it where nothing else is asked for
    also : further caches whose logits are averaged with the first one's, and their weights
    beside : caches of images without labels that join train, each with its dataset
    """

    cache: Cache
    dataset: Dataset
    spec: str
    options: DatasetOptions
    also: tuple[tuple[Cache, float], ...]
    beside: tuple[Beside, ...]


def open_sources(
    cache_path: str,
    spec: str,
    options: DatasetOptions,
    also: Sequence[tuple[str, float]] = (),
    unlabelled: Sequence[tuple[str, str]] = (),
) -> Sources:
    """Open all of them.

    Raises
    ------
    CacheError, DataError
        One of them cannot be used.
    """
    cache = open_cache(cache_path)
    if cache.manifest.task == "multiclass" and cache.manifest.classes == UNLABELLED:
        raise CacheMismatch(
            f"Cache '{cache.path}' was made with --unlabelled and has no labels, so it cannot be used alone; add it "
            f"to a cache with labels: medal train-student CACHE DATASET --out RUN --unlabelled {cache.path} {spec}"
        )
    options = recorded_options(options, cache.manifest, spec)
    return Sources(
        cache=cache,
        dataset=open_dataset(spec, options, cache.manifest.classes),
        spec=spec,
        options=options,
        also=tuple((open_cache(path), weight) for path, weight in also),
        beside=tuple(open_beside(path, place, options.key_secret) for path, place in unlabelled),
    )
