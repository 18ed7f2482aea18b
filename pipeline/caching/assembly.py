"""Builds the arrays and the manifest of a cache from stored features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheCorrupt
from ...cache.format.digest import Rows
from ...cache.format.layout import FORMAT
from ...cache.making.work import ChunkedRows, work_path
from ...cache.progress import Alert, Tell
from ...cache.verify import count_repeats
from ..datasets import Dataset, exclude_flags, rarest_class
from ..datasets.columns.units import find_units
from ..features.contrast import LOOKED_AT
from ..features.extract import Computed
from ..planning.plan import Plan
from ..planning.reused_features import Known, MergedRows
from ..planning.rows import SplitRows, anonymous_groups
from ..planning.skipped import describe_skipped
from ..probe.fit import Probe, describe_probe, fit_probe, silent_probe
from ..probe.logistic import fold_logits
from ..probe.settings import ProbeSettings
from ..teacher.machine import library_versions
from ..views.policies import VIEW_PARAMETERS, policy_named

__all__ = ["Content", "assemble_arrays", "describe_cache", "describe_fit", "describe_rows", "lay_out"]


Look = Callable[[npt.NDArray[np.uint8], npt.NDArray[Any]], dict[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the arrays of a cache are laid out from.

    Attributes
    ----------
    dataset : of which the rows are; its images are not looked at
    rows : in the order of the cache, by split
    fields : ``feature``, ``view`` and ``view_check`` of the rows, each by split
    probe : settings of the probe
    """

    dataset: Dataset
    rows: Mapping[str, SplitRows]
    fields: Mapping[str, Mapping[str, Rows]]
    probe: ProbeSettings
    features_kept: bool


def assemble_arrays(
    asked: Plan, computed: Computed, known: Mapping[str, Known], tell: Tell, look: Look = lambda _key, _feature: None
) -> tuple[dict[str, Rows], Probe, dict[str, Any] | None]:
    """Combine reused and computed features, and build the cache's arrays.

    Parameters
    ----------
    look : called with keys and features of the first rows of train; what it returns is returned as well
    """
    index = {split: known[split].find(part.key) for split, part in asked.rows.items()}
    fields = {
        name: {
            split: MergedRows(known[split], name, index[split], _fresh(computed, split, name)) for split in asked.rows
        }
        for name in ("key", "feature", "view", "view_check")
    }
    for split, part in asked.rows.items():
        if not np.array_equal(fields["key"][split][:], part.key):
            raise CacheCorrupt(
                f"'{work_path(asked.target)}' holds different images; remove it and run the same command again."
            )
    content = Content(
        dataset=asked.dataset,
        rows=asked.rows,
        fields=fields,
        probe=asked.settings.probe_settings,
        features_kept=asked.settings.features_kept,
    )
    alike = look(fields["key"]["train"][0:LOOKED_AT], fields["feature"]["train"][0:LOOKED_AT][:, 0])
    return *lay_out(content, tell), alike


def lay_out(content: Content, tell: Tell) -> tuple[dict[str, Rows], Probe]:
    """Fit the probe on the stored features and build every array of the cache; `tell` reports progress of the fit."""
    dataset, rows = content.dataset, content.rows
    train = rows["train"]
    if dataset.unlabelled:
        probe = silent_probe(len(train), content.fields["feature"]["train"].shape[2], content.probe)
    else:
        probe = fit_probe(
            {split: _View(feature, 0) for split, feature in content.fields["feature"].items()},
            {split: part.label for split, part in rows.items()},
            keys=train.key,
            groups=train.group,
            task=dataset.task,
            n_classes=len(dataset.classes),
            settings=content.probe,
            val_units=find_units(rows["val"].key, rows["val"].group) if "val" in rows else None,
            tell=tell,
        )
    if probe.folds < content.probe.folds and not dataset.unlabelled:
        tell(_shrunk(content, probe.folds))
    groups = anonymous_groups(rows, content.probe.seed)
    arrays: dict[str, Rows] = {"probe/weight": probe.weight, "probe/bias": probe.bias}
    for split, part in rows.items():
        fold = probe.fold if split == "train" else np.full(len(part), -1, np.int8)
        feature = content.fields["feature"][split]
        columns: dict[str, Rows] = {
            "key": part.key,
            "label": part.label,
            "logits": np.stack(
                [fold_logits(_View(feature, view), fold, probe.weight, probe.bias) for view in range(feature.shape[1])],
                1,
            ),
            "view": content.fields["view"][split],
            "view_check": content.fields["view_check"][split],
            "domain": part.domain,
            "group": groups[split],
            "fold": fold,
        }
        if content.features_kept:
            columns["feature"] = feature
        arrays |= {f"{split}/{name}": column for name, column in columns.items()}
    return arrays, probe


