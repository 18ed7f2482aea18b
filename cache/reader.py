"""Opening a sealed cache and reading its arrays, each checked against its digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .digest import Rows, array_sha256
from .errors import CacheCorrupt, CacheError
from .forms import Survey, form_of, reading
from .manifest import Manifest
from .seal import Seal, check_seal, parse_seal
from .values import value_problems

__all__ = ["Cache", "open_cache"]


@dataclass(frozen=True)
class Cache:
    """A sealed cache whose manifest has been checked; arrays are read, and checked, when asked for."""

    path: Path
    manifest: Manifest
    seal: Seal

    @property
    def content_digest(self) -> str:
        """SHA-256 over all arrays: what was computed."""
        return self.seal.content_digest

    @property
    def cache_id(self) -> str:
        """Address of what was asked for."""
        return self.manifest.cache_id

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have rows."""
        return tuple(self.manifest.rows)

    def read(self, split: str, name: str) -> npt.NDArray[Any]:
        """Read one array of a split into memory, for instance ``read("train", "logits")``.

        Returns
        -------
        (N, …) array; DESIGN of format 1: `key` (N, 16) uint8, `label`, `logits` (N, V, C) float32, `view`,
        `view_check`, `feature` (N, V, F) float16, `domain`, `group`, `fold`

        Raises
        ------
        CacheError
            There is no such array.
        CacheCorrupt
            Its bytes are not the sealed ones, or mean something impossible.
        """
        path = f"{split}/{name}"
        self._check_name(path)
        with self.open_arrays(path) as arrays:
            return self._checked(path, arrays[path])

    def read_probe(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Read the probes: weight (K+1, C, F) and bias (K+1, C) float32, the fold probes first, the full one last."""
        paths = ("probe/weight", "probe/bias")
        with self.open_arrays(*paths) as arrays:
            weight, bias = (self._checked(path, arrays[path]) for path in paths)
        return weight, bias

    @contextmanager
    def open_arrays(self, *paths: str) -> Iterator[Mapping[str, Rows]]:
        """Open the arrays at `paths`, or all, for reading by slice; their digests are not checked, the layout is.

        Raises
        ------
        CacheCorrupt
            Something on disk is not as the manifest implies: a file, object, size, shape, dtype, codec or link.
        """
        survey = self.survey()
        if survey.problems:
            more = f" ({len(survey.problems)} problems; `medal verify` lists them)" if len(survey.problems) > 1 else ""
            raise CacheCorrupt(f"Cache '{self.path}': {survey.problems[0]}{more}")
        specs = {path: self.manifest.arrays[path] for path in paths or self.manifest.arrays}
        with form_of(self.path).open_arrays(self.path, specs) as arrays:
            yield arrays

    def survey(self) -> Survey:
        """Compare what is on disk with the layout that the manifest implies."""
        with reading(self.path):
            return form_of(self.path).survey(self.path, self.manifest.arrays)

    def _check_name(self, path: str) -> None:
        if path not in self.manifest.arrays:
            remedy = " It was made with --no-features." if path.endswith("/feature") else ""
            known = ", ".join(sorted(self.manifest.arrays))
            raise CacheError(f"Cache '{self.path}' has no array '{path}'.{remedy} It has {known}.")

    def _checked(self, path: str, rows: Rows) -> npt.NDArray[Any]:
        array = rows[0 : rows.shape[0]]
        if array_sha256(array) != self.manifest.sha256[path]:
            raise CacheCorrupt(
                f"Cache '{self.path}' is damaged: array '{path}' does not have its sealed SHA-256. "
                "Get it again from whoever made it, or make it anew."
            )
        for problem in value_problems(self.manifest, path, array):
            raise CacheCorrupt(f"Cache '{self.path}': {problem}")
        return array


def open_cache(path: str | PathLike[str]) -> Cache:
    """Open a sealed cache.

    Raises
    ------
    CacheNotFound
        Nothing is there.
    CacheIncomplete
        It has no seal.
    CacheCorrupt
        Its seal or manifest is damaged.
    CacheMismatch
        Its format is newer than this medal reads.
    """
    place = Path(path)
    seal_bytes, manifest_bytes = form_of(place).read_seal(place)
    try:
        seal = parse_seal(seal_bytes)
        return Cache(place, check_seal(seal, manifest_bytes), seal)
    except CacheError as error:
        # The parsers know fields, not places: the one thing to add is which cache it is.
        raise type(error)(f"Cache '{place}': {error}") from error
