"""Opening a sealed cache and reading its arrays, each checked against its digest."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .describe import describe_html
from .errors import CacheCorrupt, CacheError, CacheNotFound
from .format.digest import Rows, array_sha256
from .format.forms import SUFFIXES, Survey, form_of, reading
from .format.manifest import Manifest
from .format.seal import Seal, check_seal, parse_seal
from .format.values import value_problems
from .machine.home import expand_home

__all__ = ["Cache", "open_cache"]

# As `work` and the student's `run` name them, which stand above this module.
_WORK, _WORK_RECORD, _RUN_RECORD = ".work", "work.json", "run.json"


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        rows = ", ".join(f"{split} {count}" for split, count in self.manifest.rows.items())
        return f"<Cache '{self.path}': {self.manifest.dataset.get('name')}, {rows}, {self.content_digest[:12]}>"

    def _repr_html_(self) -> str:
        """Show a table in notebooks."""
        return describe_html(f"Cache {self.path}", self.manifest)

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
        _ = self._sound
        specs = {path: self.manifest.arrays[path] for path in paths or self.manifest.arrays}
        with form_of(self.path).open_arrays(self.path, specs) as arrays:
            yield arrays

    @cached_property
    def _sound(self) -> bool:
        """Whether the layout was sound when it was first looked at; to look again for each array took longer than that.

        What changes later is found by its digest.
        """
        survey = self.survey()
        if survey.problems:
            more = f" ({len(survey.problems)} problems; `medal verify` lists them)" if len(survey.problems) > 1 else ""
            raise CacheCorrupt(f"Cache '{self.path}': {survey.problems[0]}{more}")
        return True

    def survey(self) -> Survey:
        """Compare what is on disk, now, with the layout that the manifest implies."""
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
                f"Cache '{self.path}' is damaged: array '{path}' does not have its sealed SHA-256. Get a new copy, or "
                "make it again."
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
    place = Path(expand_home(path))
    _refuse_other(place)
    try:
        seal_bytes, manifest_bytes = form_of(place).read_seal(place)
    except CacheNotFound as error:
        work = place.with_name(place.name + _WORK)
        if not (work / _WORK_RECORD).is_file():
            raise
        raise CacheNotFound(
            f"There is no cache at '{place}' yet: stage one has not finished it. Finished work is in '{work}'. "
            f"Continue with the same command: medal cache-teacher DATASET {shlex.quote(str(place))}, and the options "
            "that it had."
        ) from error
    try:
        seal = parse_seal(seal_bytes)
        return Cache(place, check_seal(seal, manifest_bytes), seal)
    except CacheError as error:
        # The parsers know fields, not files: add which cache it is.
        raise type(error)(f"Cache '{place}': {error}") from error


def _refuse_other(place: Path) -> None:
    """Refuse a path that cannot be a cache by its name, and say what it is if that is known."""
    if place.suffix in SUFFIXES:
        return
    if (place / _RUN_RECORD).is_file():
        raise CacheError(
            f"'{place}' is a run of `medal train-student`, not a cache; its figures are in "
            f"'{place / 'metrics.json'}', and '{place / _RUN_RECORD}' says which cache it was trained on."
        )
    if place.suffix == _WORK and (place / _WORK_RECORD).is_file():
        raise CacheError(
            f"'{place}' is unfinished work of stage one, not a cache. Continue with the `medal cache-teacher` command "
            f"whose OUT is '{place.with_suffix('')}'."
        )
    if place.suffix.lower() in (".hdf5", ".hdf", ".he5"):
        form_of(place)
    raise CacheError(
        f"'{place}' is not a cache: the name of a cache ends in {' or '.join(SUFFIXES)}. In commands with CACHE and "
        "DATASET, the cache comes first."
    )
