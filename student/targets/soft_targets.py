"""Soft targets for a training loop of one's own: any PyTorch dataset, paired with a cache by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from ...cache.errors import CacheMismatch, DataError
from ...cache.join import find_keys
from ...cache.keys import KeySecret, array_key, file_key, match_secret
from ...cache.reader import Cache, open_cache

__all__ = ["SoftTargets"]


class SoftTargets(Dataset[Any]):
    """A dataset whose items have the teacher's logits behind them.

    Item i is what the dataset gives for i, a tuple or a single thing, and then the logits (C,) float32 of the canonical
    view, before temperature; a dictionary, as of MONAI or for the Trainer of transformers, has them as
    ``teacher_logits`` beside its own keys. Rows are found by the content of their image, so that order and names do
    not matter. Exactly one of `files`, `arrays` and `keys` says what the content is, in the dataset's order.

    Parameters
    ----------
    cache : open, or its path
    split : rows of which split of the cache are looked up: the logits of train are out of fold
    dataset : any map-style dataset: N items, for instance ``(image, label)`` of torchvision's `ImageFolder`
    files : (N,) image files, as medal read them from a folder or a table
    arrays : (N, H, W) or (N, H, W, C), the undecoded images of an ``.npz``
    keys : (N, 16) uint8 content keys, as they stand in the cache
    key_secret : the file of the lab's secret, for a cache whose keys are keyed
    on_missing : ``drop`` leaves out items whose image the cache lacks

    Attributes
    ----------
    rows : (M,) int64, the dataset's item that each of the M items here is
    key : (M, 16) uint8
    logits : (M, C) float32

    Raises
    ------
    CacheMismatch
        The cache lacks images of the dataset (`on_missing` refuse), or all of them, or has no such split, or its keys
        are keyed with another secret.
    DataError
        Not one content an item was given, or a file cannot be read.

    Examples
    --------
    >>> folder = ImageFolder("chest/train", transform)
    >>> pairs = SoftTargets("chest.zarr", "train", folder, files=[path for path, _ in folder.samples])
    >>> for images, labels, teacher in DataLoader(pairs, 64, shuffle=True): ...
    """

    def __init__(
        self,
        cache: Cache | str | PathLike[str],
        split: str,
        dataset: Any,
        *,
        files: Sequence[str | PathLike[str]] | None = None,
        arrays: npt.NDArray[Any] | None = None,
        keys: npt.NDArray[np.uint8] | None = None,
        key_secret: str | PathLike[str] | None = None,
        on_missing: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        opened = cache if isinstance(cache, Cache) else open_cache(cache)
        if split not in opened.splits:
            raise CacheMismatch(f"Cache '{opened.path}' has no split '{split}'; it has {', '.join(opened.splits)}.")
        key = _content(files, arrays, keys)
        if keys is None:
            given = None if key_secret is None else KeySecret.read(key_secret)
            secret = match_secret(given, opened.manifest.key_check, f"cache '{opened.path}'")
            key = key if secret is None else secret.keys(key)
        if len(key) != len(dataset):
            raise DataError(
                f"The dataset has {len(dataset)} items and {len(key)} contents were given; expected one for each "
                "item, in the dataset's order."
            )
        row = find_keys(key, opened.read(split, "key"))
        missing = int((row < 0).sum())
        if missing and (on_missing == "refuse" or missing == len(row)):
            raise CacheMismatch(
                f"{missing} of {len(row)} images are not in '{split}' of cache '{opened.path}'; give exactly the "
                "images that it was made from, or on_missing='drop' to leave out the missing ones."
            )
        self.dataset = dataset
        self._named = f"'{split}' of cache '{opened.path}'"
        self.rows = np.flatnonzero(row >= 0)
        self.key = key[self.rows]
        self.logits = torch.from_numpy(np.ascontiguousarray(opened.read(split, "logits")[row[self.rows], 0]))  # (M, C)

    def __repr__(self) -> str:
        items = f"{len(self.rows)} of {len(self.dataset)} items"
        return f"<SoftTargets from {self._named}: {items}, {self.logits.shape[1]} classes>"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        """Return an item of the dataset with its logits behind it, or as a dictionary's ``teacher_logits``."""
        item = self.dataset[int(self.rows[index])]
        if isinstance(item, Mapping):
            return {**item, "teacher_logits": self.logits[index]}
        return (*item, self.logits[index]) if isinstance(item, tuple | list) else (item, self.logits[index])


def _content(
    files: Sequence[str | PathLike[str]] | None, arrays: npt.NDArray[Any] | None, keys: npt.NDArray[np.uint8] | None
) -> npt.NDArray[np.uint8]:
    """Return the content keys, (N, 16) uint8."""
    if sum(given is not None for given in (files, arrays, keys)) != 1:
        raise DataError("Expected exactly one of files, arrays and keys, by which images are found.")
    if keys is not None:
        return np.ascontiguousarray(keys, np.uint8).reshape(-1, 16)
    if arrays is not None:
        found = [array_key(image) for image in arrays]
    else:
        try:
            found = [file_key(Path(name).read_bytes()) for name in files or ()]
        except OSError as error:
            raise DataError(f"file '{error.filename}' cannot be read: {error.strerror}.") from error
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)
