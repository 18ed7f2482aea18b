"""Which number format and memory layout trains this model fastest on this machine: measured, then written down.

The differences are tenfold and go either way (depthwise networks are often slower in bf16, plain ones much faster),
so nothing but a measurement tells.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ...cache.errors import StudentError
from ...cache.machine.drafts import drafted
from ...cache.machine.home import home_folder
from ...pipeline.threads import quickest_threads, threads_restored
from .plan import PLANS, Layout, Plan
from .race import MEASURED_BATCH, Step, measured_images, race, race_apart

__all__ = [
    "Plan",
    "choose_plan",
    "choose_threads",
    "fastest_plan",
    "measure_plans",
    "name_chip",
    "pick_device",
    "wall_rate",
]

# Another plan must be this much faster than the one before it in `_PLANS`: noise should not decide between two
# that are about equal, and where they are, the more exact one is better.
_CLEARLY = 1.1
# float32 numbers in the widest vector of a CPU.
_VECTOR = 16


def _candidates(model: nn.Module, device: str, layout: Layout = "auto") -> list[Plan]:
    takes = _takes_channels_last(model, device)
    if layout == "channels-last" and not takes:
        raise StudentError(
            "This student cannot be trained with --memory-layout channels-last on a CPU: the backward pass of its "
            "strided 1 x 1 convolution corrupts memory there. Leave the option out, or give channels-first."
        )
    return [
        plan
        for plan in PLANS
        if (takes or not plan.channels_last)
        and layout in ("auto", f"channels-{'last' if plan.channels_last else 'first'}")
    ]


def _takes_channels_last(model: nn.Module, device: str) -> bool:
    """Tell whether the backward pass of a model with channels last keeps to its memory.

    On a CPU that of a 1 x 1 convolution with a stride does not, where its input has fewer channels than a vector of
    the chip: oneDNN writes past a buffer, and the process dies or its gradients are wrong (uxlfoundation/oneDNN issue
    6035; measured with torch 2.14: 2 to 15 channels with AVX512, 2 to 7 with AVX2). Stems that are folded after
    training have one over the three colours: MobileOne, FastViT, RepVGG.
    """
    return device != "cpu" or not any(
        max(module.kernel_size) == 1 and max(module.stride) > 1 and 1 < module.in_channels // module.groups < _VECTOR
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    )


def pick_device(asked: str) -> str:
    """Return ``cpu``, ``cuda`` or ``mps``; ``auto`` is a GPU that torch can use, if there is one.

    Raises
    ------
    StudentError
        A GPU is asked for and there is none.
    """
    known = {"cuda": ("CUDA device", torch.cuda.is_available), "mps": ("GPU of Apple's", torch.mps.is_available)}
    if asked == "auto":
        return next((name for name, (_, there) in known.items() if there()), "cpu")
    if asked in known and not known[asked][1]():
        raise StudentError(f"There is no {known[asked][0]} that torch can use; give --device cpu.")
    return asked


def choose_plan(
    model: nn.Module,
    name: str,
    image_size: int,
    device: str,
    asked: Literal["auto", "fp32", "bf16"],
    layout: Layout = "auto",
) -> tuple[Plan, dict[str, float]]:
    """Return the plan to train by, and the images a second of each that was measured (empty if none was).

    A precision that is asked for is taken unmeasured, with channels last if the model can, so that results can be
    compared to the bit across machines. What ``auto`` measures is remembered for this machine, in medal's home
    folder, so that the same command computes the same bits tomorrow.
    """
    plans = _candidates(model, device, layout)
    if asked != "auto":
        return next(plan for plan in plans if plan.precision == asked), {}
    rates = _recall(name, image_size, device, _candidates(model, device))
    if rates is None:
        rates = measure_plans(model, image_size, device)
        _remember(name, image_size, device, rates)
    rates = {str(plan): rates[str(plan)] for plan in plans}
    return fastest_plan(rates), rates


def measure_plans(model: nn.Module, image_size: int, device: str) -> dict[str, float]:
    """Return the training speed of each plan in images a second; the model is left as it was.

    On a CPU: images a second of processor time on one thread, since wall time on a busy machine says more about its
    other users than about the plans (threads that wait for each other were seen to turn a factor of 1.8 round). They
    are measured in a process of its own; a plan that ends that process has the rate 0.
    """
    plans = _candidates(model, device)
    with _failing_clearly(image_size):
        best = race_apart(model, image_size, plans) if device == "cpu" else None
        if best is None:
            state = torch.get_rng_state()
            with threads_restored():
                torch.set_num_threads(1)
                best = race(model, measured_images(image_size).to(device), device, plans)
            torch.set_rng_state(state)
    return {str(plan): round(MEASURED_BATCH / best[plan], 1) for plan in plans}


@contextmanager
def _failing_clearly(image_size: int) -> Iterator[None]:
    """Say what a first step fails of: inputs too small for the model's pooling, or too large for the memory."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise StudentError(
            f"The student cannot be trained at {image_size} px here: {reason}. Give another --image-size, or another "
            "--student."
        ) from error


