"""Checks that the views of a set have contrast, before the teacher runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...cache.errors import DataError
from ..datasets.columns.dataset import Dataset
from ..datasets.pixels.contrast import FLAT, flat_rows
from .request import CacheSettings
from .rows import SplitRows

__all__ = ["LOW_CONTRAST", "REMEDY", "Seen", "check_views"]

LOW_CONTRAST = "low contrast"
_FEW = 10  # one in ten without contrast is worth a word
REMEDY = (
    "Name the values that are black and white with --intensity LOW,HIGH, one window for all with --window C,W, or "
    "use --intensity minmax; --allow-low-contrast accepts it as it is."
)
# Black and white of 8 bits are 0 and 255, whatever is named.
_OF_EIGHT_BITS = (
    "They have 8 bits, with 0 as black and 255 as white: use --intensity minmax, --window C,W if they are DICOM, or "
    "write them again; --allow-low-contrast accepts them as they are."
)
_OF_ONE_VALUE = (
    "Check how they were made: transparent pixels are shown as black; --allow-low-contrast accepts them as they are."
)


class Seen(NamedTuple):
    """The manifest's record of images without contrast, and a warning if they are few."""

    contrast: dict[str, Any] | None = None
    note: str | None = None


def check_views(dataset: Dataset, rows: Mapping[str, SplitRows], settings: CacheSettings) -> Seen:
    """Check the views of a few images of train.

    Raises
    ------
    DataError
        Most of them are nearly one shade of grey, or have one value, and that was not allowed.
    """
    images = dataset.images
    found = flat_rows(images, rows["train"].source)
    flat, count = len(found.flat), len(found.flat) + len(found.lively)
    what = f"span fewer than {FLAT:g} of 255 greys"
    if len(found.blank) > count:
        flat, count = len(found.blank), count + len(found.blank)
        what, remedy, row = "have one value everywhere", _OF_ONE_VALUE, found.blank[0]
    elif flat * 2 > count:
        row = found.flat[0]
        remedy = _OF_EIGHT_BITS if images.read(row).dtype == np.uint8 else REMEDY
    elif flat > 1 and flat * _FEW > count:
        return Seen(
            note=(
                f"{flat} of the {count} images looked at {what}, for instance {images.describe(found.flat[0])}: if "
                "their bit depth or window differs from the others', the teacher sees almost nothing of them"
            )
        )
    else:
        return Seen()
    if not settings.allow_low_contrast:
        raise DataError(
            f"dataset '{dataset.name}': {flat} of the {count} images looked at {what}, for instance "
            f"{images.describe(row)}: the teacher would see almost nothing. {remedy}",
            LOW_CONTRAST,
        )
    return Seen({"looked_at": count, "flat": flat})
