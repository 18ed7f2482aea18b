"""Opens a store by its address; the only place where a driver's errors become ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...errors import CacheCorrupt, CacheError, CacheNotFound, MedalError, StoreUnusable
from ...machine.permission import is_denied, why_denied
from ...machine.system_files import is_system_file, is_system_folder
from .files import Files, Folder, Objects, Server, Stat
from .layout import COMPUTING, ENTRIES, MARKER, SETS, UNLISTED, marker_bytes, parse_marker

__all__ = ["Store", "open_store"]

_PROTOCOL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_OBJECTS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory")
_PAGES = ("http", "https")
_SERVERS = ("sftp", "ssh")
_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "sftp": "sftp",
    "ssh": "sftp",
    "http": "https",
    "https": "https",
}
_MARKER_BYTES = 1 << 12


class Store:
    """An open store. Reads are limited in size, and no object is trusted."""

    def __init__(self, url: str, files: Files) -> None:
        self.url, self._files = url, files

    @property
    def read_only(self) -> bool:
        """Whether nothing can ever be written or removed there."""
        return self._files.read_only

    @property
    def can_list(self) -> bool:
        """Whether names can be listed; otherwise the index is used."""
        return self._files.can_list

    def names(self, folder: str) -> Mapping[str, Stat]:
        """Return what stands in a folder of the store."""
        with self._speaking(folder):
            return self._files.names(folder)

    def read(self, name: str, limit: int) -> bytes:
        """Return an object of at most `limit` bytes.

        Raises
        ------
        CacheNotFound
            It is not there.
        CacheCorrupt
            It is longer, or is no plain file.
        """
        with self._speaking(name):
            data = self._files.read(name, limit)
        if len(data) > limit:
            raise CacheCorrupt(
                f"Object '{name}' of store '{self.url}' is longer than its limit of {limit} bytes; it was not used. "
                "Tell whoever maintains the store."
            )
        return data

    def read_checked(self, name: str, digest: str, limit: int) -> bytes:
        """Return an object whose SHA-256 is known.

        Raises
        ------
        CacheCorrupt
            It has another one.
        """
        data = self.read(name, limit)
        if sha256(data).hexdigest() != digest:
            raise CacheCorrupt(
                f"Object '{name}' of store '{self.url}' does not have the SHA-256 that was published: it was damaged "
                "or exchanged. It was not used; tell whoever maintains the store."
            )
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write an object in one step."""
        with self._speaking(name):
            self._files.write(name, data)

    def require_writable(self) -> None:
        """Refuse to change a read-only store, as far as that is known without writing.

        Raises
        ------
        StoreUnusable
            It may not be written, and why.
        """
        if self.read_only:
            raise StoreUnusable(f"Store '{self.url}' is read only; give an address that can be written to.")
        with self._speaking(""):
            self._files.require_writable((ENTRIES, SETS, UNLISTED, COMPUTING))

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self._speaking(name):
            self._files.remove(name)

    def remove_folder(self, name: str) -> None:
        """Remove an empty folder."""
        with self._speaking(name):
            self._files.remove_folder(name)

    def check(self) -> None:
        """Refuse a place that is no store.

        Raises
        ------
        CacheNotFound
            Nothing says that it is one.
        CacheMismatch
            A newer medal made it.
        """
        try:
            parse_marker(self.read(MARKER, _MARKER_BYTES), f"store '{self.url}'")
        except CacheNotFound as error:
            raise CacheNotFound(
                f"There is no store at '{self.url}' ('{MARKER}' is missing); check the address, or make one with the "
                f"first push: medal push CACHE {self.url}"
            ) from error

    def begin(self) -> None:
        """Make a place a store, if it is none yet.

        Raises
        ------
        CacheError
            The folder holds other files.
        """
        try:
            self.check()
        except CacheNotFound:
            names = self.names("")
            others = sorted(
                name
                for name in names
                if not name.startswith(".") and not is_system_file(name) and not is_system_folder(name)
            )
            if MARKER in names:  # somebody else has just begun it
                self.check()
            elif others:
                raise CacheError(
                    f"'{self.url}' holds other files ('{others[0][:60]}') and is not a store; give an empty or new "
                    "folder."
                ) from None
            else:
                self.write(MARKER, marker_bytes())

    @contextmanager
    def _speaking(self, name: str) -> Iterator[None]:
        """Turn a driver's errors into errors of our tree; each driver has its own."""
        try:
            yield
        except MedalError as error:
            if isinstance(error, CacheCorrupt):
                raise CacheCorrupt(f"Store '{self.url}': {error}") from error
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CacheNotFound(f"Store '{self.url}' has no object '{name}'.") from error
        except Exception as error:
            if is_denied(error):
                raise StoreUnusable(
                    f"Store '{self.url}' denies access to '{name or 'its folder'}'{why_denied(error)}."
                ) from error
            raise _unreachable(self.url, error) from error


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _unreachable(url: str, error: BaseException) -> StoreUnusable:
    return StoreUnusable(
        f"Store '{url}' could not be used ({_sentence(error)}); nothing incomplete is visible in it. Check address, "
        "network and credentials, then run the same command again."
    )


def open_store(url: str) -> Store:
    """Open a store by its address: a folder, or PROTOCOL://… of a driver that fsspec has.

    Raises
    ------
    CacheError
        There is no such protocol, its driver is not installed, or the server cannot be reached.
    """
    match = _PROTOCOL.match(url)
    protocol = match[1].lower() if match else "file"
    if protocol == "file":
        path = Path(url[7:] if match else url).expanduser()
        return Store(url, Folder(path))
    if protocol not in (*_OBJECTS, *_PAGES, *_SERVERS):
        known = ", ".join(f"{name}://" for name in ("s3", "gs", "az", "sftp", "https", "hf"))
        raise CacheError(f"Store '{url}' has an unknown protocol '{protocol}'; expected a folder, or one of {known}.")
    try:
        return Store(url, _open_remote(url, protocol))
    except ImportError as error:
        extra = _EXTRAS.get(protocol, protocol)
        raise CacheError(
            f"Store '{url}' needs a driver that is not installed ({error}): pip install 'medalmighty[{extra}]'"
        ) from error
    except MedalError:
        raise
    except Exception as error:
        raise _unreachable(url, error) from error


def _open_remote(url: str, protocol: str) -> Files:
    if protocol in _SERVERS:
        from .sftp import KnownHostsFileSystem

        options = KnownHostsFileSystem._get_kwargs_from_urls(url)
        return Server(lambda: KnownHostsFileSystem(**options), KnownHostsFileSystem._strip_protocol(url))
    import fsspec

    if protocol in _PAGES:
        filesystem = fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)
        return Objects(filesystem, url, read_only=True)
    settings: dict[str, Any] = (
        {} if protocol == "memory" else {"use_listings_cache": False, "skip_instance_cache": True}
    )
    filesystem, root = fsspec.url_to_fs(url, **settings)
    return Objects(filesystem, root, read_only=False)
