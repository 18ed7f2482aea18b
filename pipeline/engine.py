"""What computes features: this process here, or a Ray cluster (`ray_engine`); what both have in common.

An engine settles how a new cache is to be computed, then runs chunks of a task that was written down before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ..cache.progress import Advance
from .chunks import ChunkPlan, ComputedChunk
from .features import FeatureTask, compute_chunks
from .machine import describe_machine
from .planning import Plan, capable_precision, load_teacher
from .precision import default_batch_size, fitting_batch_size, trusted_precision
from .teacher import Teacher

__all__ = ["Engine", "LocalEngine", "Order", "Settled", "make_task", "settle"]

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
        self._joined(describe_machine(self._asked.settings.device))

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
