"""The sets of docs/PROTOCOL.md: how each is read, and who stands in train, val and test of each fold."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from medal.pipeline.datasets.columns.dataset import DatasetOptions

__all__ = ["FOLDS", "FRACTIONS", "MORE_SETS", "PNEUMONIA", "SETS", "SmallSet", "write_table"]

FRACTIONS = (0.05, 0.2, 1.0)
FOLDS, REPEATS = 5, 5
_VAL_SEED, _VAL_PARTS = 12345, 7
PNEUMONIA = "pneumoniamnist/pneumoniamnist.npz"


@dataclass(frozen=True, kw_only=True)
class SmallSet:
    """A table without an official test split.

    Attributes
    ----------
    epochs : for about 5,000 images seen
    """

    name: str
    table: str
    augment: str
    epochs: int
    reads: dict[str, Any] = field(default_factory=dict)
    domain: str | None = None
    group: str | None = None
    excluded: tuple[str, ...] = ()

    def options(self, split: str) -> DatasetOptions:
        """Return how to read the table with one column of splits."""
        return DatasetOptions(split_column=split, domain_column=self.domain, group_column=self.group, **self.reads)

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that hold labels."""
        return tuple(self.reads.get("label_columns", ("label",)))


SETS = (
    SmallSet(name="busi", table="busi_256/labels.csv", augment="ultrasound", epochs=10),
    SmallSet(
        name="bccd",
        table="bccd_multilabel/labels.csv",
        augment="microscopy",
        epochs=18,
        reads={"label_columns": ("Platelets", "RBC_many", "Platelets_several")},
    ),
    SmallSet(
        name="wbc",
        table="wbc_two_sources/labels.csv",
        augment="microscopy",
        epochs=16,
        domain="domain",
        excluded=("basophil",),
    ),
)


MORE_SETS = (
    SmallSet(
        name="ham10000", table="ham10000/labels.csv", augment="dermoscopy", epochs=9, domain="domain", group="group"
    ),
    SmallSet(name="herlev_pap", table="herlev_pap/labels.csv", augment="microscopy", epochs=9, group="group"),
    SmallSet(name="lc25000_lung", table="lc25000_lung/labels.csv", augment="pathology", epochs=11, group="group"),
    SmallSet(name="malaria_50", table="malaria_50/labels.csv", augment="microscopy", epochs=10, group="group"),
    SmallSet(name="oral_histo", table="oral_histo/labels.csv", augment="pathology", epochs=17, domain="domain"),
    SmallSet(
        name="pocus_lus", table="pocus_lus/labels.csv", augment="ultrasound", epochs=11, domain="domain", group="group"
    ),
)


def write_table(small: SmallSet, data: Path, folder: Path) -> Path:
    """Write a set's table, with a column of splits for each repeat and fold, `r0f0` and so on; return its path.

    A seventh of the images, the same in every fold, is val: choices are made on it, and it is never tested on. Of the
    others each fold tests on a fifth and trains on the rest. Images of equal pixels and of one patient stay together.
    """
    path, source = folder / f"{small.name}.csv", data / small.table
    if path.exists():
        return path
    with source.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("label") not in small.excluded]
    stratum = np.unique([" ".join(row[name] for name in small.labels) for row in rows], return_inverse=True)[1]
    group = _repeats([source.parent / row["file"] for row in rows])
    if small.group:
        group = _tied(group, np.unique([row[small.group] for row in rows], return_inverse=True)[1])
    val = next(_folds(stratum, group, _VAL_PARTS, _VAL_SEED))
    others = np.setdiff1d(np.arange(len(rows)), val)
    columns = {}
    for repeat in range(REPEATS):
        for fold, test in enumerate(_folds(stratum[others], group[others], FOLDS, repeat)):
            split = np.full(len(rows), "train", "U5")
            split[val], split[others[test]] = "val", "test"
            columns[f"r{repeat}f{fold}"] = split.tolist()
    folder.mkdir(parents=True, exist_ok=True)
    kept = [*small.labels, *(name for name in (small.domain, small.group) if name)]
    draft = path.with_suffix(f".{os.getpid()}")  # several may be at it
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *kept, *columns])
        for index, row in enumerate(rows):
            place = os.path.relpath(source.parent / row["file"], folder)
            writer.writerow([place, *(row[name] for name in kept), *(split[index] for split in columns.values())])
    draft.replace(path)
    return path


def _folds(
    stratum: npt.NDArray[np.int64], group: npt.NDArray[np.int64], parts: int, seed: int
) -> Iterator[npt.NDArray[np.int64]]:
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    return (held_out for _, held_out in splitter.split(np.zeros(len(stratum)), stratum, group))


def _repeats(files: list[Path]) -> npt.NDArray[np.int64]:
    """Return a number for each file that files of equal pixels share, (N,)."""
    digests = []
    for path in files:
        with Image.open(path) as image:
            digests.append(hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest())
    return np.unique(digests, return_inverse=True)[1].astype(np.int64)


def _tied(repeats: npt.NDArray[np.int64], patients: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return a number for each file that files share which equal pixels or a patient tie, directly or not."""
    first = int(repeats.max()) + 1
    links = coo_array(
        (np.ones(len(repeats)), (repeats, first + patients)), shape=(first + int(patients.max()) + 1,) * 2
    )
    part = connected_components(links, directed=False)[1]
    return np.unique(part[repeats], return_inverse=True)[1].astype(np.int64)