def _shrunk(content: Content, folds: int) -> Alert:
    split = np.full(len(content.dataset), -1, np.int8)
    split[content.rows["train"].source] = 0
    name, count = rarest_class(content.dataset, split)
    left = f"shrink to {folds}" if folds else "fall away, and train's logits are in-sample"
    return Alert(
        f"class '{name}' has only {count} train samples: the {content.probe.folds} folds {left}; "
        f"leave it out with {exclude_flags([name])}."
    )


def _fresh(computed: Computed, split: str, name: str) -> ChunkedRows | None:
    chunks = [chunk for (owner, _), chunk in sorted(computed.chunks.items()) if owner == split and chunk.rows]
    return ChunkedRows(chunks, name) if chunks else None


class _View:
    """One view of features (N, V, F), as (N, F) that is read by slice."""

    def __init__(self, rows: Rows, view: int) -> None:
        self._rows, self._view = rows, view
        self.dtype = rows.dtype
        self.shape: tuple[int, ...] = (rows.shape[0], rows.shape[2])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        return self._rows[rows][:, self._view]


def _precision_used(asked: Plan, how: Mapping[str, Any]) -> str:
    """Return the one precision of all features, or ``mixed``."""
    used = {how["precision_used"]} - {None} | {
        source.manifest.teacher.get("precision_used") for source in asked.sources
    }
    return str(used.pop()) if len(used) == 1 else "mixed"


def describe_cache(
    asked: Plan, arrays: Mapping[str, Rows], probe: Probe, how: Mapping[str, Any], contrast: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the manifest but for its table of arrays.

    Parameters
    ----------
    contrast : figures of images without contrast, empty where they have it
    """
    return {
        "format": FORMAT,
        "medal": version("medalmighty"),
        "cache_id": asked.cache_id,
        "request": dict(asked.request),
        "dataset": {
            **describe_rows(asked.dataset, asked.rows),
            "splits": "drawn" if asked.splits_drawn else "given",
            "limit": asked.settings.limit,
            "skipped": describe_skipped(asked.skipped),
            **({"contrast": dict(contrast)} if contrast else {}),
        },
        "teacher": {
            "name": asked.files.name,
            "revision": asked.files.revision,
            "weights_sha256": asked.files.weights_sha256,
            "model_type": asked.files.config["model_type"],
            "feature": asked.settings.feature,
            "feature_dim": int(probe.weight.shape[2]),
            "precision_asked": asked.settings.precision,
            "precision_used": _precision_used(asked, how),
            "min_cosine_to_fp32": how["min_cosine_to_fp32"],
            "batch_size": how["batch_size"],
            **({"smallest_forward": how["smallest_forward"]} if "smallest_forward" in how else {}),
            "computed_on": how["computed_on"],
        },
        "preprocessing": asked.preprocessing.to_dict(),
        "views": {
            "count": asked.settings.views,
            "policy": asked.settings.augment,
            "ranges": policy_named(asked.settings.augment).to_dict(),
            "parameters": list(VIEW_PARAMETERS),
        },
        "probe": describe_fit(asked.dataset, asked.rows, arrays, probe),
        "taken_over": [
            {"content_digest": source.content_digest, "precision_used": source.manifest.teacher.get("precision_used")}
            for source in asked.sources
        ],
        "features_kept": asked.settings.features_kept,
        "tuned": how.get("tuned"),
        "seed": asked.settings.seed,
        "versions": library_versions(),
    }


def describe_rows(dataset: Dataset, rows: Mapping[str, SplitRows]) -> dict[str, Any]:
    """Return the manifest's description of a dataset and its rows, without how they were chosen."""
    return {
        "name": dataset.name,
        "task": dataset.task,
        "classes": list(dataset.classes),
        "domains": list(dataset.domains),
        "excluded_classes": list(dataset.excluded),
        "label_columns": list(dataset.label_columns),
        "rows": {split: len(part) for split, part in rows.items()},
        "repeats": count_repeats({split: part.key for split, part in rows.items()}),
        **({"reading": dict(dataset.reading)} if dataset.reading else {}),
        **({} if dataset.secret is None else {"key_check": dataset.secret.check}),
    }


def describe_fit(
    dataset: Dataset, rows: Mapping[str, SplitRows], arrays: Mapping[str, Rows], probe: Probe
) -> dict[str, Any]:
    """Return the manifest's description of a probe and its scores on each split."""
    logits = {split: arrays[f"{split}/logits"][:][:, 0] for split in rows}
    labels = {split: part.label for split, part in rows.items()}
    return {
        "probes": int(probe.weight.shape[0]),
        **describe_probe(probe, logits, labels, dataset.task, dataset.classes),
    }
