"""Whether the images of a set come out with any contrast, before the teacher sees them."""

from __future__ import annotations

from typing import Any

from ...cache.errors import DataError
from ..datasets.pixels.contrast import FLAT, flat_rows
from .plan import Plan

__all__ = ["LOW_CONTRAST", "REMEDY", "check_views"]

LOW_CONTRAST = "low contrast"
REMEDY = (
    "Name the values that are black and white with --intensity LOW,HIGH, one window for all with --window C,W, or use "
    "--intensity minmax; --allow-low-contrast goes on as it is."
)


def check_views(asked: Plan) -> dict[str, Any] | None:
    """Return what the manifest says of images that come out nearly as one grey, None where they are not most.

    Raises
    ------
    DataError
        Most of those looked at do, and that was not allowed.
    """
    images = asked.dataset.images
    flat, looked = flat_rows(images, asked.rows["train"].source)
    if len(flat) * 2 <= looked:
        return None
    if not asked.settings.allow_low_contrast:
        raise DataError(
            f"dataset '{asked.dataset.name}': {len(flat)} of the {looked} images looked at span fewer than {FLAT:g} of "
            f"255 greys, for instance {images.describe(flat[0])}: the teacher would see next to nothing. {REMEDY}",
            LOW_CONTRAST,
        )
    return {"looked_at": looked, "flat": len(flat)}
