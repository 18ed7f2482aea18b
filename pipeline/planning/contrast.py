"""Whether the images of a set come out with any contrast, before the teacher sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...cache.errors import DataError
from ..datasets.columns.dataset import Dataset
from ..datasets.pixels.contrast import FLAT, flat_rows
from .request import CacheSettings
from .rows import SplitRows

__all__ = ["LOW_CONTRAST", "REMEDY", "check_views"]

LOW_CONTRAST = "low contrast"
REMEDY = (
    "Name the values that are black and white with --intensity LOW,HIGH, one window for all with --window C,W, or use "
    "--intensity minmax; --allow-low-contrast goes on as it is."
)
# Black and white of 8 bits are 0 and 255, whatever is named.
_OF_EIGHT_BITS = (
    "They have 8 bits, of which 0 is black and 255 white: use --intensity minmax, --window C,W if they are DICOM, or "
    "write them anew; --allow-low-contrast goes on as they are."
)
_OF_ONE_VALUE = (
    "See how they were made: what is transparent is shown as black; --allow-low-contrast goes on as they are."
)


def check_views(dataset: Dataset, rows: Mapping[str, SplitRows], settings: CacheSettings) -> dict[str, Any] | None:
    """Return what the manifest says of images that come out nearly as one grey, None where they are not most.

    Raises
    ------
    DataError
        Most of those looked at do, or are of one value, and that was not allowed.
    """
    images = dataset.images
    found = flat_rows(images, rows["train"].source)
    flat, count = len(found.flat), len(found.flat) + len(found.lively)
    if len(found.blank) > count:
        flat, count = len(found.blank), count + len(found.blank)
        what, remedy, row = "are of one value throughout", _OF_ONE_VALUE, found.blank[0]
    elif flat * 2 > count:
        row = found.flat[0]
        what = f"span fewer than {FLAT:g} of 255 greys"
        remedy = _OF_EIGHT_BITS if images.read(row).dtype == np.uint8 else REMEDY
    else:
        return None
    if not settings.allow_low_contrast:
        raise DataError(
            f"dataset '{dataset.name}': {flat} of the {count} images looked at {what}, for instance "
            f"{images.describe(row)}: the teacher would see next to nothing. {remedy}",
            LOW_CONTRAST,
        )
    return {"looked_at": count, "flat": flat}
