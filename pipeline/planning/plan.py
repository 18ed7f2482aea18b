"""The plan of stage one, made before the teacher is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheMismatch, DataError, TeacherError
from ...cache.format.digest import cache_id
from ...cache.format.forms import device_failed
from ...cache.format.layout import Dimensions, expected_arrays
from ...cache.making.life import Action, decide, find_at
from ...cache.making.work import WorkDirectory, work_path
from ...cache.reader import Cache, open_cache
from ...cache.text import plain
from ..datasets import check_filled, check_rare, describe_drawing, draw_splits, sample_rows
from ..datasets.columns.dataset import SPLITS, Dataset, DatasetOptions, typical_side
from ..datasets.opening import dataset_name, open_dataset
from ..datasets.pixels.contrast import check_other_splits, settle_intensity
from ..teacher.files import (
    TeacherFiles,
    assumptions,
    default_preprocessing,
    feature_dim,
    fitting_features,
    locate_teacher,
)
from ..views.preprocessing import Intensity, Preprocessing
from .request import IMAGE_SIZE, CacheSettings, Feature, make_request
from .reused_features import check_source, find_fresh, is_grown
from .rows import SplitRows, arrange_rows, repeat_warnings
from .skipped import Skipped, check_skippable

__all__ = ["Arranged", "Plan", "arrange", "count_kept", "count_known", "decide_again", "estimate_bytes", "prepare"]


# Side in px of images for which half of the teacher's usual input will do.
_SMALL = 64


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is known before the teacher is loaded."""

    target: Path
    dataset: Dataset
    rows: Mapping[str, SplitRows]
    files: TeacherFiles
    preprocessing: Preprocessing
    settings: CacheSettings
    request: Mapping[str, Any]
    cache_id: str
    action: Action
    splits_drawn: bool
    warnings: tuple[str, ...]
    existing: Cache | None
    overwrite: bool
    sources: tuple[Cache, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    tuned: Mapping[str, Any] | None = None
    drawing: str | None = None

    @property
    def images(self) -> int:
        """Rows over all splits."""
        return sum(map(len, self.rows.values()))

    def with_teacher(self, feature: str, image_size: int) -> Plan:
        """Return the same plan with another feature recipe and input size."""
        settings = replace(self.settings, feature=cast(Feature, feature), image_size=image_size)
        preprocessing = replace(self.preprocessing, image_size=image_size)
        request = make_request(self.dataset, self.rows, self.files, preprocessing, settings)
        return replace(
            self, settings=settings, preprocessing=preprocessing, request=request, cache_id=cache_id(request)
        )


def prepare(
    spec: str,
    out: str | None,
    options: DatasetOptions,
    settings: CacheSettings,
    *,
    overwrite: bool = False,
    sources: Sequence[str] = (),
    opened: Dataset | None = None,
) -> Plan:
    """Read the dataset and the teacher's files; the target is not checked yet.

    Parameters
    ----------
    opened : the dataset, where it is open already
    sources : sealed caches to take features over from, beside one that is at the target

    Raises
    ------
    DataError, TeacherError
        The dataset or the teacher cannot be used.
    CacheError
        The target holds something else, or a source cannot be opened or has features of another kind.
    """
    if options.unlabelled and settings.tune:
        raise DataError("--tune needs labels of val, and --unlabelled has none; leave one of the two out.")
    reading = replace(options, keep_missing=settings.on_bad_image == "skip")
    dataset = open_dataset(spec, reading) if opened is None else opened
    files = locate_teacher(settings.teacher, settings.revision)
    if not files.name.isprintable():
        raise TeacherError(
            f"Teacher '{plain(files.name)}' has a name that a cache cannot store; expected printable characters: "
            "rename its folder."
        )
    if settings.feature == "auto":
        settings = replace(settings, feature=cast(Feature, fitting_features(files.config)[-1]))
    preprocessing = default_preprocessing(
        files,
        image_size=IMAGE_SIZE if settings.image_size == "auto" else settings.image_size,
        resize=settings.resize,
        window=options.window,
    )
    arranged = arrange(dataset, settings, options)
    preprocessing = replace(preprocessing, image_size=arranged.image_size, intensity=arranged.intensity)
    dataset, rows = arranged.dataset, arranged.rows
    request = make_request(dataset, rows, files, preprocessing, settings)
    target = Path(out) if out else Path("caches") / f"{dataset_name(spec)}-{files.name.rsplit('/', 1)[-1]}.zarr"
    return Plan(
        target=target,
        dataset=dataset,
        rows=rows,
        files=files,
        preprocessing=preprocessing,
        settings=settings,
        request=request,
        cache_id=cache_id(request),
        action="create",
        splits_drawn=arranged.drawn,
        drawing=arranged.drawing,
        warnings=(*assumptions(files), *arranged.warnings),
        existing=None,
        overwrite=overwrite,
        sources=tuple(map(open_cache, sources)),
        skipped=arranged.skipped,
    )


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """A dataset's rows as a cache will have them, for any teacher.

    Attributes
    ----------
    image_size : side of the teacher's input, settled if it was left open
    intensity : how images of more than 8 bits become 0…255, settled if it was left open
    drawn : whether splits were drawn, and `drawing` how
    """

    dataset: Dataset
    rows: Mapping[str, SplitRows]
    image_size: int
    intensity: Intensity
    drawn: bool
    drawing: str | None
    warnings: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def arrange(dataset: Dataset, settings: CacheSettings, options: DatasetOptions) -> Arranged:
    """Draw splits if a dataset has none, take a sample if requested, and sort the rows.

    Parameters
    ----------
    options : with which the dataset was opened

    Raises
    ------
    DataError
        Images cannot be read, or the dataset cannot be learned from.
    """
    dataset, key, skipped = _readable(dataset, settings)
    split, drawing = draw_splits(dataset, key, settings.seed), describe_drawing(dataset.split, settings.seed)
    check_filled(dataset, split)
    if settings.limit is None:
        warnings = check_rare(dataset, split)
    else:
        dataset, key, split, warnings = _limited(dataset, key, split, settings.limit)
    rows = arrange_rows(dataset, key, split)
    # By the order of the keys, so that no order of the dataset shows.
    dataset, found = settle_intensity(dataset, rows["train"].source, options)
    if options.intensity == "auto" and options.window is None:
        for name in SPLITS[1:]:
            if name in rows:
                check_other_splits(dataset.images, rows[name].source, found.intensity, dataset.name, name)
    drawn = dataset.split is None or bool((dataset.split < 0).any()) or not (dataset.split == 1).any()
    if dataset.unlabelled:
        drawn, drawing = False, None
    return Arranged(
        dataset=dataset,
        rows=rows,
        image_size=_fitting_size(dataset, rows) if settings.image_size == "auto" else settings.image_size,
        drawn=drawn,
        drawing=drawing,
        intensity=found.intensity,
        warnings=(*dataset.notes, *warnings, *([found.note] if found.note else []), *repeat_warnings(rows)),
        skipped=tuple(skipped),
    )


def _limited(
    dataset: Dataset, key: npt.NDArray[np.uint8], split: npt.NDArray[np.int8], limit: int
) -> tuple[Dataset, npt.NDArray[np.uint8], npt.NDArray[np.int8], tuple[str, ...]]:
    """Return a sample of each split, and warnings about what it lacks."""
    taken = sample_rows(dataset, key, split, limit)
    sample, few = dataset.take(taken), split[taken]
    try:
        return sample, key[taken], few, check_rare(sample, few)
    except DataError as error:
        check_rare(dataset, split)  # what the whole dataset lacks, no limit mends
        raise DataError(
            f"--limit {limit} is too low for dataset '{dataset.name}' and its {len(dataset.classes)} classes, of each "
            "of which train needs two images with it and two without; give a higher --limit."
        ) from error


def _fitting_size(dataset: Dataset, rows: Mapping[str, SplitRows]) -> int:
    """Return the input size that suits the images: small ones carry no more at twice the side and four times the cost.

    By the first images of train in the order of their keys, so that no order of the dataset shows.
    """
    return IMAGE_SIZE // 2 if typical_side(dataset.images, rows["train"].source) <= _SMALL else IMAGE_SIZE


def _readable(dataset: Dataset, settings: CacheSettings) -> tuple[Dataset, npt.NDArray[np.uint8], list[Skipped]]:
    """Return the rows whose bytes can be read, with their keys; the others are refused or described."""
    if settings.on_bad_image == "fail":
        return dataset, dataset.keys(), []
    key, bad = dataset.find_keys()
    if len(bad) == len(dataset):
        dataset.refuse(bad)
    for error in bad.values():
        if isinstance(error.__cause__, OSError) and device_failed(error.__cause__):
            # A lost mount does not mean that the images on it are bad.
            raise error.__cause__ from error
    check_skippable(bad.values())
    split = np.full(len(dataset), -1, np.int8) if dataset.split is None else dataset.split
    skipped = [
        Skipped(dataset.images.locate(row), SPLITS[split[row]] if split[row] >= 0 else "", error)
        for row, error in bad.items()
    ]
    readable = np.setdiff1d(np.arange(len(dataset)), np.array(list(bad), np.int64))
    return dataset.take(readable), key[readable], skipped


def decide_again(asked: Plan) -> Plan:
    """Check the target, again inside the lock, and decide what to do about it."""
    for source in asked.sources:
        check_source(source, asked.request, asked.dataset.secret)
    found = find_at(asked.target, thorough=asked.overwrite)
    there, sources = found.cache, asked.sources
    # With --overwrite a cache is made anew, whatever stands there knows; --from can still name it.
    grown = False
    if there is not None and there.cache_id != asked.cache_id and not asked.overwrite:
        _check_keys(there, asked)
        grown = is_grown(there, asked.rows, asked.request)
    if there is not None and grown:
        sources = (*(source for source in sources if source.path != there.path), there)
    action = decide(found, asked.cache_id, asked.request, overwrite=asked.overwrite, grown=grown, known=bool(sources))
    return replace(asked, action=action, existing=there, sources=sources)


def _check_keys(there: Cache, asked: Plan) -> None:
    """Refuse a target whose keys are of another kind, with a more specific message than that rows differ."""
    check = None if asked.dataset.secret is None else asked.dataset.secret.check
    if there.manifest.key_check != check:
        held = "plain keys" if there.manifest.key_check is None else "keys made with a secret"
        wanted = "plain ones" if check is None else "keys made with the secret of --key-secret"
        raise CacheMismatch(
            f"'{there.path}' holds a cache with {held}, and {wanted} are asked for; give another OUT (with "
            f"--from '{there.path}' nothing is computed again, if its keys are plain), or --overwrite to replace it "
            "once the new one is sealed."
        )


def estimate_bytes(asked: Plan) -> int:
    """Return the bytes that the sealed cache will take."""
    from ..views.policies import VIEW_PARAMETERS

    size = Dimensions(
        task=asked.dataset.task,
        rows={split: len(part) for split, part in asked.rows.items()},
        classes=len(asked.dataset.classes),
        feature=feature_dim(asked.files.config, asked.settings.feature),
        views=asked.settings.views,
        view_parameters=len(VIEW_PARAMETERS),
        probes=asked.settings.folds + 1,
        features_kept=asked.settings.features_kept,
    )
    return sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in expected_arrays(size).values())


def count_known(asked: Plan) -> int:
    """Return how many of the requested images have features in the source caches."""
    fresh = find_fresh(asked.sources, asked.rows, asked.settings.stored_views, asked.dataset.secret)
    return asked.images - int(sum(rows.sum() for rows in fresh.values()))


def count_kept(asked: Plan) -> int:
    """Return how many images are finished in the work directory of this request."""
    work = WorkDirectory(work_path(asked.target))
    settings = work.read_settings()
    if settings is None or settings.get("cache_id") != asked.cache_id:
        return 0
    # By their names: whoever holds the lock may be writing one, and looks closer.
    return work.count()[1]
