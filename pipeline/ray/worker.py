"""Runs on the machines of a Ray cluster: a teacher in an actor, which computes chunks as any process would."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch

from ...cache.errors import CacheMismatch, DataError, MedalError, TeacherError
from ..datasets.columns.dataset import Dataset
from ..features.engine import LocalEngine, Order, Settled, make_task
from ..planning.chunks import ChunkPlan, ComputedChunk
from ..planning.plan import Plan
from ..planning.rows import SplitRows
from ..teacher.files import TeacherFiles, cached_teacher
from ..teacher.weights import weight_files, weights_sha256

__all__ = ["Place", "RayWorker"]

# Ray wraps what is raised and prints its traceback, so that what medal refuses is returned instead.
Refusal = MedalError | OSError


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a worker must have in common with the process that runs the command.

    Attributes
    ----------
    folder : where relative names begin
    threads : that it computes with; sums may be split by thread, and then have other last bits
    """

    folder: str
    threads: int
    medal: str


class RayWorker:
    """An actor: a process of the cluster with a teacher of its own."""

    def __init__(self, asked: Plan, place: Place) -> None:
        self._asked, self._place = asked, place
        self._engine: LocalEngine | None = None
        self._rows: Mapping[str, SplitRows] = {}

    def settle(self) -> Settled | Refusal:
        """Decide how all actors are to compute."""
        try:
            return self._begun().settle()
        except (MedalError, OSError) as error:
            return _portable(error)

    def load(self, order: Order) -> Mapping[str, Any] | Refusal:
        """Load the teacher and describe this machine."""
        try:
            self._begun().begin(order)
        except (MedalError, OSError) as error:
            return _portable(error)
        self._rows = make_task(self._asked, order).rows
        return self._begun().describe()

    def _begun(self) -> LocalEngine:
        if self._engine is None:
            self._engine = LocalEngine(_settle_in(self._asked, self._place))
        return self._engine

    def compute(self, plan: ChunkPlan) -> ComputedChunk | Refusal:
        """Send one chunk through the teacher."""
        assert self._engine is not None  # noqa: S101 - a chunk is given to no actor that has not loaded it
        try:
            _check_images(self._asked.dataset, self._rows[plan.split], plan)
            (done,) = self._engine.run([plan])
        except (MedalError, OSError) as error:
            return _portable(error)
        return done


def _settle_in(asked: Plan, place: Place) -> Plan:
    """Set up this process like the one that runs the command; return the plan with this machine's copy of the
    teacher."""
    if version("medalmighty") != place.medal:
        raise MedalError(
            f"This machine has medal {version('medalmighty')}, expected {place.medal} as on the machine that runs the "
            f"command; install it: pip install medalmighty=={place.medal}"
        )
    with suppress(OSError):  # who names files by absolute paths needs no such folder
        os.chdir(place.folder)
    torch.set_num_threads(place.threads)
    return replace(asked, files=_find_teacher(asked.files))


def _find_teacher(files: TeacherFiles) -> TeacherFiles:
    """Return the same teacher where this machine has it: in the same folder, or in the hub's local cache."""
    if not files.folder.is_dir() and files.revision is not None:
        files = replace(files, folder=cached_teacher(files.name, files.revision).folder)
    found = weights_sha256(weight_files(files.folder, files.name))
    if found != files.weights_sha256:
        raise TeacherError(
            f"Teacher '{files.name}' in '{files.folder}' has weights with the SHA-256 {found[:12]}…, expected "
            f"{files.weights_sha256[:12]}… as on the machine that runs the command; copy the folder from there."
        )
    return files


def _check_images(dataset: Dataset, part: SplitRows, plan: ChunkPlan) -> None:
    """Refuse a machine on which the first image of a chunk does not have the expected key."""
    row = int(part.source[plan.start])
    with suppress(DataError):  # which is told with the chunk
        if dataset.key(row) != part.key[plan.start].tobytes():
            raise CacheMismatch(
                f"{dataset.images.describe(row)} differs between this machine and the one that runs the command; give "
                "all machines the same files."
            )


def _portable(error: Refusal) -> Refusal:
    """Return a refusal with the machine's name in it, for the process that runs the command."""
    where = f"On node '{platform.node()}': "
    if isinstance(error, DataError):
        return DataError(f"{where}{error}", error.reason)
    if isinstance(error, MedalError):
        return type(error)(f"{where}{error}")
    if error.errno is None:
        return OSError(f"{where}{error}")
    return OSError(error.errno, f"{where}{error.strerror}", error.filename)
