"""An image as a small picture inside a page: only where somebody asked for pictures of patients."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["draw_small"]


def draw_small(pixels: npt.NDArray[Any], side: int) -> str:
    """Return the ``data:`` address of a JPEG of an image (H, W, 1 or 3) in 0…255, at most `side` px on a side."""
    from PIL import Image

    values = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    picture = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    picture.thumbnail((side, side))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(out.getvalue()).decode()}"
