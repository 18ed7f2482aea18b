"""Several processes that compute one cache: started by torchrun, or by srun with the same variables.

Rank 0 decides, and seals; the others compute their share of the chunks. What they need to tell each other is little,
and goes through the store that torch.distributed meets at: no process group, and so no collective that everybody hangs
in when one is gone.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

from ...cache.machine.processes import count_ranks

__all__ = ["ALONE", "Team", "join_team", "started_together"]

Item = TypeVar("Item")

_POLL, _BEAT, _SILENCE = 0.2, 5.0, 120.0  # seconds
_MEETING = timedelta(minutes=10)


class Team:
    """The processes of one command.

    Attributes
    ----------
    rank, size : which of how many this one is; rank 0 leads
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None, silence: float = _SILENCE) -> None:
        self.rank, self.size = rank, size
        self._store, self._silence = store, silence

    @property
    def leads(self) -> bool:
        """Whether this is the process that decides."""
        return self.rank == 0

    @property
    def others(self) -> range:
        """The ranks that follow."""
        return range(1, self.size)

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return what of some work, which all ranks know in the same order, falls to this one."""
        return list(items[self.rank :: self.size])

    def say(self, what: str, value: Any) -> None:
        """Let all others know something, as JSON; of two calls the first counts."""
        if self._store is None:
            return
        try:
            if not self._store.check([_name(what, self.rank)]):
                self._store.set(_name(what, self.rank), json.dumps(value))
        except RuntimeError as error:  # all errors of torch.distributed are
            raise ConnectionError(f"the other ranks cannot be reached ({type(error).__name__})") from error

    def hear(self, what: str, rank: int) -> Any:
        """Wait for what a rank says, as long as it lives.

        Raises
        ------
        ConnectionError
            Nothing has been heard of that rank for too long.
        """
        beat, heard = None, time.monotonic()
        try:
            while not self._store.check([_name(what, rank)]):
                now = self._store.add(f"beat-{rank}", 0)
                if now != beat:
                    beat, heard = now, time.monotonic()
                elif time.monotonic() - heard > self._silence:
                    raise ConnectionError(f"nothing has been heard of rank {rank} for {self._silence:.0f} s")
                time.sleep(_POLL)
            return json.loads(self._store.get(_name(what, rank)))
        except RuntimeError as error:
            raise ConnectionError(f"rank {rank} cannot be heard ({type(error).__name__})") from error

    def leave(self, *, in_peace: bool) -> None:
        """Say the last word; in peace rank 0, whose process may hold the store, leaves after the others."""
        with suppress(ConnectionError):
            self.say("task", None)
            self.say("gone", True)
            for rank in self.others if self.leads and in_peace else ():
                self.hear("gone", rank)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Let the others know, as long as the context lasts, that this process is alive."""
        over = threading.Event()

        def beat() -> None:
            with suppress(RuntimeError):  # whoever held the store is gone, which its own waiting finds
                while not over.wait(_BEAT):
                    self._store.add(f"beat-{self.rank}", 1)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


ALONE = Team()


def started_together() -> bool:
    """Tell whether torchrun or srun started this process as one of several."""
    return count_ranks() > 1


@contextmanager
def join_team() -> Iterator[Team]:
    """Meet the other processes of the command, if torchrun or srun started several; without them, there is one.

    Each takes a GPU of its own, as far as there are.
    """
    if not started_together():
        yield ALONE
        return
    import torch

    distributed: Any = torch.distributed  # which does not say what it exports
    store, rank, size = next(distributed.rendezvous("env://", timeout=_MEETING))
    # torchrun keeps one store for all its attempts; what was said in an earlier one is over.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    team = Team(rank, size, distributed.PrefixStore(f"medal-{attempt}", store))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    with team.beating():
        try:
            yield team
        except BaseException:
            team.leave(in_peace=False)
            raise
        team.leave(in_peace=True)


def _name(what: str, rank: int) -> str:
    return f"{what}-{rank}"
