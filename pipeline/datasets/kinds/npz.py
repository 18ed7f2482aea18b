"""The MedMNIST layout: one .npz with ``train_images``, ``train_labels`` and so on."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ..columns.dataset import SPLITS, Dataset, DatasetOptions
from ..columns.reading import record_reading
from .array_labels import read_groups, read_labels, say_unread
from .array_layout import Pair, channels_last, find_pairs
from .arrays import ArrayImages, Stack, choose_levels
from .tree import others_beside

__all__ = ["open_arrays", "open_npz"]

Array = npt.NDArray[Any]


def open_npz(
    path: Path,
    name: str,
    options: DatasetOptions,
    classes: Sequence[str] | None = None,
    label_names: Sequence[str] = (),
) -> Dataset:
    """Open a file in the MedMNIST layout, or one that is much like it; its images are held in memory.

    Images are (N, H, W) or (N, H, W, 1 or 3); labels are (N,) or (N, 1) class indices, -1 unknown, or (N, L) of 0/1,
    255 or -1 unknown. Any of the splits may be absent, and all of them. Channels may come first; labels that are
    one-hot are one each, unless `options` say that they are several.

    Parameters
    ----------
    label_names : what label 0, 1 … is called, where that is known; else it is called by its number
    classes : the cache's classes; a file whose labels have no names may also mean them by position

    Raises
    ------
    DataError
        The file cannot be read, or does not fit the layout.
    """
    what = f"file '{path}'"
    arrays, others = _load(path, what, options.group_column)
    pairs = find_pairs(list(arrays), what)
    stacks = {pair.images: channels_last(arrays[pair.images], pair.images, what) for pair in pairs}
    unread = () if label_names else others
    return open_arrays(name, stacks, pairs, arrays, options, classes, what, label_names, unread)


def open_arrays(
    name: str,
    stacks: Mapping[str, Stack],
    pairs: Sequence[Pair],
    arrays: Mapping[str, Array],
    options: DatasetOptions,
    classes: Sequence[str] | None,
    what: str,
    label_names: Sequence[str] = (),
    others: Sequence[str] = (),
) -> Dataset:
    """Make a dataset of images and labels in arrays.

    Parameters
    ----------
    stacks : images by the names that `pairs` have for them
    arrays : labels, and patients if they are asked for
    others : names of what else there is

    Raises
    ------
    DataError
        They do not fit each other, or mean nothing.
    """
    labels_of = [_labels_of(stacks[pair.images], arrays[pair.labels], pair, what) for pair in pairs]
    minmax = options.intensity == "minmax" and _numeric(stacks)
    levels, declared = (None, None) if minmax else choose_levels(stacks, options, what)
    read, several = read_labels(labels_of, label_names, options, classes, what)
    group, read_of = read_groups(arrays, others, pairs, options.group_column, what)
    unread = [array for array in others if array not in read_of]
    images = ArrayImages(dict(stacks), what, levels, options.intensity, declared)
    labels = read.labels
    dataset = Dataset(
        name=name,
        task="multilabel" if several else "multiclass",
        classes=labels.classes,
        images=images,
        label=np.zeros((len(images), *labels.label.shape[1:]), labels.label.dtype),
        split=_splits(pairs, stacks),
        domain=np.full(len(images), -1, np.int16),
        group=group,
        excluded=read.excluded,
        notes=(*read.notes, *say_unread(unread, patients=bool(read_of) or options.group_column is not None)),
        reading=record_reading(options, rename_classes=tuple(read.renamed.items())),
    )
    dataset.label[labels.rows] = labels.label
    return dataset if len(labels.rows) == len(dataset) else dataset.take(labels.rows)


def _load(path: Path, what: str, groups: str | None) -> tuple[dict[str, Array], list[str]]:
    """Return images and labels, and patients if they are asked for, by name; and the names of all other arrays."""
    try:
        # Opened here, because np.load leaves the file open when it is no zip.
        with path.open("rb") as file:
            return _members(np.load(file, allow_pickle=False), what, groups)
    except DataError:
        raise
    except FileNotFoundError as exc:
        raise DataError(
            f"There is no {what}{others_beside(path)}; expected the path of an .npz in MedMNIST's layout, or "
            "medmnist:NAME to have one downloaded."
        ) from exc
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        # numpy's own words would advise to read it as a pickle.
        reason = "" if isinstance(exc, ValueError) else f" ({exc})"
        raise DataError(f"{what} is not an .npz file that can be read{reason}; copy or download it again.") from exc


def _members(loaded: Any, what: str, groups: str | None) -> tuple[dict[str, Array], list[str]]:
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise DataError(f"{what} holds a single array; expected an .npz with arrays such as 'train_images'.")
    with loaded:
        wanted = {name for pair in find_pairs(loaded.files, what) for name in (pair.images, pair.labels)}
        others = [name for name in loaded.files if name not in wanted]
        wanted |= {name for name in others if groups is not None and groups.lower() in name.lower()}
        return {name: _member(loaded, name, what) for name in loaded.files if name in wanted}, others


def _member(loaded: Any, array: str, what: str) -> Array:
    try:
        member: Array = loaded[array]
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as exc:
        if "allow_pickle" in str(exc):
            raise DataError(
                f"'{array}' in {what} holds Python objects; expected numbers: pickles are never read, save it as an "
                "array of one type."
            ) from exc
        raise DataError(f"'{array}' in {what} cannot be read ({exc}); copy or download the file again.") from exc
    return member


def _labels_of(images: Stack, labels: Array, pair: Pair, what: str) -> Array:
    """Return (N,) or (N, L) labels; further axes of length one are dropped."""
    if labels.ndim > 2 and set(labels.shape[2:]) == {1}:
        labels = labels.reshape(labels.shape[:2])
    if labels.ndim not in (1, 2) or 0 in labels.shape[1:]:
        raise DataError(f"'{pair.labels}' in {what} has the shape {labels.shape}; expected (N,), (N, 1) or (N, L).")
    if len(images) != len(labels):
        raise DataError(
            f"{what} has {len(images)} images but {len(labels)} labels in '{pair.split or pair.labels}'; expected as "
            "many of one as of the other."
        )
    return labels


def _splits(pairs: Sequence[Pair], stacks: Mapping[str, Stack]) -> npt.NDArray[np.int8] | None:
    if pairs[0].split is None:
        return None
    return np.concatenate([np.full(len(stacks[pair.images]), SPLITS.index(str(pair.split)), np.int8) for pair in pairs])


def _numeric(stacks: Mapping[str, Stack]) -> bool:
    return all(stack.dtype.kind in "biuf" for stack in stacks.values())
