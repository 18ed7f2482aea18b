"""Refits the teacher's probe on some rows from the cached features, as stage one would fit it on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.reader import Cache
from ...pipeline.datasets.columns.dataset import UNKNOWN_BIT, UNKNOWN_CLASS, Task
from ...pipeline.probe.fit import Probe, fit_probe
from ...pipeline.probe.logistic import fold_logits
from ...pipeline.probe.settings import ProbeSettings
from .load import ProbeHead, SplitTargets, Targets

__all__ = ["head_logits", "hide_labels", "refit"]


def refit(targets: Targets, cache: Cache, learned: npt.NDArray[np.bool_]) -> Targets:
    """Return the targets with the logits of a probe that knows the labels of some rows of train, by the cache's recipe.

    These rows get out-of-fold logits, from probes fitted on the others of them; all other rows those of the probe that
    is fitted on all of these, which has not seen their labels. It may have seen their features: the graph of neighbours
    and the scale use all rows of train.

    Parameters
    ----------
    targets : with features
    learned : (N_train,) bool

    Raises
    ------
    DataError
        The known labels of these rows are all of one class.
    """
    train = targets.splits["train"]
    probe = _fit(targets, learned, _probe_settings(cache))
    fold = np.full(len(train), -1, np.int8)
    fold[learned] = probe.fold if len(probe.fold) < len(fold) else probe.fold[learned]
    splits = {
        name: replace(part, logits=_logits(part, fold if name == "train" else np.full(len(part), -1, np.int8), probe))
        for name, part in targets.splits.items()
    }
    return replace(targets, splits=splits, head=ProbeHead(probe.weight[-1], probe.bias[-1]))


def hide_labels(label: npt.NDArray[Any], hidden: npt.NDArray[np.bool_], task: Task) -> npt.NDArray[Any]:
    """Return labels (N,) or (N, L) with those of some rows unknown."""
    unknown = UNKNOWN_CLASS if task == "multiclass" else UNKNOWN_BIT
    return np.where(hidden.reshape(-1, *[1] * (label.ndim - 1)), unknown, label).astype(label.dtype)


def head_logits(feature: npt.NDArray[np.float16], head: ProbeHead) -> npt.NDArray[np.float32]:
    """Return the logits (N, V, C) of the features (N, V, F) of rows that no probe has seen."""
    fold = np.full(len(feature), -1, np.int8)
    return _every_view(feature, fold, head.weight[None], head.bias[None])


def _probe_settings(cache: Cache) -> ProbeSettings:
    """Return the settings of the cache's own probe, the usual ones where another writer did not record any."""
    request = cache.manifest.raw.get("request")
    recorded = request.get("probe") if isinstance(request, Mapping) else None
    return ProbeSettings() if recorded is None else ProbeSettings.from_dict(recorded)


def _fit(targets: Targets, learned: npt.NDArray[np.bool_], settings: ProbeSettings) -> Probe:
    train = targets.splits["train"]
    # `grid` only uses labelled rows and gets no others, so that its folds do not change.
    rows = learned if settings.recipe == "grid" else np.ones(len(train), np.bool_)
    taught = replace(train, label=hide_labels(train.label, ~learned, targets.task)).take(rows)
    parts = {**{name: part for name, part in targets.splits.items() if name == "val"}, "train": taught}
    return fit_probe(
        {name: _features(part)[:, 0] for name, part in parts.items()},
        {name: part.label for name, part in parts.items()},
        keys=taught.key,
        groups=taught.group,
        task=targets.task,
        n_classes=len(targets.classes),
        settings=settings,
        val_units=parts["val"].units if "val" in parts else None,
    )


def _features(part: SplitTargets) -> npt.NDArray[np.float16]:
    if part.feature is None:
        raise ValueError("the targets were loaded without features")
    return part.feature


def _logits(part: SplitTargets, fold: npt.NDArray[np.int8], probe: Probe) -> npt.NDArray[np.float32]:
    return _every_view(_features(part), fold, probe.weight, probe.bias)


def _every_view(
    feature: npt.NDArray[np.float16],
    fold: npt.NDArray[np.int8],
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Return the logits of every view, (N, V, C)."""
    views = [fold_logits(feature[:, view], fold, weight, bias) for view in range(feature.shape[1])]
    return np.stack(views, 1)
