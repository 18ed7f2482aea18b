"""Keeping what decoders warn of to themselves, on however many threads."""

from __future__ import annotations

import re
import threading
import warnings

__all__ = ["quiet_decoders"]

_ROOM = re.escape(__name__.rpartition(".")[0])
# Pillow warns of damaged tags, pydicom of padding and of what headers get wrong; some warnings count as their caller's.
_MODULES = (r"PIL(\.|$)", r"pydicom(\.|$)", r"tifffile(\.|$)", rf"{_ROOM}\.(picture|dicom|tiff)")


class _QuietDecoders:
    """Ignore decoders' warnings while at least one thread decodes.

    `warnings.catch_warnings` changes the whole process and restores what it found, so that threads which enter and
    leave it in turn would restore each other's state; only the first and the last one touch it here. For the same
    reason there is one of these, for all decoders.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                for module in _MODULES:
                    warnings.filterwarnings("ignore", module=module)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


quiet_decoders = _QuietDecoders()
