"""One writer at a target: a lock file beside it that says who, where and since when, and that beats while they live.

The file is created exclusively, which is atomic on local file systems and on NFS; nothing here relies on flock. Its
modification time is the heartbeat. Whether a holder is dead is told on the same machine by its process id and start
time, from elsewhere by a heartbeat that has not moved, measured against the file server's own clock.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from .errors import CacheBusy, CacheError

__all__ = ["Holder", "Lock", "holder_of", "is_abandoned", "lock_path", "lock_target", "locked", "remove_abandoned"]

BEAT_SECONDS = 5.0
# A dozen missed beats: a server that hangs for half a minute does not cost anybody their lock.
STALE_SECONDS = 60.0
_POLL_SECONDS = 0.5
# A lock, the claims on it (``_remove``) and the clocks it is measured with (``_is_stale``).
_NAME = re.compile(r"\.(.+)\.lock(\.after-(?:[0-9a-f]{16}|nameless))?((?:\.clock-[0-9a-f]{8})*)")
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


def lock_path(target: Path) -> Path:
    """Return the lock file of a target."""
    return target.with_name(f".{target.name}.lock")


class Lock:
    """A lock that is held."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path = path
        self.holder = holder
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="medal-lock")
        self._thread.start()

    def _beat(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            # A lost mount comes back or it does not; what is written next will say so.
            with _ignoring_os_errors():
                if self.is_ours():
                    os.utime(self.path)

    def is_ours(self) -> bool:
        """Tell whether the lock is still this process's: it may have been taken over while the machine slept."""
        found = _read(self.path)
        return found is not None and found.token == self.holder.token

    def check(self) -> None:
        """Refuse to go on if another process took the lock over.

        Raises
        ------
        CacheError
            Another process has it.
        """
        if not self.is_ours():
            raise CacheError(
                f"The lock '{self.path}' was taken over by {_read(self.path) or 'someone else'} while this process "
                "was not heard of; what is finished is kept. Run the same command again to go on or to reuse."
            )

    def release(self) -> None:
        """Let the lock go."""
        self._done.set()
        self._thread.join()
        with _ignoring_os_errors():
            _remove(self.path, self.holder)


@contextmanager
def locked(target: Path, *, wait: bool, tell: Callable[[str], None]) -> Iterator[Lock]:
    """Hold the lock of a target; wait for another holder, or take a dead one's over, and say so.

    Raises
    ------
    CacheBusy
        Somebody else holds it, and `wait` is not set.
    """
    path = lock_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    told: str | None = None
    while (holder := _create(path)) is None:
        other = _read(path)
        if _is_dead(other, path):
            if _remove(path, other):
                tell(f"'{target}' was held by {other or 'a process that left no name'}, which is dead; taking over")
            else:
                time.sleep(_POLL_SECONDS / 10)
        elif other is None:
            # Between its creation and its first bytes, or just released.
            time.sleep(_POLL_SECONDS / 10)
        elif not wait:
            raise CacheBusy(f"'{target}' is being made by {other}; leave out --no-wait to wait for it and reuse it.")
        else:
            if told != other.token:
                tell(f"'{target}' is being made by {other}; waiting for it")
                told = other.token
            time.sleep(_POLL_SECONDS)
    lock = Lock(path, holder)
    try:
        yield lock
    finally:
        lock.release()


def holder_of(target: Path) -> str | None:
    """Say who holds the lock of a target, without taking it; None if nobody who lives does.

    What cannot be told counts as held: by a file that is no lock of medal's, or in a folder that may not be written.
    """
    path = lock_path(target)
    holder = None
    try:
        size = _plain_size(path)
        holder = _read(path) if size else None
        if holder is None and size != 0:
            return f"whoever made '{path}', which is no lock of medal's"
        if _is_dead(holder, path):
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{holder or 'someone'}, of whom it cannot be told whether they live ({error.strerror or error})"
    return str(holder or "a process that has left no name yet")


def lock_target(path: Path) -> Path | None:
    """Return the target whose lock, claim or clock a file is by its name; None if it is none."""
    match = _NAME.fullmatch(path.name)
    return path.with_name(match[1]) if match else None


def is_abandoned(path: Path) -> bool:
    """Tell whether a file is a lock, claim or clock of a process that is dead; not so what might be anybody's."""
    match = _NAME.fullmatch(path.name)
    try:
        size = _plain_size(path)
        if match is None or size is None:
            return False
        if match[3]:
            return size == 0 and _is_stale(path)
        holder = _read(path) if size else None
        if holder is None:
            # An empty lock has a name that other tools use too; the next command on its target takes it over.
            return match[2] is not None and size == 0 and _is_stale(path)
        return _is_dead(holder, path)
    except OSError:
        return False


def remove_abandoned(path: Path) -> bool:
    """Remove an abandoned lock, claim or clock in the way in which locks are taken over; tell whether it is gone."""
    # A claim on this one may be abandoned as well, and then goes first; so may a claim on that.
    for _ in range(10):
        if not is_abandoned(path):
            break
        if ".clock-" in path.name:
            path.unlink(missing_ok=True)
        else:
            _remove(path, _read(path))
    return not path.exists()


def _create(path: Path) -> Holder | None:
    """Create a lock file in this process's name; None if there is one already."""
    holder = Holder(
        host=socket.gethostname(),
        machine=_machine(),
        process=os.getpid(),
        started=_start_time(os.getpid()) or "",
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        token=secrets.token_hex(8),
    )
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(holder), file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # On a full disk an empty file would stand in everybody's way until it is stale.
        path.unlink(missing_ok=True)
        raise
    return holder


def _remove(path: Path, holder: Holder | None) -> bool:
    """Remove a lock file if it still is this holder's; tell whether this call did.

    Whoever removes a file of token T, its own or a dead one's, first creates the claim ``….after-T``, and looks again
    while holding it. So nobody removes what has been replaced since they looked. Who dies while holding a claim is
    removed in the same way, by a claim on their own token.
    """
    token = "nameless" if holder is None else holder.token
    claim = path.with_name(f"{path.name.rpartition('.lock')[0]}.lock.after-{token}")
    own = _create(claim)
    if own is None:
        other = _read(claim)
        if _is_dead(other, claim):
            _remove(claim, other)
        return False
    try:
        if _read(path) != holder or (holder is None and not _is_stale(path)):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        claim.unlink(missing_ok=True)


def _read(path: Path) -> Holder | None:
    try:
        found = Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    # A lock is a file that anybody may have written: its token becomes a file's name, its process a folder's.
    words = (found.host, found.machine, found.started, found.since, found.token)
    plain = all(isinstance(word, str) for word in words) and type(found.process) is int and found.process > 0
    return found if plain and _TOKEN.fullmatch(found.token) else None


def _plain_size(path: Path) -> int | None:
    """Return the bytes of a file that may be a lock of medal's; None if what is there cannot be one."""
    status = path.lstat()
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_size <= _MOST_BYTES else None


def _is_dead(holder: Holder | None, path: Path) -> bool:
    if holder is not None and holder.machine == _machine():
        return _start_time(holder.process) != holder.started
    return _is_stale(path)


def _is_stale(path: Path) -> bool:
    """Tell whether a lock has not beaten for long, by the clock of whoever serves the files."""
    clock = path.with_name(f"{path.name}.clock-{secrets.token_hex(4)}")
    try:
        clock.touch()
        return clock.stat().st_mtime - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return False
    finally:
        clock.unlink(missing_ok=True)


def _machine() -> str:
    """Name this running system: process ids mean something only within one boot and one process namespace."""
    parts = []
    with _ignoring_os_errors():
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


@contextmanager
def _ignoring_os_errors() -> Iterator[None]:
    try:
        yield
    except OSError:
        return
