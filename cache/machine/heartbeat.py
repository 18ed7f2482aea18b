"""Repeats an action every few seconds, so that others see that this process is running."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from ..errors import CacheError

__all__ = ["Heartbeat"]


class Heartbeat:
    """Calls something again and again, on a thread of its own, until it is stopped or the process ends.

    Parameters
    ----------
    beat : its errors of disks and networks are ignored; the next real write reports a lasting failure
    """

    def __init__(self, beat: Callable[[], None], seconds: float) -> None:
        self._call, self._seconds = beat, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="medal-heartbeat")
        self._thread.start()

    def _beat(self) -> None:
        while not self._over.wait(self._seconds):
            with suppress(OSError, CacheError):
                self._call()

    def stop(self) -> None:
        """Stop, and wait for a beat that has begun."""
        self._over.set()
        self._thread.join()
