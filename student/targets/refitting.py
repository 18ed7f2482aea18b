"""The teacher's probe fitted anew on some of the rows, from the cached features, as stage one would fit it on these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...cache.reader import Cache
from ...pipeline.probe.fit import Probe, ProbeSettings, fit_probe
from ...pipeline.probe.logistic import fold_logits
from .load import ProbeHead, SplitTargets, Targets

__all__ = ["head_logits", "refit"]


def refit(targets: Targets, cache: Cache, learned: npt.NDArray[np.bool_]) -> Targets:
    """Return the targets with the logits of a probe that has seen some rows of train alone, with the cache's settings.

    These rows get out-of-fold logits, from probes fitted on the others of them; all other rows those of the probe that
    is fitted on all of these, which has not seen them. val chooses C and the temperature.

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
    fold[learned] = probe.fold
    splits = {
        name: replace(part, logits=_logits(part, fold if name == "train" else np.full(len(part), -1, np.int8), probe))
        for name, part in targets.splits.items()
    }
    return replace(targets, splits=splits, head=ProbeHead(probe.weight[-1], probe.bias[-1]))


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
    kept = {name: part for name, part in targets.splits.items() if name != "test"}
    chosen = {name: learned if name == "train" else np.ones(len(part), np.bool_) for name, part in kept.items()}
    train = targets.splits["train"]
    return fit_probe(
        {name: _features(part)[:, 0][chosen[name]] for name, part in kept.items()},
        {name: part.label[chosen[name]] for name, part in kept.items()},
        keys=train.key[learned],
        groups=train.group[learned],
        task=targets.task,
        n_classes=len(targets.classes),
        settings=settings,
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