@contextmanager
def _step_of(model: nn.Module, plan: Plan, image_size: int, device: str) -> Iterator[Callable[[], object]]:
    """Give a training step of a copy of the model; the CPU's random state is restored afterwards."""
    images = torch.zeros(MEASURED_BATCH, 3, image_size, image_size, device=device)
    state = torch.get_rng_state()
    try:
        with _failing_clearly(image_size):
            yield Step(copy.deepcopy(model), plan, images, device).seconds
    finally:
        torch.set_rng_state(state)


def choose_threads(model: nn.Module, plan: Plan, image_size: int, device: str) -> int:
    """Return with how many threads a training step of this plan is quickest now, among the machine's other users."""
    if device != "cpu":
        return torch.get_num_threads()
    with _step_of(model, plan, image_size, device) as step:
        return quickest_threads(step)


def wall_rate(model: nn.Module, plan: Plan, image_size: int, device: str) -> float:
    """Return images a second of one plan as the clock on the wall counts them now, with all threads: for estimates."""
    with _step_of(model, plan, image_size, device) as step:
        step()
        start = time.perf_counter()
        step()
        return MEASURED_BATCH / (time.perf_counter() - start)


def fastest_plan(rates: Mapping[str, float]) -> Plan:
    """Return the plan of the highest rate, an earlier one where they are about equal.

    Raises
    ------
    StudentError
        None can be computed.
    """
    chosen, *others = (plan for plan in PLANS if str(plan) in rates)
    if not any(rates.values()):
        raise StudentError(
            "This student crashes on this machine with every precision and memory layout (a fault in the libraries); "
            "give another --student, another --device, or another version of torch."
        )
    for plan in others:
        if rates[str(plan)] > _CLEARLY * rates[str(chosen)]:
            chosen = plan
    return chosen


# ── Remembered measurements ──────────────────────────────────────────────────────────────────────────────────────


def name_chip(device: str) -> str:
    """Return the name of a GPU, or what a CPU can do; an Apple GPU has no name of its own."""
    names = {"cuda": torch.cuda.get_device_name, "cpu": torch.backends.cpu.get_cpu_capability}
    return names[device]() if device in names else device


def _memory(name: str, image_size: int, device: str) -> Path:
    """Return the file that remembers this measurement: one for each machine, model, size and version of torch."""
    facts = [
        platform.node(),
        platform.machine(),
        name_chip(device),
        torch.get_num_threads(),
        torch.__version__,
        name,
        image_size,
    ]
    digest = blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
    return home_folder() / "speed" / f"{digest}.json"


def _recall(name: str, image_size: int, device: str, plans: Iterable[Plan]) -> dict[str, float] | None:
    try:
        rates = json.loads(_memory(name, image_size, device).read_text(encoding="utf-8"))
        return {str(plan): float(rates[str(plan)]) for plan in plans}
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None


def _remember(name: str, image_size: int, device: str, rates: Mapping[str, float]) -> None:
    try:
        path = _memory(name, image_size, device)
        path.parent.mkdir(parents=True, exist_ok=True)
        with drafted(path, path.with_name(f".{path.name}.{os.getpid()}.part")) as draft:
            draft.write_text(json.dumps(dict(rates)), encoding="utf-8")
    except (OSError, RuntimeError):
        return  # a read-only home only means measuring again
