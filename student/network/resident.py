"""All decoded images in one tensor, on the training device if they fit there: a step then copies none of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...cache.errors import StudentError
from ...pipeline.views.transforms import send

__all__ = ["HeldImages", "Resident", "free_bytes", "refuse_resident", "settle_images"]

Rows = npt.NDArray[np.int64]
Resident = Literal["auto", "on", "off"]


class HeldImages:
    """Images of a split in one tensor, (N, C, S, S): in memory, or where the student is trained."""

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield (B, 3, S, S) float32 for each array of positions, which are sent to the device all at once."""
        sizes = [len(rows) for rows in batches]
        order = send(torch.from_numpy(np.concatenate([np.empty(0, np.int64), *batches])), str(self._pixels.device))
        for places in torch.split(order, sizes):
            yield self._pixels.index_select(0, places).float().expand(-1, 3, -1, -1).contiguous()


def settle_images(pixels: Tensor, device: str, resident: Resident, free: int | None) -> Tensor:
    """Bring images to the device, if that is wanted and they leave half of its free memory to the training.

    Parameters
    ----------
    free : bytes of memory that are free there; None of the CPU

    Raises
    ------
    StudentError
        They have to lie there, and do not fit.
    """
    if free is None or resident == "off":
        return pixels
    if pixels.nbytes <= free // 2:
        return pixels.to(device)
    if resident == "on":
        refuse_resident(f"they take {pixels.nbytes / 1e9:.1f} GB, and half of what is free there is {free / 2e9:.1f}")
    return pixels


def free_bytes(device: str) -> int | None:
    """Return the bytes of a GPU's memory that are free; None of the CPU."""
    # What torch keeps of memory that it no longer uses is free as well.
    if device == "mps":
        torch.mps.empty_cache()
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if device != "cuda":
        return None
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def refuse_resident(reason: str) -> NoReturn:
    """Say why images cannot lie where they have to."""
    raise StudentError(
        f"--resident on asks for all images in the memory of the device that trains, and {reason}. Give --resident "
        "auto, a smaller --image-size, or no --workers."
    )
