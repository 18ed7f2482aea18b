"""Who holds a lock: its file is read without trusting it, and its process is checked."""

from __future__ import annotations

import os
import re
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ..errors import CacheCorrupt
from ..format.manifest import parse_json
from ..format.plain_files import read_plain

__all__ = ["Found", "Holder", "is_here", "is_running", "read_lock", "this_process"]

_TOKEN = re.compile(r"[0-9a-f]{16}")
# Ours have some 250 bytes; a longer file of that name is somebody else's.
_MOST_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lock."""

    host: str
    machine: str
    process: int
    started: str
    since: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on '{self.host}', since {self.since}"


@dataclass(frozen=True)
class Found:
    """The file at a lock's place, the holder it names, and why it cannot be read.

    It has no name between its creation and its first bytes (for good if its process ended there), and is strange if
    medal did not make it.
    """

    state: Literal["absent", "nameless", "named", "unreadable", "strange"]
    holder: Holder | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.state == "unreadable":
            return f"a process whose lock cannot be read ({self.why})"
        return str(self.holder or "a process that has not written its name yet")


def read_lock(path: Path) -> Found:
    """Read the file at a lock's place; only plain files are opened."""
    try:
        data = read_plain(path, _MOST_BYTES, "lock")
        return Found("named", _parse(data)) if data else Found("nameless")
    except FileNotFoundError:
        return Found("absent")
    except (CacheCorrupt, TypeError):
        return Found("strange")
    except OSError as error:
        return Found("unreadable", why=error.strerror or str(error))


def _parse(data: bytes) -> Holder:
    found = Holder(**parse_json(data, "lock"))
    # A lock is a file that anybody may have written: its token becomes a file's name, its process a folder's.
    words = (found.host, found.machine, found.started, found.since, found.token)
    plain = all(isinstance(word, str) for word in words) and type(found.process) is int and found.process > 0
    if not plain or not _TOKEN.fullmatch(found.token):
        raise CacheCorrupt("The lock names no process.")
    return found


def this_process() -> Holder:
    """Describe this process as a new holder."""
    return Holder(
        host=socket.gethostname(),
        machine=_machine(),
        process=os.getpid(),
        started=_start_time(os.getpid()) or "",
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        token=secrets.token_hex(8),
    )


def is_here(holder: Holder) -> bool:
    """Tell whether a holder is on this machine, so that `is_running` works."""
    return holder.machine == _machine()


def is_running(holder: Holder) -> bool:
    """Tell whether a holder of this machine is running; a later process of the same id is another one."""
    return _start_time(holder.process) == holder.started


def _machine() -> str:
    """Identify this running system: process ids are only valid within one boot and one process namespace."""
    parts = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join([socket.gethostname(), *parts])


def _start_time(process: int) -> str | None:
    """Return when a process of this machine started, in a form that a reused id does not share; None if it is gone."""
    try:
        # The command's name stands in parentheses and may hold anything; the start time is field 22.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""
