"""Checkpoints of an unfinished training: one safetensors file, replaced atomically, with its JSON in the header.

Everything a training needs to go on is in that one file, so there is no moment at which two files disagree.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...cache.errors import StudentError
from ...cache.machine.drafts import drafted

__all__ = ["Checkpoint", "TrainingState", "write_tensors"]

_HEADER = "training"
# Writing a ResNet-18 with its optimiser takes about a second; a kill -9 costs at most this much and one epoch. Whatever
# lets Python end, a signal or an error, costs no finished epoch: see `kept`.
_SECONDS_BETWEEN = 20.0


@dataclass
class TrainingState:
    """A training between two epochs.

    Attributes
    ----------
    history : one row an epoch done
    best : weights of the best epoch so far, on the CPU
    best_row : its row of `history`
    seconds : spent in training, interruptions left out
    projection : learned beside the model for the loss alone
    head_fitted : whether the head could be fitted before the first step, where the recipe asks for it
    """

    model: nn.Module
    averaged: nn.Module | None
    optimiser: torch.optim.Optimizer
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_row: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    projection: nn.Module | None = None
    head_fitted: bool = True

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state by a flat name."""
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.averaged is not None:
            found |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        if self.projection is not None:
            found |= {f"projection.{name}": value for name, value in self.projection.state_dict().items()}
        found |= {f"best.{name}": value for name, value in self.best.items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
        return found

    def load(self, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
        """Take over a saved state; memory layouts stay those of the model."""
        self.model.load_state_dict(_part(tensors, "model."))
        if self.averaged is not None:
            self.averaged.load_state_dict(_part(tensors, "averaged."))
        if self.projection is not None:
            self.projection.load_state_dict(_part(tensors, "projection."))
        self.best = _part(tensors, "best.")
        fresh = self.optimiser.state_dict()
        fresh["state"] = {}
        parameters = [value for group in self.optimiser.param_groups for value in group["params"]]
        for flat, value in _part(tensors, "optimiser.").items():
            index, name = flat.split(".")
            # The moments must lie in memory as their parameter does, or the optimiser walks them out of step.
            like = parameters[int(index)]
            moment = value if name == "step" else torch.empty_like(like).copy_(value)
            fresh["state"].setdefault(int(index), {})[name] = moment
        self.optimiser.load_state_dict(fresh)
        self.history, self.best_row = header["history"], header["best_row"]
        self.seconds = header["seconds"]


class Checkpoint:
    """The checkpoint file of one training.

    Parameters
    ----------
    seconds : least time between two writes; 0 writes after every epoch
    """

    def __init__(self, path: Path, seconds: float = _SECONDS_BETWEEN) -> None:
        self.path, self.seconds = path, seconds
        self._written = time.monotonic()
        self._unwritten: tuple[dict[str, Tensor], dict[str, str]] | None = None

    def load(self, state: TrainingState) -> bool:
        """Load the file into `state` if it is there; say whether it was.

        Raises
        ------
        StudentError
            It is there, and cannot be read or is of another model.
        """
        if not self.path.exists():
            return False
        try:
            with safe_open(self.path, "pt") as file:
                header = json.loads(file.metadata()[_HEADER])
                state.load({name: file.get_tensor(name) for name in file.keys()}, header)  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise StudentError(
                f"The checkpoint '{self.path}' cannot be used: {str(error).splitlines()[0][:200]}. "
                "Begin the run anew with --overwrite."
            ) from error
        return True

    def save(self, state: TrainingState, *, now: bool = False) -> None:
        """Write the state or, where the last one is fresh and `now` is not set, keep a copy that `kept` may write."""
        late = now or time.monotonic() - self._written >= self.seconds
        header = {"history": state.history, "best_row": state.best_row, "seconds": state.seconds}
        tensors = state.tensors()
        if not late:
            # The next epoch changes all of them but the best ones, which are replaced as a whole.
            tensors = {
                name: value if name.startswith("best.") else value.detach().to("cpu", copy=True)
                for name, value in tensors.items()
            }
        self._unwritten = tensors, {_HEADER: json.dumps(header)}
        if late:
            self._write()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write the last finished epoch, if that is not done, when an error, Ctrl-C or a signal ends what is within."""
        try:
            yield
        except BaseException:
            with _undisturbed():
                self._write()
            raise

    def _write(self) -> None:
        if self._unwritten is not None:
            write_tensors(self.path, *self._unwritten)
            self._unwritten, self._written = None, time.monotonic()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep further signals, and those of workers that were told to stop as well, from breaking off a last write."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGCHLD")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file beside `path`, make it durable, and move it there."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with drafted(path) as draft:
        try:
            save_file(whole, draft, metadata)
        except SafetensorError as error:
            # A full disk comes as "… (os error 28)".
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        # safetensors makes files for their owner alone; a run is shared as its folder is.
        draft.chmod(path.parent.stat().st_mode & 0o666)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
