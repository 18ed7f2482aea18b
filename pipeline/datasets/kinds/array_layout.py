"""How people lay images and labels out in arrays: names, channels and labels, brought into MedMNIST's form."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import quoted
from ..columns.dataset import UNKNOWN_BIT
from ..columns.splits import SPLIT_NAMES

__all__ = ["Pair", "channels_last", "find_pairs", "single_labels"]

# Images and labels of a split: MedMNIST's names, those of Keras, and those of PCam's files.
_SPLIT = (
    *(("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("{}_x", "{}_y"), ("{}_data", "{}_labels")),
    *(("{}_imgs", "{}_labels"), ("{}_images", "{}_targets"), ("images_{}", "labels_{}"), ("{}_data", "{}_targets")),
)
# The same where there are no splits.
_WHOLE = (
    *(("images", "labels"), ("x", "y"), ("data", "labels"), ("data", "target"), ("imgs", "labels")),
    *(("image", "label"), ("images", "targets"), ("x", "labels")),
)
_CHANNELS = (1, 3)

_log = logging.getLogger(__name__)

Array = npt.NDArray[Any]


class Pair(NamedTuple):
    """Names of the images and labels of one split; None where there are no splits."""

    split: str | None
    images: str
    labels: str


def find_pairs(names: Sequence[str], what: str) -> list[Pair]:
    """Return which arrays are images and labels of which split, as train, val and test.

    Raises
    ------
    DataError
        There are no images of a known name, images without labels or the other way round, or two of one split.
    """
    known = {name.lower(): name for name in names}
    usual = [
        (images, labels) for images, labels in _SPLIT if any(images.format(split) in known for split in SPLIT_NAMES)
    ]
    # Images may go with labels of another name than is usual with them.
    usual.sort(key=lambda names: not any(names[1].format(split) in known for split in SPLIT_NAMES))
    for images, labels in usual[:1]:
        pairs = [
            _pair(known, SPLIT_NAMES[split], images.format(split), labels.format(split), what)
            for split in SPLIT_NAMES
            if images.format(split) in known or labels.format(split) in known
        ]
        _require_one(pairs, what)
        return sorted(pairs, key=lambda pair: ("train", "val", "test").index(str(pair.split)))
    for images, labels in _WHOLE:
        if images in known and labels in known:
            return [Pair(None, known[images], known[labels])]
    raise DataError(
        f"{what} has the arrays {quoted(names)}; expected the MedMNIST layout, 'train_images', 'train_labels' and so "
        "on, that of Keras, 'x_train', 'y_train' and so on, or 'images' and 'labels'."
    )


def _pair(known: Mapping[str, str], split: str, images: str, labels: str, what: str) -> Pair:
    missing = [name for name in (images, labels) if name not in known]
    if missing:
        raise DataError(f"{what} lacks '{missing[0]}'; expected images and labels of each split it has.")
    return Pair(split, known[images], known[labels])


def _require_one(pairs: Sequence[Pair], what: str) -> None:
    splits = [pair.split for pair in pairs]
    for pair in pairs:
        if splits.count(pair.split) > 1:
            twice = [other.images for other in pairs if other.split == pair.split]
            raise DataError(f"{what} has {quoted(twice)}, all of them {pair.split}; expected one array a split.")


def channels_last(images: Array, name: str, what: str) -> Array:
    """Return images as (N, H, W) or (N, H, W, 1 or 3): channels that come first are turned, an opaque alpha is dropped.

    Raises
    ------
    DataError
        They have another shape, or an alpha channel that is not opaque throughout.
    """
    if images.ndim == 4 and images.shape[3] not in _CHANNELS and 0 not in images.shape[1:]:
        if images.shape[1] in _CHANNELS:
            _log.warning("'%s' in %s has its channels first, %s: they are turned", name, what, images.shape)
            return np.moveaxis(images, 1, 3)
        if images.shape[3] == 4:
            return _without_alpha(images, name, what)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in _CHANNELS) or 0 in images.shape[1:]:
        volume = " Volumes are not read." if images.ndim in {4, 5} else ""
        raise DataError(
            f"'{name}' in {what} has the shape {images.shape}; expected (N, H, W), (N, H, W, 3) or "
            f"(N, 3, H, W).{volume}"
        )
    return images


def _without_alpha(images: Array, name: str, what: str) -> Array:
    alpha = images[..., 3]
    white = np.iinfo(images.dtype).max if images.dtype.kind in "iu" else 1
    if not alpha.size or not (alpha == white).all():
        raise DataError(
            f"'{name}' in {what} has the shape {images.shape}, and its fourth channel is no opaque alpha; expected 1 "
            "or 3 channels: take three of them out of the last axis."
        )
    return images[..., :3]


def single_labels(values: npt.NDArray[np.int64], what: str) -> npt.NDArray[np.int64]:
    """Return one-hot labels (N, L) as class indices (N,), -1 unknown; any others as they are.

    One-hot are those of which each row has exactly one 1, or is unknown as a whole.
    """
    unknown = np.isin(values, (-1, UNKNOWN_BIT)).all(1)
    known = values[~unknown]
    if not len(known) or not np.isin(known, (0, 1)).all() or not (known.sum(1) == 1).all():
        return values
    _log.warning(
        "%s: each row of the labels has exactly one 1 (%d columns): they are read as one label", what, values.shape[1]
    )
    return np.where(unknown, -1, values.argmax(1))
