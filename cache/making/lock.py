"""One writer at a target: a lock file beside it that says who, where and since when, and that beats while they live.

The file is created exclusively, which is atomic on local file systems and on NFS; nothing here relies on flock. Its
modification time is the heartbeat. Whether a holder is dead is told on the same machine by its process id and start
time, from elsewhere by a heartbeat that has not moved, measured against the file server's own clock. What stands there
and is no lock of medal's is neither waited for nor taken over nor removed.

Why not `filelock` (4.3.1, `SoftFileLease`): of the tests that matter three cannot hold. It takes whatever it cannot
parse over, and removes it, after two seconds (test_what_is_no_lock_of_medals_is_refused_and_stays). It learns that a
holder elsewhere is dead only by watching for a whole lease, so that who does not wait, and `medal clean`, never do
(test_a_holder_elsewhere_is_known_by_its_heartbeat, test_a_holder_elsewhere_is_judged_by_its_heartbeat). And an empty
file, of whoever died before they wrote their name, it respects for good (test_an_old_lock_without_a_name_is_nobodys).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from ..errors import CacheBusy, CacheError
from ..machine.heartbeat import Heartbeat
from ..progress import Tell
from .holder import Found, Holder, is_here, is_running, read_lock, this_process

__all__ = ["Lock", "holder_of", "is_abandoned", "lock_path", "lock_target", "locked", "remove_abandoned"]

BEAT_SECONDS = 5.0
# A dozen missed beats, so that a server that hangs for half a minute does not lose anybody's lock.
STALE_SECONDS = 60.0
_POLL_SECONDS = 0.5
_NAMING_SECONDS = 2.0
# A lock, the claims on it (``_remove``) and the clocks it is measured with (``_is_stale``).
_NAME = re.compile(r"\.(.+)\.lock(\.after-(?:[0-9a-f]{16}|nameless))?((?:\.clock-[0-9a-f]{8})*)")


def lock_path(target: Path) -> Path:
    """Return the lock file of a target."""
    return target.with_name(f".{target.name}.lock")


class Lock:
    """A lock that is held."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path = path
        self.holder = holder
        self._heartbeat = Heartbeat(self._beat, BEAT_SECONDS)

    def _beat(self) -> None:
        if self.is_ours():
            os.utime(self.path)

    def is_ours(self) -> bool:
        """Tell whether the lock is still this process's: it may have been taken over while the machine slept."""
        return read_lock(self.path).holder == self.holder

    def check(self) -> None:
        """Refuse to go on if another process took the lock over, or may have.

        Raises
        ------
        CacheError
            Another process has it, nobody has, or that cannot be told.
        """
        found = read_lock(self.path)
        if found.holder == self.holder:
            return
        happened = {
            "absent": "is gone: it was removed, or its disk was",
            "unreadable": f"cannot be read any more ({found.why})",
        }.get(found.state, f"was taken over by {found.holder or 'another process'} while this process was paused")
        raise CacheError(
            f"The lock '{self.path}' {happened}; finished work is kept. Run the same command again to continue, or to "
            "reuse the result."
        )

    def release(self) -> None:
        """Release the lock; if the disk or mount does not allow it now, keep trying while this process runs."""
        gone = False
        try:
            self._heartbeat.stop()
            gone = _let_go(self.path, self.holder)
        finally:
            if not gone:
                threading.Thread(target=self._keep_trying, daemon=True, name="medal-lock-release").start()

    def _keep_trying(self) -> None:
        # Without a heartbeat, so that processes elsewhere need not wait for it.
        while not _let_go(self.path, self.holder):
            time.sleep(BEAT_SECONDS)


@contextmanager
def locked(
    target: Path, *, wait: bool, tell: Tell, remedy: str = "leave out --no-wait to wait for it and reuse it"
) -> Iterator[Lock]:
    """Hold the lock of a target; wait for another holder, or take over from a process that has ended, and report it.

    Parameters
    ----------
    remedy : what to do if somebody else holds it and `wait` is not set, for the message

    Raises
    ------
    CacheBusy
        Somebody else holds it, and `wait` is not set.
    CacheError
        What stands in the lock's place is no lock of medal's, or one of which that cannot be told.
    """
    path = lock_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    told, begun = "", time.monotonic()
    while (holder := _create(path)) is None:
        found = read_lock(path)
        if _is_dead(found, path):
            if _remove(path, found.holder):
                who = found.holder or "an unnamed process"
                tell(f"'{target}' was held by {who}, which has ended; taking over")
            else:
                time.sleep(_POLL_SECONDS / 10)
        elif found.state == "absent" or (found.state == "nameless" and time.monotonic() < begun + _NAMING_SECONDS):
            # Just released, or between its creation and its first bytes.
            time.sleep(_POLL_SECONDS / 10)
        elif not wait:
            raise CacheBusy(f"'{target}' is being made by {found}; {remedy}.")
        else:
            if told != str(found):
                tell(f"'{target}' is being made by {found}; waiting for it")
                told = str(found)
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
    found = read_lock(path)
    if found.state == "strange":
        return f"the owner of '{path}', which is not a medal lock"
    try:
        if found.state == "absent" or (found.state != "unreadable" and _is_dead(found, path)):
            return None
    except OSError as error:
        return f"{found}, which may or may not be running ({error.strerror or error})"
    return str(found)


