"""Inspecting an HDF5 file that is not trusted yet: run as a script, in a process of its own, with bounded means.

    python -P inspect_hdf5.py FILE      exit status 0 if it is laid out as format 1, else 3 and a sentence on stdout

libhdf5 is not safe for hostile files: a crafted file can crash it, make it loop, or make it open other files. So the
first process to open a stranger's file is this one, which imports nothing of medal and starts in a fraction of a
second. No link is followed before its type is known, and no array is read at all.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import h5py
from h5py import h5a, h5d, h5l, h5o, h5s, h5t

__all__ = ["REFUSED", "Refused", "inspect"]

REFUSED = 3
_USER_BLOCK = 1024
_CPU_SECONDS = 5
_MEMORY_BYTES = 1 << 28
_GROUPS = (b"probe", b"train", b"val", b"test")
_PROBE = (b"weight", b"bias")
_COLUMNS = (b"key", b"label", b"logits", b"view", b"view_check", b"feature", b"domain", b"group", b"fold")
_MANIFEST = b"manifest"
_MANIFEST_BYTES = 1 << 22
_TYPES = (h5t.STD_U8LE, h5t.STD_I8LE, h5t.STD_I16LE, h5t.STD_I32LE, h5t.IEEE_F16LE, h5t.IEEE_F32LE)
_LAYOUTS = {h5d.COMPACT: "compact", h5d.CHUNKED: "chunked", h5d.VIRTUAL: "a virtual dataset"}
_LINKS = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link to another file"}


class Refused(Exception):
    """The file is not laid out as format 1; the message says how."""


def inspect(path: str) -> None:
    """Check the layout of a file: plain groups and contiguous arrays of plain numbers, and nothing else.

    Raises
    ------
    Refused
        Something else is there.
    Exception
        Of any kind, from libhdf5, where it cannot parse the file.
    """
    with h5py.File(path, "r") as file:
        if file.userblock_size != _USER_BLOCK:
            raise Refused(f"its user block is {file.userblock_size} bytes long; expected {_USER_BLOCK}")
        extents = list(_walk(file.id, b"", (*_GROUPS, _MANIFEST)))
    end = Path(path).stat().st_size
    last, last_name = _USER_BLOCK, "user block"
    for start, stop, name in sorted(extents):
        if start < last:
            raise Refused(f"the bytes of '{name}' overlap those of '{last_name}'")
        if stop > end:
            raise Refused(f"the bytes of '{name}' lie behind the end of the file")
        last, last_name = stop, name


def _walk(group: Any, where: bytes, allowed: tuple[bytes, ...]) -> Iterator[tuple[int, int, str]]:
    """Yield (first byte, one past the last, name) of every array's storage."""
    if h5a.get_num_attrs(group):
        raise Refused(f"'{_text(where) or '/'}' has attributes; format 1 has none")
    # Counted before it is listed: a group may claim any number of links.
    if len(group) > len(allowed):
        raise Refused(f"'{_text(where) or '/'}' holds {len(group)} objects; expected at most {len(allowed)}")
    for name in group:
        path = where + b"/" + name if where else name
        if name not in allowed:
            raise Refused(f"'{_text(path)}' does not belong to a cache")
        link = group.links.get_info(name).type
        if link != h5l.TYPE_HARD:
            raise Refused(f"'{_text(path)}' is {_LINKS.get(link, 'a link of an unknown kind')}; format 1 has none")
        found = h5o.get_info(group, name)
        if found.rc != 1:
            raise Refused(f"'{_text(path)}' is linked {found.rc} times; expected once")
        if name in _GROUPS and not where:
            if found.type != h5o.TYPE_GROUP:
                raise Refused(f"'{_text(path)}' is no group")
            yield from _walk(h5o.open(group, name), path, _PROBE if name == b"probe" else _COLUMNS)
        elif found.type != h5o.TYPE_DATASET:
            raise Refused(f"'{_text(path)}' is no array")
        else:
            yield from _extent(h5d.open(group, name), path)


def _extent(dataset: Any, path: bytes) -> Iterator[tuple[int, int, str]]:
    name = _text(path)
    # The layout first: asking a virtual dataset for its shape may open the files it maps.
    how = dataset.get_create_plist()
    if how.get_nfilters():
        raise Refused(f"'{name}' goes through {how.get_nfilters()} filters; format 1 has none")
    if how.get_layout() != h5d.CONTIGUOUS:
        raise Refused(f"'{name}' is {_LAYOUTS.get(how.get_layout(), 'stored in an unknown way')}; expected contiguous")
    if how.get_external_count():
        raise Refused(f"'{name}' keeps its bytes in another file; expected them in this one")
    if h5a.get_num_attrs(dataset):
        raise Refused(f"'{name}' has attributes; format 1 has none")
    kind = dataset.get_type()
    if kind.committed() or not any(kind.equal(plain) for plain in _TYPES):
        raise Refused(f"'{name}' has a data type that is not one of format 1's plain little-endian numbers")
    space = dataset.get_space()
    if space.get_simple_extent_type() != h5s.SIMPLE or not 1 <= space.get_simple_extent_ndims() <= 3:
        raise Refused(f"'{name}' has no shape of one to three dimensions")
    shape = space.get_simple_extent_dims()
    if space.get_simple_extent_dims(True) != shape:
        raise Refused(f"'{name}' can grow; format 1 has arrays of fixed shape only")
    size = prod(shape) * kind.get_size()
    if path == _MANIFEST and (len(shape) != 1 or not kind.equal(h5t.STD_U8LE) or size > _MANIFEST_BYTES):
        raise Refused(f"'{name}' should be at most {_MANIFEST_BYTES} bytes of text")
    if dataset.get_storage_size() != size:
        raise Refused(f"'{name}' stores {dataset.get_storage_size()} bytes; its shape {shape} needs {size}")
    if size:
        start = dataset.get_offset()
        if start is None:
            raise Refused(f"'{name}' was never written")
        yield start, start + size, name


def _text(name: bytes) -> str:
    return _printable(name[:100].decode("utf-8", "backslashreplace"))


def _printable(text: str) -> str:
    return "".join(char if char.isascii() and char.isprintable() else ascii(char)[1:-1] for char in text)


def _limit_means() -> None:
    """Bound memory, time and files written, counted from here, after the imports; where there is no way, go on."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        cpu = int(time.process_time()) + _CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        memory = pages * os.sysconf("SC_PAGE_SIZE") + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def main() -> int:
    """Inspect the file named on the command line."""
    _limit_means()
    try:
        inspect(sys.argv[1])
    except Refused as refusal:
        problem = str(refusal)
    except MemoryError:
        problem = "it takes more memory to open than any sound file"
    except Exception as error:  # noqa: BLE001 - libhdf5 reports damage as errors of many kinds
        problem = f"libhdf5 cannot read it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    else:
        return 0
    sys.stdout.write(_printable(problem)[:1000])
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
