"""Choose the slices of a volume that become images, and describe the choice."""

from __future__ import annotations

from collections.abc import Sequence

from .....cache.text import plural
from ...columns.dataset import DatasetOptions

__all__ = ["DEFAULT_AXIS", "choose_slices", "say_slices"]

DEFAULT_AXIS = "axial"


def choose_slices(count: int, options: DatasetOptions) -> list[int]:
    """Return the numbers of slices that are images, counted from 1: every K-th about the middle, N of them at most."""
    step = options.slice_step or 1
    numbers = list(range(1 + (count - 1) % step // 2, count + 1, step))
    surplus = max(0, len(numbers) - (options.middle_slices or len(numbers)))
    return numbers[surplus // 2 : len(numbers) - (surplus - surplus // 2)]


def say_slices(counts: Sequence[int], options: DatasetOptions) -> tuple[str, ...]:
    """Say how volumes were cut.

    Parameters
    ----------
    counts : of images, one a volume
    """
    asked = {
        "--slice-axis": options.slice_axis,
        "--slice-step": options.slice_step,
        "--middle-slices": options.middle_slices,
    }
    given = " ".join(f"{option} {value}" for option, value in asked.items() if value is not None)
    if not counts:
        return (f"there is no NIfTI volume for {given}",) if given else ()
    axis = options.slice_axis or DEFAULT_AXIS
    return (
        f"{len(counts)} NIfTI {plural(len(counts), 'volume')} {plural(len(counts), 'is', 'are')} cut into "
        f"{sum(counts)} {axis} slices, by the closest axis of their orientation ({given or '--slice-axis ' + axis}); "
        "the slices of a file stay in one split",
    )
