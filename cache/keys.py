"""Content keys: what a row is joined by, so that order, names and folders never matter."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["KEY_BYTES", "array_key", "file_key"]

KEY_BYTES = 16

# One prefix a kind, so that a file and an array of the same bytes never share a key.
_FILE = b"medal:file\0"
_ARRAY = b"medal:array\0"


def file_key(content: bytes) -> bytes:
    """Return the key of an image file: BLAKE2b-128 of its bytes."""
    return blake2b(_FILE + content, digest_size=KEY_BYTES).digest()


def array_key(array: npt.NDArray[Any]) -> bytes:
    """Return the key of an image held as an array: BLAKE2b-128 of dtype, shape and C-order bytes."""
    header = f"{array.dtype.str} {','.join(map(str, array.shape))}\0".encode()
    return blake2b(_ARRAY + header + np.ascontiguousarray(array).tobytes(), digest_size=KEY_BYTES).digest()
