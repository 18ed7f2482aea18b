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
from ..columns.dataset import SPLITS, UNKNOWN_BIT, UNKNOWN_CLASS, Dataset, DatasetOptions
from ..columns.labels import Labels, label_bits, label_classes, others_beside
from .array_layout import Pair, channels_last, find_pairs, single_labels
from .arrays import ArrayImages, choose_levels

__all__ = ["open_npz"]

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
    arrays = _load(path, what)
    pairs = find_pairs(list(arrays), what)
    stacks = {pair.images: channels_last(arrays[pair.images], pair.images, what) for pair in pairs}
    for pair in pairs:
        _check_labels(stacks[pair.images], arrays[pair.labels], pair, what)
    minmax = options.intensity == "minmax" and _numeric(stacks)
    levels, declared = (None, None) if minmax else choose_levels(list(stacks.values()), options, what)
    values = _joined_labels([arrays[pair.labels] for pair in pairs], what)
    if values.ndim == 2 and not options.several_labels:
        values = single_labels(values, what)
    multilabel = values.ndim == 2
    read = _read_bits if multilabel else _read_classes
    labels = read(values, label_names, options, classes, what)
    images = ArrayImages(stacks, what, levels, options.intensity, declared)
    dataset = Dataset(
        name=name,
        task="multilabel" if multilabel else "multiclass",
        classes=labels.classes,
        images=images,
        label=np.zeros((len(images), *labels.label.shape[1:]), labels.label.dtype),
        split=_splits(pairs, stacks),
        domain=np.full(len(images), -1, np.int16),
        group=np.full(len(images), -1, np.int64),
        excluded=options.exclude_classes,
    )
    dataset.label[labels.rows] = labels.label
    return dataset if len(labels.rows) == len(dataset) else dataset.take(labels.rows)


def _load(path: Path, what: str) -> Mapping[str, Array]:
    try:
        # Opened here, because np.load leaves the file open when it is no zip.
        with path.open("rb") as file:
            return _members(np.load(file, allow_pickle=False), what)
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


def _members(loaded: Any, what: str) -> dict[str, Array]:
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise DataError(f"{what} holds a single array; expected an .npz with arrays such as 'train_images'.")
    with loaded:
        wanted = {name for pair in find_pairs(loaded.files, what) for name in (pair.images, pair.labels)}
        return {name: _member(loaded, name, what) for name in loaded.files if name in wanted}


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


def _check_labels(images: Array, labels: Array, pair: Pair, what: str) -> None:
    if labels.ndim not in (1, 2) or 0 in labels.shape[1:]:
        raise DataError(f"'{pair.labels}' in {what} has the shape {labels.shape}; expected (N,), (N, 1) or (N, L).")
    if len(images) != len(labels):
        raise DataError(
            f"{what} has {len(images)} images but {len(labels)} labels in '{pair.split or pair.labels}'; expected as "
            "many of one as of the other."
        )


def _splits(pairs: Sequence[Pair], stacks: Mapping[str, Array]) -> npt.NDArray[np.int8] | None:
    if pairs[0].split is None:
        return None
    return np.concatenate([np.full(len(stacks[pair.images]), SPLITS.index(str(pair.split)), np.int8) for pair in pairs])


def _numeric(stacks: Mapping[str, Array]) -> bool:
    return all(stack.dtype.kind in "biuf" for stack in stacks.values())


def _joined_labels(labels: Sequence[Array], what: str) -> npt.NDArray[np.int64]:
    """Return (N,) or (N, L) int64 of all splits."""
    columns = {1 if part.ndim == 1 else part.shape[1] for part in labels}
    if len(columns) != 1:
        raise DataError(
            f"{what} has labels of {' and '.join(map(str, sorted(columns)))} columns; expected one number of them."
        )
    joined = np.concatenate([part[:, None] if part.ndim == 1 else part for part in labels])
    if joined.dtype.kind not in "biuf" or (joined.dtype.kind == "f" and not (joined == np.round(joined)).all()):
        raise DataError(f"{what} has labels that are not whole numbers ({joined.dtype}); expected class indices.")
    if joined.size and (joined.min() < -1 or joined.max() >= 2**31):
        raise DataError(
            f"{what} has labels from {joined.min()} to {joined.max()}; expected class indices, or -1 = unknown."
        )
    whole = joined.astype(np.int64)
    return whole[:, 0] if whole.shape[1] == 1 else whole


def _read_classes(
    values: npt.NDArray[np.int64],
    label_names: Sequence[str],
    options: DatasetOptions,
    classes: Sequence[str] | None,
    what: str,
) -> Labels:
    found = np.unique(values[values >= 0])
    names = [label_names[value] if value < len(label_names) else str(value) for value in found.tolist()]
    numbered = not label_names and not options.exclude_classes and classes is not None
    if numbered and classes is not None and not set(names) <= set(classes) and found.max(initial=-1) < len(classes):
        # Made from the same labels with their names, by somebody who opened them as `medmnist:`.
        names = [classes[value] for value in found.tolist()]
    code = np.where(values >= 0, np.searchsorted(found, values), UNKNOWN_CLASS)
    return label_classes(
        names, code, exclude=options.exclude_classes, classes=classes, what=what, known=options.known_classes
    )


def _read_bits(
    values: npt.NDArray[np.int64],
    label_names: Sequence[str],
    options: DatasetOptions,
    classes: Sequence[str] | None,
    what: str,
) -> Labels:
    bits = np.where(values == -1, UNKNOWN_BIT, values)
    wrong = np.argwhere(~np.isin(bits, (0, 1, UNKNOWN_BIT)))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{what} has {values[row, column]} in column {column} of its labels; expected 0, 1, or 255 = unknown."
        )
    names = list(label_names) if len(label_names) == bits.shape[1] else [str(index) for index in range(bits.shape[1])]
    if (
        not label_names
        and not options.exclude_classes
        and classes is not None
        and len(classes) == len(names)
        and set(classes) != set(names)
    ):
        names = list(classes)
    return label_bits(
        names,
        bits.astype(np.uint8),
        exclude=options.exclude_classes,
        classes=classes,
        what=what,
        known=options.known_classes,
    )
