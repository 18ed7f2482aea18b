"""The digests: of one array, of all arrays (`content_digest`), of a request (`cache_id`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b, sha256
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "Rows",
    "array_line",
    "array_sha256",
    "blake2b_json",
    "cache_id",
    "canonical_json",
    "content_digest",
    "shape_text",
]

_BLOCK_BYTES = 1 << 24


class Rows(Protocol):
    """Anything that hands out its rows by slice: a numpy array, or chunks on disk that look like one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]: ...


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def cache_id(request: Mapping[str, Any]) -> str:
    """Return the address of what was asked for: BLAKE2b-128 over its canonical JSON, as 32 hex digits."""
    return blake2b_json(request)


def blake2b_json(value: Any) -> str:
    """Return BLAKE2b-128 over a value's canonical JSON, as 32 hex digits."""
    return blake2b(canonical_json(value), digest_size=16).hexdigest()


def rows_per_block(rows: Rows, block_bytes: int = _BLOCK_BYTES) -> int:
    """Return how many rows make a block of about `block_bytes`, at least one."""
    row_bytes = rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
    return max(1, block_bytes // max(1, row_bytes))


def array_sha256(rows: Rows, look: Callable[[npt.NDArray[Any]], None] | None = None) -> str:
    """Return the SHA-256 of an array's C-order little-endian bytes, read in bounded slices.

    Each slice is shown to `look`, so that a check of the values need not read them a second time.
    """
    digest = sha256()
    step = rows_per_block(rows)
    for start in range(0, rows.shape[0], step):
        block = rows[start : start + step]
        digest.update(little_endian(block).data)
        if look is not None:
            look(block)
    return digest.hexdigest()


def little_endian(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array as C-contiguous little-endian memory, copied only where it is not."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as it stands in a digest line: ``4708,1,2``."""
    return ",".join(map(str, shape))


def array_line(path: str, shape: tuple[int, ...], dtype: str, digest: str) -> str:
    """Return one array's line of the content digest."""
    return f"{path} {dtype} {shape_text(shape)} {digest}\n"


def content_digest(arrays: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what was computed: SHA-256 over the sorted lines ``path dtype shape sha256`` of all arrays.

    Parameters
    ----------
    arrays : path → {"shape": list of int, "dtype": numpy name, "sha256": hex}, as in the manifest
    """
    lines = sorted(
        array_line(path, tuple(entry["shape"]), entry["dtype"], entry["sha256"]) for path, entry in arrays.items()
    )
    return sha256("".join(lines).encode()).hexdigest()
