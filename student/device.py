"""Where a student computes."""

from __future__ import annotations

import torch

from ..cache.errors import StudentError

__all__ = ["pick_device"]


def pick_device(asked: str) -> str:
    """Return ``cpu`` or ``cuda``; ``auto`` is the latter where torch can use it.

    Raises
    ------
    StudentError
        ``cuda`` is asked for and there is none.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise StudentError("There is no CUDA device that torch can use; give --device cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked
