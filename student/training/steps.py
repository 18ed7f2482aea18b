"""What the steps of an epoch are given, drawn on the CPU and sent to the device for many steps at once.

With images that lie on the device, a step copies nothing there or back, and nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...pipeline.views.transforms import (
    VIEW_PARAMETERS,
    Policy,
    ViewPlan,
    apply_views,
    channel_levels,
    choose_views,
    draw_views,
    normalise,
    plan_views,
    send,
)
from ..network.images import PixelSource
from ..network.parallel import ALONE, Ranks
from ..network.speed import Plan
from ..settings import StudentSettings
from ..targets.load import SplitTargets, Targets

__all__ = ["Given", "Recipe", "TrainingData", "give_plain", "give_steps"]

Rows = npt.NDArray[np.int64]

# The view number that the student's own augmentation is drawn as; 0 is the canonical view.
_AUGMENTED = 1
# What is sent ahead at a time, pixels apart: an epoch of most trainings.
_SECTION_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Targets, and pixels per split in the same order; mean and std are the student's, of channels in 0…1."""

    targets: Targets
    pixels: Mapping[str, PixelSource]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings with nothing left open: what a training follows."""

    settings: StudentSettings
    epochs: int
    policy: Policy
    plan: Plan
    device: str
    ranks: Ranks = ALONE


class Given(NamedTuple):
    """What a step is given, on the device.

    Attributes
    ----------
    size : B, images of the whole batch
    images : (B, 3, S, S) augmented and normalised, or fewer where several ranks share a batch
    label : (B,) int64 or (B, C) uint8
    teacher : (B, C) float32 logits of the views that the student is given targets of
    feature : (B, F) float16 of the same views, where they are needed
    """

    size: int
    images: Tensor
    label: Tensor
    teacher: Tensor
    feature: Tensor | None


def give_steps(data: TrainingData, recipe: Recipe, batches: Sequence[tuple[Rows, Rows]], epoch: int) -> Iterator[Given]:
    """Yield what each batch of an epoch, as `draw_epoch` gives them, comes to.

    A row that stands several times in an epoch is seen in another view each time, as far as there are any.
    """
    ranks, device = recipe.ranks, recipe.device
    levels = [channel_levels(values, device) for values in (data.mean, data.std)]
    pixels_of = data.pixels["train"].batches([rows[ranks.share(len(rows))] for rows, _ in batches])
    sent = _sent(data.targets.splits["train"], recipe, batches, epoch)
    for (rows, _), pixels, (label, teacher, feature, *views) in zip(batches, pixels_of, sent, strict=True):
        moved = apply_views(send(pixels, device), ViewPlan._make(views))
        images = normalise(moved, *levels).contiguous(memory_format=recipe.plan.layout)
        yield Given(len(rows), images, label, teacher, feature)


def give_plain(data: TrainingData, split: str, batches: Sequence[Rows], plan: Plan, device: str) -> Iterator[Tensor]:
    """Yield the unaugmented images of some batches of a split, normalised, on the device, (B, 3, S, S)."""
    levels = [channel_levels(values, device) for values in (data.mean, data.std)]
    for pixels in data.pixels[split].batches(batches):
        yield normalise(send(pixels, device), *levels).contiguous(memory_format=plan.layout)


def _sent(
    part: SplitTargets, recipe: Recipe, batches: Sequence[tuple[Rows, Rows]], epoch: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield labels, logits, features and the views' plan of each batch, on the device."""
    columns = (part.label, part.logits[:, :1], part.view[:, :1], part.feature)
    row_bytes = sum(one[:1].nbytes for one in columns if one is not None) + 1
    some = max(1, _SECTION_BYTES // (row_bytes * max(len(rows) for rows, _ in batches)))
    for start in range(0, len(batches), some):
        drawn = [_draw(part, recipe, *batch, epoch) for batch in batches[start : start + some]]
        yield from zip(*(_send_column(column, recipe.device) for column in zip(*drawn, strict=True)), strict=True)


def _draw(part: SplitTargets, recipe: Recipe, rows: Rows, copies: Rows, epoch: int) -> list[Tensor | None]:
    seed, share = recipe.settings.seed, recipe.ranks.share(len(rows))
    own, copied = rows[share], copies[share]
    if recipe.settings.targets == "stored":
        count = part.view.shape[1]
        view = (choose_views(part.key[rows], epoch, count, seed) + copies) % count  # (B,)
        params = part.view[own, view[share]]  # (B, P)
    else:
        view = np.zeros(len(rows), np.int64)
        params = np.empty((len(own), len(VIEW_PARAMETERS)), np.float32)
        for times in np.unique(copied).tolist():
            here = copied == times
            params[here] = draw_views(recipe.policy, part.key[own[here]], epoch, _AUGMENTED + times, seed)
    label = part.label[rows]
    return [
        torch.from_numpy(label.astype(np.int64) if label.ndim == 1 else label),
        torch.from_numpy(part.logits[rows, view]),
        None if part.feature is None else torch.from_numpy(part.feature[rows, view]),
        *plan_views(params),
    ]


def _send_column(values: Sequence[Tensor | None], device: str) -> Iterator[Tensor | None]:
    """Send the same thing of several batches to the device in one piece, and give each batch its own again."""
    there = [one for one in values if one is not None]
    parts = iter(torch.split(send(torch.cat(there), device), [len(one) for one in there]) if there else ())
    for one in values:
        yield None if one is None else next(parts)
