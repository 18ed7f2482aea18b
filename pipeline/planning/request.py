"""Settings of stage one, and the canonical request that a cache's id is computed from.

No torch here: a repeated command on a finished cache must be fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...cache.errors import MedalError
from ...cache.format.layout import FORMAT
from ...cache.settings import check_kinds
from ..datasets.columns.dataset import Dataset
from ..probe.settings import ProbeSettings, Recipe
from ..teacher.files import TeacherFiles
from ..views.policies import Views
from ..views.preprocessing import Preprocessing, Resize
from .rows import SplitRows, rows_digest

__all__ = ["IMAGE_SIZE", "CacheSettings", "Feature", "make_request"]

# Side of the teacher's input, px, for images that `auto` does not find small.
IMAGE_SIZE = 224

Feature = Literal["auto", "cls+mean", "last4"]


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Settings of `medal cache-teacher`; the command line takes its defaults from here.

    Attributes
    ----------
    feature : recipe of the feature; ``auto`` = ``last4`` where the teacher has four blocks, else ``cls+mean``
    image_size : side of the teacher's input, px; ``auto`` = 224, or 112 for images of 64 px or less
    probe : recipe of the probe
    tune : choose feature and image_size on val
    views, augment : stored views of each train image, and the policy that says what these may change
    batch_size : images a forward pass; None = what suits the device
    allow_low_contrast : go on where the images come out nearly as one grey
    engine : ``local``, this process (or the ranks that torchrun started); ``ray``, the workers of a Ray cluster
    address : HOST:PORT of the Ray cluster, or ``auto``; None = RAY_ADDRESS, else an instance on this machine alone
    """

    teacher: str = "facebook/dinov2-base"
    revision: str | None = None
    feature: Feature = "auto"
    image_size: int | Literal["auto"] = "auto"
    resize: Resize = "squash"
    probe: Recipe = "auto"
    folds: int = 5
    features_kept: bool = True
    views: int = 1
    augment: str = "none"
    batch_size: int | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    device: str = "auto"
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    limit: int | None = None
    on_bad_image: Literal["fail", "skip"] = "fail"
    allow_low_contrast: bool = False
    tune: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_kinds(self, MedalError)

    @property
    def stored_views(self) -> Views:
        """What views the cache stores of each train image."""
        return Views(count=self.views, policy=self.augment, seed=self.seed)

    @property
    def probe_settings(self) -> ProbeSettings:
        """What the probe is fitted with."""
        return ProbeSettings(recipe=self.probe, folds=self.folds, seed=self.seed)


def make_request(
    dataset: Dataset,
    rows: Mapping[str, SplitRows],
    files: TeacherFiles,
    preprocessing: Preprocessing,
    settings: CacheSettings,
) -> dict[str, Any]:
    """Return the request, without names, paths, devices, versions or times: equal for equal requests anywhere."""
    return {
        "format": FORMAT,
        "task": dataset.task,
        "classes": len(dataset.classes),
        "rows": rows_digest(rows),
        "teacher": {"weights_sha256": files.weights_sha256, "feature": settings.feature},
        "preprocessing": preprocessing.to_request(),
        "precision": settings.precision,
        "views": settings.stored_views.to_request(),
        "probe": settings.probe_settings.to_dict(),
        "features_kept": settings.features_kept,
        "seed": settings.seed,
    }
