"""Another probe on cached features: a new sealed cache in seconds, without teacher or images.

sealed cache ─► rows amended ─► the same request but for rows, classes and probe ─► probe, logits ─► sealed cache
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...cache.errors import CacheIncomplete, CacheMismatch, DataError
from ...cache.format.digest import cache_id
from ...cache.format.layout import Dimensions, expected_arrays
from ...cache.machine.permission import require_place
from ...cache.making.life import decide, find_at
from ...cache.making.lock import locked
from ...cache.making.work import WorkDirectory, work_path
from ...cache.making.writer import put_back, write_cache
from ...cache.progress import Tell
from ...cache.reader import Cache, open_cache
from ..datasets import check_rare
from ..planning.reused_features import MergedRows, stage_rows
from ..planning.rows import SplitRows, arrange_rows, rows_digest
from ..probe.settings import ProbeSettings, Recipe
from ..teacher.machine import library_versions
from .amendments import Amended, amend
from .assembly import Content, describe_fit, describe_rows, lay_out
from .cached_rows import cached_rows

__all__ = ["ReprobeSettings", "Reprobed", "Reprobing", "estimate", "prepare", "reprobe"]

Action = Literal["create", "reuse"]


@dataclass(frozen=True, kw_only=True)
class ReprobeSettings:
    """Settings of `medal reprobe`; the command line takes its defaults from here.

    Attributes
    ----------
    probe : recipe of the probe; None = the cache's
    folds : probes that make train's logits out of fold, 0 = in-sample logits; None = as the cache has them
    exclude_classes, exclude_domains : names of what is left out
    exclude_keys : file of content keys, one a line in hexadecimal
    labels : table of keys and the labels that are right
    """

    probe: Recipe | None = None
    folds: int | None = None
    exclude_classes: tuple[str, ...] = ()
    exclude_domains: tuple[str, ...] = ()
    exclude_keys: Path | None = None
    labels: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Reprobing:
    """A reprobe, with everything decided before a probe is fitted.

    Attributes
    ----------
    rows : those of the new cache, as rows of `amended.dataset`
    """

    source: Cache
    target: Path
    amended: Amended
    rows: Mapping[str, SplitRows]
    probe: ProbeSettings
    request: Mapping[str, Any]
    cache_id: str
    action: Action
    existing: Cache | None
    overwrite: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reprobed:
    """Result of a reprobe."""

    cache: Cache
    action: Action
    seconds: float


def prepare(source: str, out: str, settings: ReprobeSettings, *, overwrite: bool = False) -> Reprobing:
    """Read the rows of a cache, amend them, and decide what to do about the target; nothing is written.

    Splits stay the cache's. The request is that of the cache but for rows, number of classes and probe: what stage one
    would be asked for with a dataset of these rows, where the dataset says their splits itself.

    Raises
    ------
    CacheError
        The cache has no features or does not say what it was made from, or the target holds something else.
    DataError
        What is left out or corrected is not there, or what is left is too little.
    """
    cache = open_cache(source)
    probe = _recorded_probe(cache)
    probe = replace(probe, recipe=settings.probe or probe.recipe)
    if settings.folds is not None:
        probe = replace(probe, folds=settings.folds)
    dataset, key, split = cached_rows(cache)
    amended = amend(
        dataset,
        key,
        skipped=cache.manifest.skipped.keys,
        exclude_classes=settings.exclude_classes,
        exclude_domains=settings.exclude_domains,
        exclude_keys=settings.exclude_keys,
        labels=settings.labels,
    )
    split = split[amended.rows]
    warnings = (*amended.warnings, *check_rare(amended.dataset, split))
    rows = arrange_rows(amended.dataset, key[amended.rows], split)
    if "val" in cache.splits and "val" not in rows:
        warnings = (
            *warnings,
            (
                "no image of val is left: the probe's settings are chosen within train, and students cannot be trained "
                "without val"
            ),
        )
    request = {
        **cache.manifest.raw["request"],
        "classes": len(amended.dataset.classes),
        "rows": rows_digest(rows),
        "probe": probe.to_dict(),
    }
    return decide_again(
        Reprobing(
            source=cache,
            target=Path(out),
            amended=amended,
            rows=rows,
            probe=probe,
            request=request,
            cache_id=cache_id(request),
            action="create",
            existing=None,
            overwrite=overwrite,
            warnings=warnings,
        )
    )


def decide_again(asked: Reprobing) -> Reprobing:
    """Check the target, again inside the lock, and decide what to do about it."""
    found = find_at(asked.target, thorough=asked.overwrite)
    action = decide(found, asked.cache_id, asked.request, overwrite=asked.overwrite)
    # Work that stage one left for the same request would end in the same cache.
    return replace(asked, action="reuse" if action == "reuse" else "create", existing=found.cache)


def reprobe(asked: Reprobing, *, wait: bool = True, tell: Tell = lambda _: None) -> Reprobed:
    """Carry out a reprobe: copy the features of the rows, fit the probe, seal.

    Raises
    ------
    CacheBusy
        Another process is making the target, and `wait` is not set.
    CacheCorrupt
        The arrays of the source are not what its seal says.
    CacheIncomplete
        Stopped by the file system or by Ctrl-C; the target is unchanged.
    """
    begun = time.monotonic()
    if asked.action == "reuse" and asked.existing is not None:
        return Reprobed(cache=asked.existing, action="reuse", seconds=time.monotonic() - begun)
    require_place(asked.target)
    with locked(asked.target, wait=wait, tell=tell) as lock:
        put_back(asked.target)
        asked = decide_again(asked)
        if asked.action == "reuse" and asked.existing is not None:
            return Reprobed(cache=asked.existing, action="reuse", seconds=time.monotonic() - begun)
        work = WorkDirectory(work_path(asked.target))
        try:
            work.begin(_record(asked))
            content = Content(
                dataset=asked.amended.dataset,
                rows=asked.rows,
                fields=_stage(asked, work),
                probe=asked.probe,
                features_kept=True,
            )
            arrays, probe = lay_out(content, tell)
            description = _describe(asked, describe_fit(content.dataset, content.rows, arrays, probe))
            lock.check()
            cache = write_cache(asked.target, arrays, description, tell)
        except (OSError, KeyboardInterrupt) as error:
            how = "by Ctrl-C" if isinstance(error, KeyboardInterrupt) else f"by the file system ({error})"
            raise CacheIncomplete(
                f"Stopped {how}: '{asked.target}' is unchanged. Run the same command again."
            ) from error
        finally:
            work.remove()
    return Reprobed(cache=cache, action="create", seconds=time.monotonic() - begun)


def estimate(asked: Reprobing) -> tuple[int, float]:
    """Return the bytes of the sealed cache and roughly the seconds of the fits, from one timed pass over some rows."""
    size = asked.source.manifest.size
    new = Dimensions(
        task=size.task,
        rows={split: len(part) for split, part in asked.rows.items()},
        classes=len(asked.amended.dataset.classes),
        feature=size.feature,
        views=size.views,
        view_parameters=size.view_parameters,
        probes=asked.probe.folds + 1,
        features_kept=True,
    )
    total = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in expected_arrays(new).values())
    if asked.action == "reuse":
        return total, 0.0
    few = min(2048, new.rows["train"])
    matrix, weight = np.ones((few, size.feature), np.float32), np.ones((size.feature, new.classes), np.float32)
    begun = time.monotonic()
    matrix.T @ (matrix @ weight)
    a_pass = (time.monotonic() - begun) * new.rows["train"] / few
    # Steps of the solver as they were for the cache's own probe, each one pass or a little more.
    tried = asked.source.manifest.probe.get("tried") or []
    steps = [trial.get("iterations", 100) for trial in tried if isinstance(trial, dict)]
    return total, 1.3 * a_pass * (sum(steps) + max(steps, default=100) * new.probes)


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _recorded_probe(cache: Cache) -> ProbeSettings:
    """Return the settings of a cache's probe; what reprobing needs beside them is checked here as well."""
    if not cache.manifest.size.features_kept:
        raise CacheMismatch(
            f"Cache '{cache.path}' was made with --no-features, so no other probe can be fitted; make it again "
            "without that option: medal cache-teacher DATASET OUT"
        )
    try:
        return ProbeSettings.from_dict(cache.manifest.raw.get("request", {}).get("probe"))
    except DataError as error:
        raise CacheMismatch(
            f"Cache '{cache.path}' records its probe differently from this version of medal: {error} Make it again: "
            "medal cache-teacher DATASET OUT"
        ) from error


