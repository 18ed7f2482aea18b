"""Plans against each other, a training step at a time; on a CPU in a process of its own, which may die of one.

A library can write past its memory (oneDNN did, see `speed`): then the process ends without a word, and no `except`
hears of it. A child that ends so costs the plan that it was at, and not the training.
"""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from .plan import PLANS, Plan

__all__ = ["MEASURED_BATCH", "Step", "measured_images", "race", "race_apart"]

MEASURED_BATCH = 16
_ROUNDS = 3
# Large networks are judged by fewer rounds.
_SECONDS = 20.0
# A plan whose first step takes this much longer than the best one's is not measured further.
_HOPELESS = 3.0
_BEGIN = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from medal.student.network.race import _be_child
_be_child(*sys.argv[2:])
"""


def race(
    model: nn.Module, images: Tensor, device: str, plans: Sequence[Plan], begin: Callable[[Plan], None] = lambda _: None
) -> dict[Plan, float]:
    """Return the least seconds of a step of each plan; they take turns, so that a busy moment is nobody's alone.

    Parameters
    ----------
    begin : told before each step whose it is
    """
    begun = time.perf_counter()
    first, steps = {}, {}
    for plan in plans:
        begin(plan)
        steps[plan] = Step(copy.deepcopy(model), plan, images, device)
        first[plan] = steps[plan].seconds()
    limit = _HOPELESS * min(first.values())
    best = {plan: seconds for plan, seconds in first.items() if seconds > limit}
    for _ in range(_ROUNDS):
        for plan, step in steps.items():
            if first[plan] <= limit:
                begin(plan)
                best[plan] = min(best.get(plan, math.inf), step.seconds())
        if time.perf_counter() - begun > _SECONDS:
            break
    return {plan: best[plan] for plan in steps}


class Step:
    """One training step that can be timed again and again."""

    def __init__(self, model: nn.Module, plan: Plan, images: Tensor, device: str) -> None:
        self._plan, self._device = plan, device
        self._model = model.to(device).to(memory_format=plan.layout).train()
        self._images = images.contiguous(memory_format=plan.layout)

    def seconds(self) -> float:
        """Take a step and return how long it took."""
        # The backward pass of a CPU graph runs on the thread that calls it.
        clock = time.thread_time if self._device == "cpu" else time.perf_counter
        start = clock()
        with self._plan.autocast(self._device):
            logits = self._model(self._images)
        logits.float().square().mean().backward()
        self._model.zero_grad()
        if self._device != "cpu":
            torch.accelerator.synchronize()
        return clock() - start


def race_apart(model: nn.Module, image_size: int, plans: Sequence[Plan]) -> dict[Plan, float] | None:
    """Return the least seconds of each plan on a CPU, one thread; infinite for those that end the process.

    None where no process could be started, or it could not have the model.

    Raises
    ------
    RuntimeError
        A step fails, as it would here.
    """
    left = list(plans)
    dead: list[Plan] = []
    with TemporaryDirectory(prefix="medal-") as folder:
        place = Path(folder) / "model.pt"
        try:
            torch.save(model, place)
        except (OSError, RuntimeError, TypeError, AttributeError, ValueError):
            return None  # not every module can be pickled
        while left:
            status, said = _ask_child(place, image_size, left)
            done = next((one for one in said if "best" in one or "error" in one), None)
            if done is not None and "error" in done:
                raise RuntimeError(done["error"])
            if done is not None:
                return dict(zip(left, done["best"], strict=True)) | dict.fromkeys(dead, math.inf)
            if status >= 0 or not said:
                return None
            dead.append(left.pop(said[-1]["begin"]))
    return dict.fromkeys(dead, math.inf)


def _ask_child(place: Path, image_size: int, plans: Sequence[Plan]) -> tuple[int, list[dict[str, Any]]]:
    words = [json.dumps(sys.path), str(place), str(image_size), json.dumps([PLANS.index(plan) for plan in plans])]
    try:
        # This very Python, and a program and arguments that stand here.
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _BEGIN, *words], check=False, capture_output=True, text=True
        )
    except OSError:
        return 1, []
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _be_child(place: str, image_size: str, plans: str) -> None:
    def say(**what: object) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    torch.set_num_threads(1)
    model = torch.load(place, weights_only=False)  # of the process that began this one
    chosen = [PLANS[index] for index in json.loads(plans)]
    try:
        best = race(model, measured_images(int(image_size)), "cpu", chosen, lambda plan: say(begin=chosen.index(plan)))
    except RuntimeError as error:
        say(error=str(error).strip() or type(error).__name__)
    else:
        say(best=[best[plan] for plan in chosen])


def measured_images(image_size: int) -> Tensor:
    """Return the images of a measurement, (16, 3, S, S)."""
    return torch.rand(MEASURED_BATCH, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
