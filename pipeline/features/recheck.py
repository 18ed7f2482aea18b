"""A sampled re-check: a few of a cache's images through the teacher again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheMismatch, TeacherError
from ...cache.join import join
from ...cache.machine.processors import usable_processors
from ...cache.progress import Progress
from ...cache.reader import Cache
from ..datasets.columns.dataset import Dataset, DatasetOptions
from ..datasets.opening import open_dataset
from ..datasets.recorded import recorded_options
from ..probe.logistic import fold_logits
from ..teacher.files import TeacherFiles, cached_teacher, locate_teacher
from ..teacher.teacher import Teacher, agreement, pick_device, precision_for
from ..views.preprocessing import Preprocessing
from ..views.transforms import quadrant_means
from .loading import load_batch

__all__ = ["MIN_COSINE", "Rechecked", "recheck"]

# What another chip's rounding leaves of a feature; another image, teacher or preprocessing leaves far less.
MIN_COSINE = 0.999
_VIEW_TOLERANCE = 0.5 / 255
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Rechecked:
    """What a re-check found.

    Attributes
    ----------
    images : how many were drawn
    min_cosine : the worst of the images' features (without features: of the logits); None if none could be compared
    notes : what the user should know and is no problem: how dataset and cache differ
    """

    images: int
    min_cosine: float | None
    problems: list[str]
    notes: list[str]


def recheck(
    cache: Cache,
    spec: str,
    options: DatasetOptions,
    count: int,
    progress: Progress,
    *,
    teacher: str | None = None,
    device: str = "auto",
) -> Rechecked:
    """Send a random sample of a cache's images through the teacher again and compare.

    Parameters
    ----------
    spec : the dataset that the cache was made from
    count : images to draw; all if the cache has fewer
    teacher : folder or hub id; None = what MEDAL_TEACHER or the hub's local cache has under the name that the cache
        gives, if it has the cache's weights. A cache from a stranger does not decide what is downloaded

    Raises
    ------
    CacheMismatch
        The dataset is not the cache's, or its features are not as long as its teacher makes them.
    DataError, TeacherError
        The dataset or the teacher cannot be used, or the teacher has other weights than the cache's.
    """
    files = _find_teacher(cache, teacher)
    manifest = cache.manifest
    dataset = open_dataset(spec, recorded_options(options, manifest, spec), manifest.classes)
    drawn, notes = _draw(cache, dataset, spec, count)
    device = pick_device(device)
    used = manifest.teacher.get("precision_used")
    model = Teacher.load(
        files,
        feature=str(manifest.teacher.get("feature")),
        precision="fp32" if used == "fp32" else precision_for("auto", device),
        device=device,
    )
    if model.dim != manifest.size.feature:
        raise CacheMismatch(
            f"Cache '{cache.path}' has features of {manifest.size.feature} numbers; its teacher '{files.name}' makes "
            f"{model.dim} by the recipe '{model.feature}'. It was not made as it says; get it from somebody else."
        )
    preprocessing = Preprocessing.from_dict(manifest.preprocessing)
    worst: list[float] = []
    problems: list[str] = []
    with progress("teacher", sum(len(rows) for rows, _ in drawn.values())) as advance:
        for split, (rows, source) in drawn.items():
            comparison = _Stored(cache, split)
            for start in range(0, len(rows), _BATCH):
                part = slice(start, start + _BATCH)
                with ThreadPoolExecutor(usable_processors()) as readers:
                    loaded = load_batch(dataset, source[part], preprocessing, readers)
                problems += [f"Image not read again: {error}" for error in loaded.bad.values()]
                if loaded.places:
                    features = model.features(loaded.pixels, preprocessing)  # (G, F)
                    checks = quadrant_means(loaded.pixels).numpy()  # (G, 4)
                    good = rows[part][loaded.places]
                    names = [dataset.images.describe(int(row)) for row in source[part][loaded.places]]
                    cosines = comparison.cosines(good, features)
                    worst.append(float(cosines.min()))
                    problems += _complaints(names, cosines, np.abs(checks - comparison.checks(good)).max(1))
                advance(len(rows[part]))
    images = sum(len(rows) for rows, _ in drawn.values())
    return Rechecked(images=images, min_cosine=min(worst, default=None), problems=problems, notes=notes)


def _find_teacher(cache: Cache, teacher: str | None) -> TeacherFiles:
    said = cache.manifest.teacher
    name, wanted = str(said.get("name")), str(said.get("weights_sha256"))
    if teacher is None:
        return _look_for_teacher(cache, name, wanted)
    files = locate_teacher(teacher)
    if files.weights_sha256 != wanted:
        raise TeacherError(
            f"Teacher '{teacher}' has other weights (SHA-256 {files.weights_sha256[:12]}…) than '{name}', which made "
            f"'{cache.path}' ({wanted[:12]}…); give that one with --teacher."
        )
    return files


def _look_for_teacher(cache: Cache, name: str, wanted: str) -> TeacherFiles:
    own = os.environ.get("MEDAL_TEACHER")
    candidates = [partial(locate_teacher, own)] if own else []
    candidates.append(partial(cached_teacher, name, cache.manifest.teacher.get("revision")))
    for look in candidates:
        with suppress(TeacherError):
            files = look()
            if files.weights_sha256 == wanted:
                return files
    raise TeacherError(
        f"Teacher '{name}' with the weights that made '{cache.path}' (SHA-256 {wanted[:12]}…) is not at hand, and is "
        "not downloaded on a cache's word; give its folder or Hugging Face id with --teacher."
    )


def _draw(
    cache: Cache, dataset: Dataset, spec: str, count: int
) -> tuple[dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]], list[str]]:
    """Return for each split some rows of the cache and the dataset rows of the same images, and how the two differ.

    Nobody who makes a cache can know which: the draw is not seeded.
    """
    key, _ = dataset.find_keys()
    joined = join(cache, key, dataset.label, dataset.split)
    if not joined.matched:
        raise CacheMismatch(
            f"None of the images of cache '{cache.path}' is in dataset '{spec}'; give the dataset it was made from."
        )
    present = [(split, row) for split, rows in joined.rows.items() for row in np.flatnonzero(rows >= 0).tolist()]
    chosen = np.random.default_rng().permutation(len(present))[:count]
    drawn = {}
    for split, rows in joined.rows.items():
        mine = np.sort([present[index][1] for index in chosen if present[index][0] == split]).astype(np.int64)
        if len(mine):
            drawn[split] = (mine, rows[mine])
    notes = []
    if len(joined.missing):
        notes.append(f"{len(joined.missing)} images of '{spec}' are not in the cache, and so not in the sample")
    if joined.extra:
        notes.append(f"{joined.extra} images of the cache are not in '{spec}', and so not in the sample")
    return drawn, notes


class _Stored:
    """What a cache says of the rows of a split."""

    def __init__(self, cache: Cache, split: str) -> None:
        self._kept = cache.manifest.size.features_kept
        self._stored = cache.read(split, "feature" if self._kept else "logits")[:, 0]
        self._checks = cache.read(split, "view_check")[:, 0]
        self._fold = cache.read(split, "fold")
        self._weight, self._bias = cache.read_probe()

    def cosines(self, rows: npt.NDArray[np.int64], features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the cosine of each row's stored and new features; without features, of all rows' logits together.

        Logits of two classes have one direction and its opposite, so that a row's own cosine would say nothing.
        """
        stored = self._stored[rows]
        if self._kept:
            return np.array([agreement(one[None], other[None]) for one, other in zip(stored, features, strict=True)])
        anew = fold_logits(features.astype(np.float16), self._fold[rows], self._weight, self._bias)
        return np.full(len(rows), agreement(stored.reshape(1, -1), anew.reshape(1, -1)))

    def checks(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the quadrant means of rows, (n, 4) float32 in 0…1."""
        return np.asarray(self._checks[rows])


def _complaints(names: list[str], cosines: npt.NDArray[np.float64], moved: npt.NDArray[np.float32]) -> Iterator[str]:
    for name, cosine, shift in zip(names, cosines, moved, strict=True):
        if not cosine >= MIN_COSINE:
            yield f"What the teacher says of {name} has cosine {cosine:.4f} to what is cached; expected {MIN_COSINE}."
        elif not shift <= _VIEW_TOLERANCE:
            yield f"The pixels of {name} differ from those cached by {shift * 255:.1f} of 255 in the mean of a quarter."
