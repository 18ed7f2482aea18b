"""Content keys, by which rows are joined, so that order, names and folders do not matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CacheMismatch, DataError

__all__ = ["KEY_BYTES", "KeySecret", "array_key", "file_key", "match_secret", "page_key"]

KEY_BYTES = 16
# Anyone with a cache can try secrets against it, so a secret must be too long to be guessed.
_LEAST_SECRET, _MOST_SECRET = 32, 1 << 16
_CHECKED, _CHECK_BYTES = b"medal:key-check", 16

# One prefix for each kind, so that a file and an array of the same bytes never share a key.
_FILE = b"medal:file\0"
_ARRAY = b"medal:array\0"
_PAGE = b"medal:page\0"


def file_key(content: bytes) -> bytes:
    """Return the key of an image file: BLAKE2b-128 of its bytes."""
    return blake2b(_FILE + content, digest_size=KEY_BYTES).digest()


def page_key(file: bytes, page: int) -> bytes:
    """Return the key of a page of a multi-page image file; the first page has the key of the file.

    Parameters
    ----------
    page : counted from 0
    """
    return blake2b(_PAGE + file + page.to_bytes(8, "little"), digest_size=KEY_BYTES).digest()


def array_key(array: npt.NDArray[Any]) -> bytes:
    """Return the key of an image held as an array: BLAKE2b-128 of dtype, shape and C-order bytes."""
    header = f"{array.dtype.str} {','.join(map(str, array.shape))}\0".encode()
    return blake2b(_ARRAY + header + np.ascontiguousarray(array).tobytes(), digest_size=KEY_BYTES).digest()


@dataclass(frozen=True)
class KeySecret:
    """A lab's secret: with it the key of a row is BLAKE2b-128, keyed, of the image's plain key.

    Without the secret, nobody can compute an image's key. This object holds a value derived from the secret, which is
    never written anywhere.

    Attributes
    ----------
    check : 32 hexadecimal digits that identify the secret, as a cache records them
    """

    check: str
    _key: bytes = field(repr=False)

    @classmethod
    def read(cls, path: str | PathLike[str]) -> KeySecret:
        """Read a secret from a file: all of its bytes except white space at both ends, which editors add.

        Raises
        ------
        DataError
            The file cannot be read, or what it holds is too short to be a secret.
        """
        try:
            with Path(path).expanduser().open("rb") as file:
                secret = file.read(_MOST_SECRET + 1)
        except OSError as error:
            raise DataError(f"The secret '{path}' cannot be read: {error.strerror or error}.") from error
        if not _LEAST_SECRET <= len(secret.strip()) <= len(secret) <= _MOST_SECRET:
            raise DataError(
                f"'{path}' is not a secret for --key-secret: expected {_LEAST_SECRET} to {_MOST_SECRET} random bytes, "
                f"got {'more' if len(secret) > _MOST_SECRET else len(secret.strip())}; make one with: openssl rand "
                "-hex 32 > FILE"
            )
        key = blake2b(secret.strip(), person=b"medal:key-secret").digest()
        return cls(blake2b(_CHECKED, key=key, digest_size=_CHECK_BYTES).hexdigest(), key)

    def key(self, plain: bytes) -> bytes:
        """Return the keyed key of a plain one."""
        return blake2b(plain, key=self._key, digest_size=KEY_BYTES).digest()

    def keys(self, plain: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the keyed keys of plain ones, both (N, 16) uint8."""
        return np.frombuffer(b"".join(self.key(bytes(row)) for row in plain), np.uint8).reshape(-1, KEY_BYTES)


def match_secret(secret: KeySecret | None, check: str | None, what: str) -> KeySecret | None:
    """Return the secret that keys were made with; None if they are plain keys, even if a secret was given.

    Parameters
    ----------
    check : as it is recorded there; None = plain keys
    what : for messages, for instance ``cache 'chest.zarr'``

    Raises
    ------
    CacheMismatch
        The secret is missing, or is another one.
    """
    if check is None:
        return None
    if secret is None:
        raise CacheMismatch(
            f"The keys of {what} were made with a lab's secret, which is needed to find images in it; give the file "
            "with the secret: --key-secret FILE (or MEDAL_KEY_SECRET)."
        )
    if secret.check != check:
        raise CacheMismatch(
            f"The keys of {what} were made with another secret than that of --key-secret (check {secret.check[:8]}…, "
            f"expected {check[:8]}…); give the file that it was made with."
        )
    return secret
