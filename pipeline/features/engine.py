"""What computes features: this process here, or a Ray cluster (`ray.engine`); what both have in common.

An engine settles how a new cache is to be computed, then runs chunks of a task that was written down before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from ...cache.progress import Advance
from ..planning.chunks import ChunkPlan, ComputedChunk
from ..planning.plan import Plan, count_kept, count_known, estimate_bytes
from ..teacher.machine import describe_machine
from ..teacher.teacher import Teacher, pick_device, precision_for
from .extract import FeatureTask, compute_chunks
from .precision import default_batch_size, fitting_batch_size, trusted_precision

__all__ = [
    "Engine",
    "LocalEngine",
    "Order",
    "Settled",
    "capable_precision",
    "estimate",
    "load_teacher",
    "make_task",
    "settle",
]

Joined = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Settled:
    """How the features of a cache are computed: decided once, then obeyed by every process that takes part."""

    precision_used: str
    min_cosine_to_fp32: float | None
    batch_size: int

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON knows them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be computed of a plan, and how.

    Attributes
    ----------
    fresh : of each split, (N,) bool, the rows that are not taken over from other caches
    """

    fresh: Mapping[str, Any]
    precision: str
    batch_size: int


class Engine(Protocol):
    """Where features are computed."""

    def settle(self) -> Settled:
        """Decide how, with the arithmetic that will compute."""
        ...

    def begin(self, order: Order) -> None:
        """Load the teacher, so that chunks can be run."""
        ...

    def run(self, plans: Sequence[ChunkPlan], advance: Advance) -> Iterable[ComputedChunk]:
        """Compute chunks, in whatever order; `advance` is called with how many more rows are dealt with."""
        ...


class LocalEngine:
    """This process.

    Parameters
    ----------
    joined : called with what describes this machine when it begins to compute
    """

    def __init__(self, asked: Plan, joined: Joined = lambda _: None) -> None:
        self._asked, self._joined = asked, joined
        self._teacher: Teacher | None = None
        self._task: FeatureTask | None = None

    def settle(self) -> Settled:
        """Decide how, and keep the teacher that was loaded for that."""
        self._teacher, settled = settle(self._asked)
        return settled

    def begin(self, order: Order) -> None:
        """Load the teacher, unless it is there, and describe this machine."""
        self._teacher = self._teacher or load_teacher(self._asked, order.precision)
        self._task = make_task(self._asked, order)
        self._joined(self.describe())

    def describe(self) -> dict[str, Any]:
        """Return what kind of machine this is, and how the teacher that was loaded computes on it."""
        assert self._teacher is not None  # noqa: S101 - begin comes first
        return describe_machine(self._asked.settings.device, self._teacher.layers)

    def run(self, plans: Sequence[ChunkPlan], advance: Advance = lambda _: None) -> Iterable[ComputedChunk]:
        """Compute chunks in their order."""
        assert self._teacher is not None  # noqa: S101 - begin comes first
        assert self._task is not None  # noqa: S101
        return compute_chunks(self._task, self._teacher, plans, advance)


def settle(asked: Plan) -> tuple[Teacher, Settled]:
    """Choose the precision that says what fp32 says and the batch that fits, on this machine; return the teacher."""
    teacher, used, cosine = trusted_precision(
        asked.dataset,
        asked.rows,
        asked.preprocessing,
        capable_precision(asked),
        lambda precision: load_teacher(asked, precision),
    )
    batch_size = asked.settings.batch_size or default_batch_size(str(teacher.device))
    if teacher.device.type != "cpu":
        batch_size = fitting_batch_size(teacher, asked.preprocessing, batch_size)
    return teacher, Settled(precision_used=used, min_cosine_to_fp32=cosine, batch_size=batch_size)


def make_task(asked: Plan, order: Order) -> FeatureTask:
    """Return what is left to compute of a plan: the same in every process."""
    return FeatureTask(
        dataset=asked.dataset,
        rows={split: part.take(order.fresh[split]) for split, part in asked.rows.items()},
        preprocessing=asked.preprocessing,
        views=asked.settings.stored_views,
        batch_size=order.batch_size,
    )


def estimate(asked: Plan) -> tuple[int, float]:
    """Return the bytes that the sealed cache will take and the seconds that the teacher needs, from one real batch."""
    total = estimate_bytes(asked)
    if asked.action in ("reuse", "pulled"):
        return total, 0.0
    teacher = load_teacher(asked, capable_precision(asked))
    side = asked.preprocessing.image_size
    pixels = torch.zeros(asked.settings.batch_size or default_batch_size(str(teacher.device)), 3, side, side)
    teacher.features(pixels, asked.preprocessing)
    begun = time.monotonic()
    teacher.features(pixels, asked.preprocessing)
    a_view = (time.monotonic() - begun) / len(pixels)
    views = sum(asked.settings.stored_views.of(split) * len(part) for split, part in asked.rows.items()) / asked.images
    return total, a_view * views * (asked.images - count_known(asked) - count_kept(asked))


def capable_precision(asked: Plan) -> str:
    """Return the precision that is asked for, ``auto`` resolved by what the device can do."""
    return precision_for(asked.settings.precision, pick_device(asked.settings.device))


def load_teacher(asked: Plan, precision: str) -> Teacher:
    """Load the planned teacher onto the planned device."""
    device = pick_device(asked.settings.device)
    return Teacher.load(asked.files, feature=asked.settings.feature, precision=precision, device=device)