def _record(asked: Reprobing) -> dict[str, Any]:
    """Return what the work directory says of itself, as stage one's does: it may be told to go on there."""
    return {
        "cache_id": asked.cache_id,
        "request": dict(asked.request),
        "medal": version("medalmighty"),
        "precision_used": None,
        "min_cosine_to_fp32": None,
        "batch_size": None,
        "computed_on": [],
        "taken_from": [asked.source.content_digest],
        "tuned": None,
    }


def _stage(asked: Reprobing, work: WorkDirectory) -> dict[str, dict[str, MergedRows]]:
    """Copy what is cached of the rows beside the target: the source may be replaced by what is made of it."""
    staged: dict[str, dict[str, MergedRows]] = {name: {} for name in ("feature", "view", "view_check")}
    start = 0
    for split, count in asked.source.manifest.rows.items():
        if split in asked.rows:
            local = asked.amended.rows[asked.rows[split].source] - start
            wanted = np.zeros(count, np.bool_)
            wanted[local] = True
            known = stage_rows(asked.source, split, wanted, work.scratch(f"known-{split}"))
            index = np.cumsum(wanted)[local] - 1
            for name, by_split in staged.items():
                by_split[split] = MergedRows(known, name, index, None)
        start += count
    return staged


def _describe(asked: Reprobing, probe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest but for its table of arrays: the cache's own, where rows and probe do not change it."""
    raw = {name: value for name, value in asked.source.manifest.raw.items() if name != "arrays"}
    dataset = {**asked.source.manifest.dataset, **describe_rows(asked.amended.dataset, asked.rows)}
    if len(asked.amended.excluded) and "keys" in dataset.get("skipped", {}):
        # Withdrawn images are not named anywhere, not even among images that could not be used.
        gone = {bytes(key).hex() for key in asked.amended.excluded}
        keys = {split: [key for key in part if key not in gone] for split, part in dataset["skipped"]["keys"].items()}
        dataset["skipped"] = {**dataset["skipped"], "keys": keys}
    return {
        **raw,
        "medal": version("medalmighty"),
        "cache_id": asked.cache_id,
        "request": dict(asked.request),
        "dataset": dataset,
        "probe": dict(probe),
        "reprobed_from": {"content_digest": asked.source.content_digest, **asked.amended.counts},
        "versions": library_versions(),
    }
