"""All that may be done to the targets of a run, in its one order."""

from __future__ import annotations

from collections.abc import Sequence

from ...cache.reader import Cache
from ...pipeline.datasets.columns.dataset import Dataset
from ..settings import StudentSettings
from .few_labels import forget_labels
from .load import Targets
from .unlabelled import Beside, add_unlabelled


def _teach(
    targets: Targets, cache: Cache, images: Dataset, settings: StudentSettings, beside: Sequence[Beside]
) -> tuple[Targets, Dataset]:
    """Return what train is taught, few labels forgotten and unlabelled images added, and the images of all of it."""
    if settings.label_fraction < 1:
        targets = forget_labels(targets, cache, settings)
        targets = targets if settings.compares_features else targets.without_features()
    if not beside:
        return targets, images
    return add_unlabelled(
        targets,
        cache,
        images,
        beside,
        on_missing=settings.on_missing,
        stored=settings.targets == "stored",
        features=settings.compares_features,
    )
