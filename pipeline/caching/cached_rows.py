"""The rows of a cache as a dataset: labels, domains and groups, without the images."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheMismatch
from ...cache.reader import Cache
from ..datasets.columns.dataset import SPLITS, Dataset, Place
from ..views.preprocessing import Intensity

__all__ = ["cached_rows"]


@dataclass(frozen=True)
class _KeysAlone:
    """The images of a cache, of which only the keys exist."""

    keys: npt.NDArray[np.uint8]
    path: Path

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> bytes:
        return bytes(self.keys[row])

    def remembering(self) -> AbstractContextManager[_KeysAlone]:
        return nullcontext(self)

    def read(self, row: int) -> NoReturn:
        raise CacheMismatch(f"Cache '{self.path}' holds no pixels, so image {self.key(row).hex()} cannot be read.")

    def deep(self, row: int) -> NoReturn:
        self.read(row)

    def with_intensity(self, _: Intensity) -> _KeysAlone:
        return self

    def describe(self, row: int) -> str:
        return f"image {self.key(row).hex()}"

    def locate(self, row: int) -> Place:
        return Place(row=row)


def cached_rows(cache: Cache) -> tuple[Dataset, npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Return the rows of a cache, its splits one after another, as a dataset without pixels; their keys and splits."""
    names = ("key", "label", "domain", "group")
    column = {name: np.concatenate([cache.read(split, name) for split in cache.splits]) for name in names}
    described = cache.manifest.dataset
    codes = np.array([SPLITS.index(name) for name in cache.splits], np.int8)
    split = np.repeat(codes, list(cache.manifest.rows.values()))
    dataset = Dataset(
        name=str(described.get("name", cache.path.stem)),
        task=cache.manifest.task,
        classes=cache.manifest.classes,
        images=_KeysAlone(column["key"], cache.path),
        label=column["label"],
        split=split,
        domain=column["domain"],
        group=column["group"].astype(np.int64),
        domains=cache.manifest.domains,
        excluded=tuple(described.get("excluded_classes", ())),
        label_columns=tuple(described.get("label_columns", ())),
    )
    return dataset, column["key"], split
