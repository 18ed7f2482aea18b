"""How many threads compute: as many as this process may use, and fewer where that is faster on a shared machine."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..cache.machine.processors import usable_processors

__all__ = ["allowed_threads", "quick_threads", "quickest_threads", "side_by_side", "threads_restored", "threads_said"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Where they are set, the user has chosen.
_SAID = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# So much quicker must fewer threads be: sums are split by thread, and equal commands should go on to give equal bits.
_CLEARLY = 1.2
# A count that is so much slower than the best so far is the last one tried: half of it would be slower still.
_HOPELESS = 1.5
# Rounds after the first, and seconds after which no further one is begun; the least time of each count is compared.
_ROUNDS = 2
_SECONDS = 3.0
# A product of such matrices takes a tenth of a second, so that a neighbour shows.
_SIDE = 1536


def threads_said() -> str | None:
    """Return the variable by which the user says how many threads there are, None where none does."""
    return next((name for name in _SAID if os.environ.get(name)), None)


def allowed_threads() -> int:
    """Return how many threads may compute: torch's, and no more than this process's processors unless the user says."""
    threads = torch.get_num_threads()
    return threads if threads_said() else min(threads, usable_processors())


@contextmanager
def threads_restored() -> Iterator[None]:
    """Leave the number of torch's threads as it was, whatever happens within."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def side_by_side(compute: Callable[[Item], Result], parts: Sequence[Item]) -> list[Result]:
    """Compute parts on all allowed threads, each part on one.

    So the result does not depend on how many threads there are, and none waits for another, as the threads of one
    operation do: where a neighbour holds a processor, the others take more of the parts.
    """
    count = min(allowed_threads(), len(parts))
    with threads_restored():
        torch.set_num_threads(1)
        if count <= 1:
            return [compute(part) for part in parts]
        # Each thread has a number of its own, which a new one takes from OpenMP.
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(compute, parts))


def quickest_threads(work: Callable[[], object]) -> int:
    """Return with how many of the allowed threads some work is done soonest now, by the clock on the wall.

    All, the half of them, and so on down to one take turns. Threads of one operation wait for each other, so that on a
    busy machine many may be slower than one. Nothing is measured where the user says how many there are.
    """
    most = allowed_threads()
    if most == 1 or threads_said():
        return most
    begun = time.perf_counter()
    least: dict[int, float] = {}
    with threads_restored():
        torch.set_num_threads(most)
        work()  # whatever is made on first use
        count, took = most, 0.0
        while count and took <= _HOPELESS * min(least.values(), default=math.inf):
            took = least[count] = _timed(work, count)
            count //= 2
        for _ in range(_ROUNDS):
            for count, seconds in least.items():
                least[count] = min(seconds, _timed(work, count))
            if time.perf_counter() - begun > _SECONDS:
                break
    best = min(least, key=least.__getitem__)
    return best if least[most] > _CLEARLY * least[best] else most


def _timed(work: Callable[[], object], count: int) -> float:
    torch.set_num_threads(count)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def quick_threads() -> Iterator[None]:
    """Let torch, BLAS and OpenMP compute with as many threads as multiply matrices soonest now."""
    from threadpoolctl import threadpool_limits

    square = torch.ones(_SIDE, _SIDE)
    count = quickest_threads(lambda: square @ square)
    with threads_restored(), threadpool_limits(count):
        torch.set_num_threads(count)
        yield
