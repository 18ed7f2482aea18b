"""Chunks as tasks of a Ray cluster: teachers run in actors, as many as fit on its machines, which may join and leave.

    driver ─ chunk plan ─► actor: images ─► teacher ─► records ─► driver, which makes them durable

The driver alone writes, so that the work directory need not be reachable from anywhere else, has one owner and one
lock, and a chunk is durable or is not: of the workers nothing is asked but that they can read teacher and images
(files, that is; arrays are sent to them). A chunk has a few hundred records, a megabyte or so, which is little beside
the seconds that it takes to compute. One that is lost with its actor is given to another one; whoever computes it, it
is made of the same batches.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import version
from typing import Any, cast

import torch

from ...cache.errors import MedalError
from ...cache.progress import Advance, Tell
from ..features.engine import Joined, Order, Settled
from ..planning.chunks import ChunkPlan, ComputedChunk
from ..planning.plan import Plan
from ..threads import allowed_threads
from .cluster import connected, sentence
from .worker import Place, RayWorker

__all__ = ["RayEngine", "ray_engine"]


# A chunk that ends its workers again and again is to blame for it, not they; so is a machine on which none starts.
_TRIES, _STARTS = 4, 3
# One chunk is computed while the next already waits where it will be.
_DEPTH = 2
_LOOK, _SLOW, _ABSENT = 5.0, 30.0, 60.0  # seconds


@contextmanager
def ray_engine(asked: Plan, joined: Joined, tell: Tell) -> Iterator[RayEngine]:
    """Yield an engine on the requested cluster, for the length of the context.

    With the kind of device and the number of threads that a process of its own would use, it computes the same bytes.

    Parameters
    ----------
    joined : called with what describes the machine of each actor, when its teacher is loaded
    tell : called with what the user should know while it happens

    Raises
    ------
    MedalError
        There is no Ray, the cluster cannot be reached, or it has nothing to compute with.
    """
    with connected(asked.settings.address) as ray:
        kind = _kind(asked.settings.device, ray.cluster_resources())
        # What is sent to the workers: no open caches, and the kind of device that they have.
        lean = replace(asked, sources=(), existing=None, settings=replace(asked.settings, device=kind))
        place = Place(
            folder=os.path.abspath(os.curdir),  # noqa: PTH100 - resolve() would follow links that nodes may not have
            threads=allowed_threads(),
            medal=version("medalmighty"),
        )
        engine = RayEngine(ray, lean, place, joined, tell)
        try:
            yield engine
        finally:
            engine.dismiss()


def _kind(device: str, resources: Mapping[str, float]) -> str:
    there = resources.get("GPU", 0) >= 1
    kind = torch.device(("cuda" if there else "cpu") if device == "auto" else device).type
    if kind == "cuda" and not there:
        raise MedalError("The Ray cluster has no GPU for --device cuda; use --device auto or cpu.")
    return kind


@dataclass(eq=False)
class _Worker:
    """An actor as the driver knows it, and what it was given, by reference and in order, once it is `ready`."""

    handle: Any
    node: str
    loading: Any
    ready: bool = False
    plans: dict[Any, ChunkPlan] = field(default_factory=dict)

    def awaited(self) -> list[Any]:
        return list(self.plans) if self.ready else [self.loading]


class RayEngine:
    """The actors of one run, started wherever there is room for one and replaced where they are lost."""

    def __init__(self, ray: Any, asked: Plan, place: Place, joined: Joined, tell: Tell) -> None:
        self._ray, self._place, self._joined, self._tell = ray, place, joined, tell
        self._cuda = asked.settings.device == "cuda"
        # Once for all actors; those of one machine share the memory of its arrays.
        self._asked = ray.put(asked)
        self._order: Any = None
        self._workers: list[_Worker] = []
        self._queue: deque[ChunkPlan] = deque()
        self._tries: Counter[ChunkPlan] = Counter()
        self._failed_starts: Counter[str] = Counter()
        self._why = "none of its machines has a free CPU"
        self._looked = -_LOOK
        self._begun = self._manned = time.monotonic()
        self._slow_told = False

    def settle(self) -> Settled:
        """Let the first actor decide how to compute: this process may not have such a device."""
        while True:
            self._hire(most=1)
            if not self._workers:
                time.sleep(_LOOK / 10)
                continue
            first = self._workers[0]
            if self._ray.wait([first.loading], timeout=_LOOK)[0]:
                settled = self._get(first, first.loading)
                if settled is not None:
                    return cast(Settled, settled)

    def begin(self, order: Order) -> None:
        """Load teachers, and wait for the first to be ready.

        Raises
        ------
        ConnectionError
            No actor can be started.
        """
        self._order, self._looked = self._ray.put(order), -_LOOK
        for worker in self._workers:
            worker.loading = worker.handle.load.remote(self._order)
        while not any(worker.ready for worker in self._workers):
            self._turn()

    def run(self, plans: Sequence[ChunkPlan], advance: Advance) -> Iterator[ComputedChunk]:
        """Yield chunks as they are finished.

        Raises
        ------
        ConnectionError
            No worker is left, or a chunk has ended several.
        """
        self._queue = deque(plans)
        while self._queue or any(worker.plans for worker in self._workers):
            for done in self._turn():
                advance(len(done.plan))
                yield done

    def _turn(self) -> list[ComputedChunk]:
        """Start actors, distribute chunks, and wait a while for results."""
        self._hire()
        self._give()
        owner = {ref: worker for worker in self._workers for ref in worker.awaited()}
        if not owner:
            time.sleep(_LOOK / 10)
            return []
        finished, _ = self._ray.wait(list(owner), timeout=_LOOK)
        taken = [self._take(owner[ref], ref) for ref in finished]
        return [done for done in taken if done is not None]

    def dismiss(self) -> None:
        """End all actors; the cluster keeps running."""
        for worker in self._workers:
            with suppress(Exception):
                self._ray.kill(worker.handle)
        self._workers = []

    def _hire(self, most: int | None = None) -> None:
        """Look now and then which machines there are, and start an actor wherever there is room for one."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        for node in self._ray.nodes():
            name = node["NodeID"]
            if node["Alive"] and self._failed_starts[name] < _STARTS:
                there = sum(worker.node == name for worker in self._workers)
                for _ in range(there, self._room(node["Resources"])):
                    if most is not None and len(self._workers) >= most:
                        break
                    self._workers.append(self._start(name, node["Resources"]))
        if self._workers:
            self._manned = now
        elif now - self._manned > _ABSENT or self._failed_starts:
            raise ConnectionError(f"the Ray cluster has no worker left ({self._why})")
        if not self._slow_told and now - self._begun > _SLOW and not any(worker.ready for worker in self._workers):
            self._slow_told = True
            self._tell(
                f"no worker of the Ray cluster is ready after {_SLOW:.0f} s; the cluster may be busy; still waiting"
            )

    def _room(self, resources: Mapping[str, float]) -> int:
        """Return how many actors a machine has room for: at least one if it can compute at all."""
        if self._cuda:
            return int(resources.get("GPU", 0))
        processors = int(resources.get("CPU", 0))
        return max(min(1, processors), processors // self._place.threads)

    def _start(self, node: str, resources: Mapping[str, float]) -> _Worker:
        strategies = import_module("ray.util.scheduling_strategies")
        processors = min(1 if self._cuda else self._place.threads, int(resources.get("CPU", 0)))
        actor = self._ray.remote(RayWorker).options(
            num_cpus=processors,
            num_gpus=int(self._cuda),
            max_restarts=0,
            scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node, soft=False),
        )
        handle = actor.remote(self._asked, self._place)
        first = handle.settle.remote() if self._order is None else handle.load.remote(self._order)
        return _Worker(handle, node, first)

    def _give(self) -> None:
        """Distribute chunks, one to each actor before a second to any, so that no slow machine holds two at the end."""
        ready = [worker for worker in self._workers if worker.ready]
        for depth in range(1, _DEPTH + 1):
            for worker in ready:
                if len(worker.plans) < depth and len(self._queue) > (depth - 1) * len(ready):
                    plan = self._queue.popleft()
                    worker.plans[worker.handle.compute.remote(plan)] = plan

    def _take(self, worker: _Worker, ref: Any) -> ComputedChunk | None:
        """Return the chunk that an actor has finished, if that is what there is to take."""
        # One that an earlier of its chunks has shown to be lost has nothing to give any more.
        value = self._get(worker, ref) if worker in self._workers else None
        if value is None:
            return None
        if not worker.ready:
            worker.ready = True
            self._failed_starts.pop(worker.node, None)
            self._joined(value)
            return None
        del worker.plans[ref]
        return cast(ComputedChunk, value)

    def _get(self, worker: _Worker, ref: Any) -> Any:
        """Return an actor's result, raise its refusal, or replace a lost actor and return None."""
        errors = import_module("ray.exceptions")
        try:
            value = self._ray.get(ref)
        except errors.RayTaskError:  # no refusal, but an error in the program
            raise
        except errors.RayError as error:
            self._lose(worker, error)
            return None
        if isinstance(value, MedalError | OSError):
            raise value
        return value

    def _lose(self, worker: _Worker, error: Exception) -> None:
        """Put back an actor's chunks, and start another actor."""
        self._workers.remove(worker)
        with suppress(Exception):
            self._ray.kill(worker.handle)
        self._why, self._looked = sentence(error), -_LOOK
        if not worker.ready:
            self._failed_starts[worker.node] += 1
            return
        plans = list(worker.plans.values())
        self._tell(f"a worker of the Ray cluster was lost; {len(plans)} of its chunks go to other workers")
        self._queue.extendleft(reversed(plans))
        # The first was being computed, the others only waited.
        for plan in plans[:1]:
            self._tries[plan] += 1
            if self._tries[plan] == _TRIES:
                raise ConnectionError(
                    f"{_TRIES} workers of the Ray cluster were lost over rows {plan.start} to {plan.stop - 1} of "
                    f"{plan.split}, the last one by {self._why}"
                )
