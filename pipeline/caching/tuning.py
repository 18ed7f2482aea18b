"""Chooses the teacher's input size and feature recipe on val, from a limited sample of train."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheError
from ...cache.machine.processors import usable_processors
from ...cache.making.work import WorkDirectory, work_path
from ...cache.progress import Advance, Progress, Tell
from ...cache.reader import open_cache
from ..features.engine import capable_precision, load_teacher
from ..planning.plan import Plan
from ..planning.rows import SplitRows
from ..teacher.files import feature_dim, fitting_features

__all__ = ["TunedTrial", "settle"]


# Small images carry no more at 224 px than at 112, which costs a quarter; large ones may.
_SIZES = (112, 224)
# Of train, and of val: the first by key, which is a hash, and a few of each class.
_SAMPLE, _OF_EACH_CLASS = 1_000, 10
_BATCH = 32
# Differences in AUROC below this are noise on samples of this size, and not worth the cost.
_WORTH = 0.002
# What a choice was made for is compared without these.
_CHOSEN = (("teacher", "feature"), ("preprocessing", "image_size"))


@dataclass(frozen=True, kw_only=True)
class TunedTrial:
    """A size and a recipe with the probe's scores; images_per_second is the teacher's."""

    feature: str
    image_size: int
    val_auroc: float
    val_log_loss: float
    images_per_second: float

    def __str__(self) -> str:
        return (
            f"{self.image_size:4} px, {self.feature:8}: val AUROC {self.val_auroc:.4f}, "
            f"log-loss {self.val_log_loss:.4f}, {self.images_per_second:.0f} images/s"
        )


def settle(asked: Plan, progress: Progress | None, tell: Tell) -> Plan:
    """Return a plan with the feature recipe and the input size chosen: as an earlier run of it did, or by trying.

    Parameters
    ----------
    progress : None where nothing is to be tried, only remembered
    """
    tuned = _remember(asked)
    if tuned is None:
        if progress is None:
            tell("sizes and recipes would be tried first; the following is for the given ones")
            return asked
        tuned = _tune(asked, progress, tell)
    return replace(asked.with_teacher(**tuned["chosen"]), tuned=tuned)


def _remember(asked: Plan) -> Mapping[str, Any] | None:
    """Return what an earlier run of the same request chose, from the cache at the target or the work on it."""
    records: list[Mapping[str, Any]] = [WorkDirectory(work_path(asked.target)).read_settings() or {}]
    with suppress(CacheError):
        records.insert(0, open_cache(asked.target).manifest.raw)
    for record in records:
        request, tuned = record.get("request"), record.get("tuned")
        if isinstance(request, dict) and isinstance(tuned, dict) and _open(request) == _open(asked.request):
            return tuned
    return None


def _open(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request without what tuning decides, and without the rows: a dataset that grows keeps its choice."""
    left = {name: dict(value) if isinstance(value, dict) else value for name, value in request.items()}
    for section, name in _CHOSEN:
        values = left.get(section)
        if isinstance(values, dict):
            values.pop(name, None)
    left.pop("rows", None)
    return left


def _tune(asked: Plan, progress: Progress, tell: Tell) -> dict[str, Any]:
    """Try sizes and recipes, and return the record of it as JSON: `trials`, `chosen` and the size of the sample.

    The best AUROC on val wins; where two are as good as the same, the cheaper one does.

    Raises
    ------
    DataError, TeacherError
        No probe can be fitted on the sample, or the teacher cannot be loaded.
    """
    sample = {split: _draw(asked.rows[split]) for split in ("train", "val")}
    recipes = fitting_features(asked.files.config)
    sizes = sorted({*_SIZES, asked.preprocessing.image_size})
    trials: list[TunedTrial] = []
    with progress("tuning", len(sizes) * sum(map(len, sample.values())), 0) as advance:
        for size in sizes:
            features, rate = _features(asked.with_teacher(recipes[-1], size), sample, advance)
            for recipe in recipes:
                dim = feature_dim(asked.files.config, recipe)
                # The recipes end alike: CLS of the last block, then its mean patch.
                judged = _judge(asked, {split: part[:, -dim:] for split, part in features.items()}, sample)
                trials.append(TunedTrial(feature=recipe, image_size=size, images_per_second=rate, **judged))
    chosen = _choose(trials)
    tell(f"tuned on {len(sample['train'])} images of train, chosen on {len(sample['val'])} of val:")
    for trial in trials:
        tell(f"{'*' if trial is chosen else ' '} {trial}")
    return {
        "sample": {split: len(part) for split, part in sample.items()},
        "trials": [_plain(trial) for trial in trials],
        "chosen": {"feature": chosen.feature, "image_size": chosen.image_size},
    }


def _draw(part: SplitRows) -> SplitRows:
    keep = np.zeros(len(part), bool)
    keep[:_SAMPLE] = True
    columns = [part.label == value for value in np.unique(part.label)] if part.label.ndim == 1 else (part.label == 1).T
    for column in columns:
        keep[np.flatnonzero(column)[:_OF_EACH_CLASS]] = True
    return part.take(keep)


def _features(
    asked: Plan, sample: Mapping[str, SplitRows], advance: Advance
) -> tuple[dict[str, npt.NDArray[np.float16]], float]:
    """Return features (N, F) float16 of a sample, and how many images a second the teacher takes."""
    from ..features.loading import load_batch

    teacher = load_teacher(asked, capable_precision(asked))
    found: dict[str, list[npt.NDArray[np.float16]]] = {split: [] for split in sample}
    seconds = 0.0
    with ThreadPoolExecutor(usable_processors()) as readers:
        for split, part in sample.items():
            for start in range(0, len(part), _BATCH):
                loaded = load_batch(asked.dataset, part.source[start : start + _BATCH], asked.preprocessing, readers)
                for error in loaded.bad.values():
                    raise error
                begun = time.monotonic()
                found[split].append(teacher.features(loaded.pixels, asked.preprocessing).astype(np.float16))
                seconds += time.monotonic() - begun
                advance(len(loaded.places))
    return {split: np.concatenate(parts) for split, parts in found.items()}, sum(map(len, sample.values())) / seconds


def _judge(
    asked: Plan, features: Mapping[str, npt.NDArray[np.float16]], sample: Mapping[str, SplitRows]
) -> dict[str, float]:
    from ..metrics import log_loss, score
    from ..probe.fit import fit_probe
    from ..probe.logistic import fold_logits

    dataset, val = asked.dataset, sample["val"]
    probe = fit_probe(
        features,
        {split: part.label for split, part in sample.items()},
        keys=sample["train"].key,
        groups=sample["train"].group,
        task=dataset.task,
        n_classes=len(dataset.classes),
        settings=replace(asked.settings.probe_settings, folds=0),
        tell=lambda _: None,
    )
    logits = fold_logits(features["val"], np.full(len(val), -1, np.int8), probe.weight, probe.bias)
    return {
        "val_auroc": score(logits, val.label, dataset.task, dataset.classes).auroc,
        "val_log_loss": log_loss(logits, val.label, dataset.task),
    }


def _choose(trials: list[TunedTrial]) -> TunedTrial:
    """Return the first of those that are as good as the best, cheapest first; by log-loss where no AUROC is defined."""
    defined = [trial for trial in trials if not math.isnan(trial.val_auroc)]
    if not defined:
        return min(trials, key=lambda trial: trial.val_log_loss)
    best = max(trial.val_auroc for trial in defined)
    return next(trial for trial in defined if trial.val_auroc >= best - _WORTH)


def _plain(trial: TunedTrial) -> dict[str, Any]:
    values = asdict(trial).items()
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values}
