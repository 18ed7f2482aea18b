"""All changes to the targets of a run, in their fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ...cache.errors import StudentError
from ...cache.reader import Cache
from ...pipeline.datasets.columns.dataset import Dataset
from ..settings import StudentSettings
from .domains import leave_out
from .few_labels import forget_labels
from .load import Targets, lacks_labels, load_targets
from .per_class import require_out_of_fold, settle_per_class
from .refitting import refit
from .several_teachers import average_teachers
from .sources import Sources
from .unlabelled import Beside, add_unlabelled

__all__ = ["Taught", "join_sources", "teach"]

# Below this share of labelled images, who teaches the others is worth a second student.
_FEW = 0.5


class Taught(NamedTuple):
    """What a student learns from: targets, their images, and settings with everything decided."""

    targets: Targets
    dataset: Dataset
    settings: StudentSettings


def join_sources(sources: Sources, settings: StudentSettings) -> Targets:
    """Join the cache to its dataset, and average the logits of several teachers.

    Raises
    ------
    CacheMismatch
        They do not fit each other, or not what is asked of them.
    """
    cache, also = sources.cache, sources.also
    targets = load_targets(
        cache,
        sources.dataset,
        spec=sources.spec,
        on_missing=settings.on_missing,
        labels=settings.labels,
        stored=settings.targets == "stored",
        features=settings.compares_features or settings.label_fraction < 1 or settings.leave_one_domain_out,
    )
    if settings.alpha == "per-class":
        require_out_of_fold((cache, *(other for other, _ in also)))
    return average_teachers(targets, also, cache.manifest.key_check) if also else targets


def teach(
    targets: Targets,
    cache: Cache,
    dataset: Dataset,
    settings: StudentSettings,
    *,
    beside: Sequence[Beside] = (),
    without: int | None = None,
) -> Taught:
    """Leave a domain out, drop labels, refit the probe after either, add unlabelled images, decide alpha.

    Parameters
    ----------
    targets : of `join_sources`
    without : code of the domain that is left out

    Raises
    ------
    CacheMismatch, DataError
        Too little is left to learn from, or unlabelled images do not fit.
    """
    if without is not None:
        targets = leave_out(targets, without)
    if settings.label_fraction < 1:
        targets = forget_labels(targets, cache, settings)
    elif without is not None:
        targets = refit(targets, cache, np.ones(len(targets.splits["train"]), np.bool_))
    if not settings.compares_features:
        targets = targets.without_features()
    if beside:
        targets, dataset = add_unlabelled(
            targets,
            cache,
            dataset,
            beside,
            on_missing=settings.on_missing,
            stored=settings.targets == "stored",
            features=settings.compares_features,
        )
    settings = _settle_teacher(settle_per_class(settings, targets), targets)
    if not lacks_labels(targets.splits["train"].label, settings.labelled_share):
        # Without effect, and so no part of the request.
        settings = replace(settings, labelled_share=0.0)
    return Taught(targets, dataset, settings)


def _settle_teacher(settings: StudentSettings, targets: Targets) -> StudentSettings:
    """Return the settings with the effective `teach`: the mean with the baseline is for images without a label.

    Raises
    ------
    StudentError
        It was requested, and every image has a label.
    """
    label = targets.splits["train"].label
    if settings.teach == "ensemble" and not lacks_labels(label, 1.0):
        raise StudentError(
            "--teach ensemble is for images without a label, and all images of train have one; leave it out, or add "
            "images with --unlabelled."
        )
    chosen = isinstance(settings.alpha, str) or not np.any(settings.soft_weight)
    if settings.teach == "auto" and (chosen or not lacks_labels(label, _FEW)):
        return replace(settings, teach="probe")
    # What teaches has to be trained.
    return settings if settings.teach == "probe" else replace(settings, baseline=True)
