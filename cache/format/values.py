"""Valid ranges of the values in a cache: a correct digest does not mean that a label is a class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .manifest import Manifest

__all__ = ["value_problems"]


def value_problems(manifest: Manifest, path: str, block: npt.NDArray[Any]) -> Iterator[str]:
    """Yield what is impossible among some rows of the array at `path`, for instance of ``train/label``."""
    split, _, name = path.partition("/")
    classes = manifest.size.classes
    if block.dtype.kind == "f":
        if not np.isfinite(block).all():
            yield f"Array '{path}' holds values that are not finite."
    elif name == "label" and manifest.task == "multilabel":
        # 255 comes round to 0; numpy.isin takes ten times as long.
        if (block + np.uint8(1) > 2).any():
            yield f"Labels of '{split}' are not all 0, 1 or 255."
    elif name == "label":
        if block.min() < -1 or block.max() >= classes:
            yield f"Labels of '{split}' lie outside -1…{classes - 1}."
    elif name in ("domain", "fold", "group"):
        high = {"domain": len(manifest.domains) - 1, "fold": manifest.size.probes - 2}.get(name, np.iinfo(np.int32).max)
        if block.min() < -1 or block.max() > high:
            yield f"Column '{name}' of '{split}' lies outside -1…{high}."
