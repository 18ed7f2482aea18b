"""The map of the images that a run is judged by, from the features of its cache: the teacher is not needed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...cache.errors import StudentError
from ...cache.join import find_keys
from ...cache.reader import Cache
from ...pipeline.metrics.embedding import Map, draw_map, right_or_wrong
from .collecting import Recorded

__all__ = ["map_run"]


def map_run(run: Recorded, cache: Cache) -> Map | None:
    """Return the map of a run's images by class and by the answers of student and teacher; None of fewer than ten.

    Raises
    ------
    StudentError
        The cache keeps no features, or lacks some of these images.
    """
    if not cache.manifest.size.features_kept:
        raise StudentError(
            f"Cache '{cache.path}' keeps no features, of which a map is made; give --with-map a cache that was made "
            "without --no-features."
        )
    found, parts = [], []
    left = np.ones(len(run.rows.key), np.bool_)
    for split in cache.splits:
        place = find_keys(run.rows.key, cache.read(split, "key"))
        here = np.flatnonzero((place >= 0) & left)
        left[here] = False
        if len(here):
            found.append(here)
            parts.append(cache.read(split, "feature")[place[here], 0])
    if left.any():
        raise StudentError(
            f"Cache '{cache.path}' lacks {left.sum()} of the {len(left)} images that '{run.name}' is judged by; give "
            "--with-map the cache that the run was trained with."
        )
    rows = np.concatenate(found)

    def columns_of(shown: npt.NDArray[np.int64]) -> dict[str, list[str]]:
        these = rows[shown]
        label = run.rows.label[these]
        columns = {
            "class": [_name(one, run.classes) for one in label],
            "the student's answer": right_or_wrong(run.rows.logits[these], label),
        }
        if run.teacher is not None:
            columns["the teacher's answer"] = right_or_wrong(run.teacher.logits[these], label)
        return columns

    return draw_map(np.concatenate(parts), columns_of)


def _name(label: npt.NDArray[np.generic] | np.generic, classes: tuple[str, ...]) -> str:
    """Name a class, or the labels that an image has."""
    if label.ndim == 0:
        return classes[int(label)] if int(label) >= 0 else "unknown"
    return ", ".join(name for name, bit in zip(classes, label.tolist(), strict=True) if bit == 1) or "none"
