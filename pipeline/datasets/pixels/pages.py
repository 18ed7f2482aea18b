"""Whether a file holds more pictures than the first, told by as few of its bytes as will do."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from .quiet import quiet_decoders

__all__ = ["HARDLY_PAGED", "PAGED", "holds_more"]

# Kinds of files that may hold several pictures, by suffix; and that hardly ever do.
PAGED = (".tif", ".tiff", ".gif", ".webp")
HARDLY_PAGED = (".png",)

_TIFF = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_BIG = (b"II+\0", b"MM\0+")
_SUBFILE = 254  # a tag, whose bits 0 and 2 say that a page is a smaller copy or a mask of another
_COPY_OR_MASK = 0b101
_MOST_LOOKED_AT = 64
# An animated PNG says so before its pixels begin, and no header of a picture is longer.
_PNG, _ANIMATED, _PIXELS, _HEADER = b"\x89PNG", b"acTL", b"IDAT", 1 << 14


def holds_more(path: Path) -> bool:
    """Tell whether a TIFF, GIF, WebP or PNG has a second picture that is no thumbnail; False of what makes no sense."""
    try:
        with path.open("rb") as file:
            start = file.read(21)
            if start[:4] in _TIFF:
                return _has_pages(file, start)
            if start[:4] == _PNG:
                return _ANIMATED in file.read(_HEADER).partition(_PIXELS)[0]
            if start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X":
                return bool(start[20] & 2)
            if start[:4] == b"GIF8":
                from PIL import Image  # not paid for by a set without such files

                file.seek(0)
                with quiet_decoders, Image.open(file, formats=("GIF",)) as opened:
                    return bool(getattr(opened, "is_animated", False))
    except Exception:  # noqa: BLE001 - a damaged file makes Pillow raise nearly anything; it is said when it is read
        return False
    return False


def _has_pages(file: BinaryIO, start: bytes) -> bool:
    order, big = _TIFF[start[:4]], start[:4] in _BIG
    count_of, entry, offset = ("Q", 20, "Q") if big else ("H", 12, "L")
    (place,) = struct.unpack_from(order + offset, start, 8 if big else 4)
    pages = 0
    for _ in range(_MOST_LOOKED_AT):
        if not place:
            break
        file.seek(place)
        (entries,) = struct.unpack(order + count_of, file.read(struct.calcsize(count_of)))
        directory = file.read(entries * entry)
        (place,) = struct.unpack(order + offset, file.read(struct.calcsize(order + offset)))
        subfile = 0
        for index in range(0, len(directory), entry):
            if struct.unpack_from(order + "H", directory, index)[0] == _SUBFILE:
                (subfile,) = struct.unpack_from(order + "L", directory, index + entry - (8 if big else 4))
        pages += not subfile & _COPY_OR_MASK
        if pages > 1:
            return True
    return False