def lock_target(path: Path) -> Path | None:
    """Return the target whose lock, claim or clock a file is by its name; None if it is none."""
    match = _NAME.fullmatch(path.name)
    return path.with_name(match[1]) if match else None


def is_abandoned(path: Path) -> bool:
    """Tell whether a file is a lock, claim or clock of a process that is dead; not so what might be anybody's."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return False
    found, is_clock = read_lock(path), bool(match[3])
    try:
        if found.state == "nameless":
            # An empty lock has a name that other tools use too; the next command on its target takes it over.
            return (is_clock or match[2] is not None) and _is_stale(path)
        return found.state == "named" and not is_clock and _is_dead(found, path)
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
            _remove(path, read_lock(path).holder)
    return not path.exists()


def _create(path: Path) -> Holder | None:
    """Create a lock file in this process's name; None if there is one already."""
    holder = this_process()
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    try:
        with os.fdopen(handle, "w") as file:
            # Other users of the folder must be able to read who holds the lock, whatever this user's umask is.
            with suppress(OSError):
                path.chmod(0o644)
            json.dump(asdict(holder), file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        # On a full disk, or after Ctrl-C, an empty file would stand in everybody's way until it is stale.
        path.unlink(missing_ok=True)
        raise
    return holder


def _claim_path(path: Path, holder: Holder | None) -> Path:
    token = "nameless" if holder is None else holder.token
    return path.with_name(f"{path.name.rpartition('.lock')[0]}.lock.after-{token}")


def _remove(path: Path, holder: Holder | None, *, own: bool = False) -> bool:
    """Remove a lock file if it still is this holder's, dead or this process itself; tell whether this call did.

    A process that removes a file of token T, its own or that of an ended process, first creates the claim
    ``….after-T``, and checks again while holding it. So nothing is removed that was replaced after the first check. The
    claim of a process that ends is removed in the same way, by a claim on its token.
    """
    claim = _claim_path(path, holder)
    if _create(claim) is None:
        other = read_lock(claim)
        if _is_dead(other, claim):
            _remove(claim, other.holder)
        return False
    try:
        found = read_lock(path)
        if found.holder != holder or not (own or _is_dead(found, path)):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        claim.unlink(missing_ok=True)


def _let_go(path: Path, holder: Holder) -> bool:
    """Remove this process's own lock; tell whether it is gone for certain."""
    try:
        _remove(path, holder, own=True)
    except (OSError, CacheError):
        # A full disk has no room for a claim. Who has none yet will find, once they do, that this lock has just beaten.
        with suppress(OSError):
            os.utime(path)
            if not os.path.lexists(_claim_path(path, holder)) and read_lock(path).holder == holder:
                path.unlink()
    found = read_lock(path)
    # Without its folder the mount is gone: it comes back, and the lock with it.
    return found.state != "unreadable" and found.holder != holder and os.access(path.parent, os.F_OK)


def _is_dead(found: Found, path: Path) -> bool:
    """Tell whether the process that made a lock has ended.

    Raises
    ------
    CacheError
        The file is not a medal lock, or cannot be recognised as one and has no heartbeat.
    """
    if found.state == "strange":
        raise CacheError(
            f"'{path}' is in the place of medal's lock, and medal did not make it; find out whose it is and move it "
            "away, then run the same command again."
        )
    if found.state == "absent":
        return False
    if found.holder is not None and is_here(found.holder):
        return not is_running(found.holder)
    if found.state == "unreadable" and _is_stale(path):
        raise CacheError(
            f"The lock '{path}' cannot be read ({found.why}) and has not changed for {STALE_SECONDS:.0f} s; if its "
            "process has ended, remove it, then run the same command again."
        )
    return found.state != "unreadable" and _is_stale(path)


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
