"""Which HDF5 files may be opened in this process: those whose body was made here or has already been inspected.

Trust depends on the SHA-256 of everything after the user block, which is checked each time before a file is opened; the
file's name does not matter. It is stored in medal's folder. If that folder cannot be written, each process inspects the
file again.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ..errors import CacheCorrupt, CacheError
from ..machine.home import home_folder
from . import inspect_hdf5
from .manifest import parse_json

__all__ = ["ensure_trusted", "inspect_in_child", "trust"]

# Counted up when the inspection learns to refuse more: what passed the older one is then inspected again.
_RULES = 1
_KEPT = 1000
_SECONDS = 60
_SCRIPT = Path(inspect_hdf5.__file__).resolve()
_ANSWER_BYTES = 4096
_trusted_here: set[str] = set()


def ensure_trusted(path: Path, body_sha256: str) -> None:
    """Inspect a file in a child process, unless its body is trusted already.

    Raises
    ------
    CacheCorrupt
        It is not laid out as format 1, or libhdf5 cannot be trusted with it.
    CacheError
        It could not be inspected.
    """
    if body_sha256 in _trusted_here or body_sha256 in _remembered():
        return
    inspect_in_child(path)
    trust(body_sha256)


def trust(body_sha256: str) -> None:
    """Remember a body, for this process and, where medal's folder can be written, for later ones."""
    _trusted_here.add(body_sha256)
    known = [body for body in _remembered() if body != body_sha256][-_KEPT + 1 :]
    # Two processes may overwrite each other's record, which only costs one more inspection.
    with contextlib.suppress(OSError):
        file = _record()
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=file.parent, prefix=".hdf5-")
        try:
            with os.fdopen(handle, "w") as out:
                json.dump({"rules": _RULES, "bodies": [*known, body_sha256]}, out)
            Path(draft).replace(file)
        finally:
            Path(draft).unlink(missing_ok=True)


def _record() -> Path:
    return home_folder() / "trusted" / "hdf5.json"


def _remembered() -> list[str]:
    """Return the bodies recorded on disk, the latest last; none if the record is unreadable."""
    try:
        raw = parse_json(_record().read_bytes(), "record of trusted files")
    except (OSError, RuntimeError, CacheCorrupt):  # RuntimeError: there is no home to be found
        return []
    bodies = raw.get("bodies")
    if raw.get("rules") != _RULES or not isinstance(bodies, list):
        return []
    return [body for body in bodies if isinstance(body, str)]


def inspect_in_child(path: Path, *, script: Path = _SCRIPT, seconds: float = _SECONDS) -> None:
    """Have a file opened and inspected by a process with bounded time and memory; see `inspect_hdf5`."""
    # -P: nothing is imported from the current folder, which may hold files of a stranger.
    command = [sys.executable, "-P", str(script), str(path.resolve())]
    # Dynamic filters are looked up in folders that the environment names; none is wanted.
    settings = {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        with subprocess.Popen(  # noqa: S603 - our own script
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **settings},
        ) as child:
            try:
                # An honest answer fits into the pipe; a child that has been taken over waits until its time is up.
                status = child.wait(seconds)
            finally:
                child.kill()
            answer = os.read(child.stdout.fileno(), _ANSWER_BYTES) if child.stdout else b""
    except subprocess.TimeoutExpired as error:
        raise CacheCorrupt(_refusal(path, f"libhdf5 did not finish reading it within {seconds:g} s")) from error
    except OSError as error:
        raise CacheError(f"Cache '{path}' could not be inspected before opening: {error}.") from error
    if status == inspect_hdf5.REFUSED:
        raise CacheCorrupt(_refusal(path, _printable(answer)))
    if status < 0:
        raise CacheCorrupt(_refusal(path, f"libhdf5 crashed on it, or took too much time or memory (signal {-status})"))
    if status:
        raise CacheError(
            f"Cache '{path}' could not be inspected before opening: the inspecting process ended with {status}. "
            "Reinstall medal and its libraries."
        )


def _printable(answer: bytes) -> str:
    # The child has read a stranger's bytes, so its answer is not trusted either.
    return "".join(char if char.isprintable() else "?" for char in answer.decode("ascii", "replace"))


def _refusal(path: Path, problem: str) -> str:
    return f"Cache '{path}' was refused before it was opened: {problem}. Get it again from whoever made it."
