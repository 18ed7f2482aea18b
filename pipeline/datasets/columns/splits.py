"""Train, val and test where a dataset lacks them, and whether its classes can be learned from what each holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import plural, quoted
from .dataset import SPLITS, Dataset
from .labels import exclude_flags
from .units import find_units

__all__ = [
    "SPLIT_NAMES",
    "check_filled",
    "check_rare",
    "check_split_names",
    "describe_drawing",
    "draw_splits",
    "find_split",
    "name_likely_splits",
    "rarest_class",
    "words_of_splits",
]

# What people call the splits.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "validating": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
# What stands beside the name of a split in the name of a folder: train_images, 1-test, TrainingSet.
_BESIDE = re.compile(r"[\s_.-]*(?:(?:data)?sets?|data|images?|imgs?|split|folder)$|^\d+[\s_.-]+", re.IGNORECASE)
# Words that make a name look as if it were of a split; not enough to take it for one.
_WORDS = SPLIT_NAMES | {"trn": "train", "tst": "test", "eval": "test", "evaluation": "test", "holdout": "test"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_NAMED = 3  # classes that are left out by name; more of them by how few images they have
_TRAIN, _VAL, _TEST = range(len(SPLITS))
_SHARES = {_TRAIN: 0.70, _VAL: 0.15, _TEST: 0.15}
_SHARES_OF_TRAIN = {_TRAIN: 0.85, _VAL: 0.15}

Keys = npt.NDArray[np.uint8]


def find_split(name: str, renamed: Mapping[str, str]) -> int:
    """Return the index into `SPLITS` of what a split is called, -1 if it is the name of none.

    Parameters
    ----------
    renamed : what the user says that names mean
    """
    if name in renamed:
        return SPLITS.index(renamed[name])
    plain = name.lower()
    if plain not in SPLIT_NAMES:
        plain = _BESIDE.sub("", _BESIDE.sub("", plain))
    return SPLITS.index(SPLIT_NAMES[plain]) if plain in SPLIT_NAMES else -1


def check_split_names(renamed: Mapping[str, str], found: Iterable[str], what: str) -> None:
    """Refuse names that --split-names gives and nothing has: splits would be drawn as if it had not been said.

    Raises
    ------
    DataError
    """
    there = sorted({name for name in found if name})
    strange = [name for name in renamed if name not in there]
    if strange:
        raise DataError(
            f"{what} has no split called {quoted(strange)} for --split-names; expected names that it has, "
            f"{quoted(there) or 'of which there are none'}."
        )


def words_of_splits(name: str) -> set[str]:
    """Return the splits that words of a name speak of: ``train2017``, ``ISIC_Test_Input``."""
    words = (word.lower() for word in _WORD.findall(name))
    return {_WORDS[word] for word in words if word in _WORDS}


def name_likely_splits(names: Iterable[str]) -> str | None:
    """Return what says that names are of splits, as --split-names wants it; None unless they speak of two or more."""
    said = {name: words_of_splits(name) for name in names}
    likely = {name: next(iter(found)) for name, found in sorted(said.items()) if len(found) == 1}
    return ",".join(f"{name}={split}" for name, split in likely.items()) if len(set(likely.values())) > 1 else None


def draw_splits(dataset: Dataset, keys: Keys, seed: int) -> npt.NDArray[np.int8]:
    """Return the split of every row, drawing what the dataset leaves open.

    Without any split, 70/15/15 % are drawn. Where some rows have one, the others join train, except that a row of a
    patient or an image already in val or test follows it there. Then, if val has no row, 15 % of train is drawn.
    Drawing is stratified by class (multi-label: by each row's rarest label) and keeps patients and repeated images
    whole.

    Parameters
    ----------
    keys : (N, 16) uint8

    Returns
    -------
    (N,) int8 index into `SPLITS`: a pure function of the seed and the set of (key, label, split, partition by group),
    never of the order of rows
    """
    given = np.full(len(dataset), -1, np.int8) if dataset.split is None else dataset.split
    if (
        dataset.unlabelled
        or len(dataset) == 0
        or ((given >= 0).all() and ((given == _VAL).any() or not (given == _TRAIN).any()))
    ):
        return given.copy()
    unit = find_units(keys, dataset.group)
    drawn = given.copy()
    if (given < 0).all():
        return _draw(dataset, keys, unit, _SHARES, seed)
    # The highest split any row of a unit has: nothing of a patient in test may be trained on.
    place = np.full(int(unit.max()) + 1, _TRAIN, np.int8)
    np.maximum.at(place, unit, given)
    drawn[given < 0] = place[unit[given < 0]]
    if not (drawn == _VAL).any():
        # What shares a patient or an image with test stays where it was put, so that val is of neither.
        train = np.flatnonzero((drawn == _TRAIN) & (place[unit] == _TRAIN))
        if len(train):
            drawn[train] = _draw(
                dataset.take(train), keys[train], find_units(keys[train], dataset.group[train]), _SHARES_OF_TRAIN, seed
            )
    return drawn


def check_filled(dataset: Dataset, split: npt.NDArray[np.int8]) -> None:
    """Refuse a drawing whose val or test is empty since patients are too few, or one of them has most images.

    Raises
    ------
    DataError
    """
    groups = dataset.group[dataset.group >= 0]
    empty = [SPLITS[index] for index in (_VAL, _TEST) if not (split == index).any()]
    if dataset.split is None and not dataset.unlabelled and len(groups) and empty and len(dataset) >= len(SPLITS):
        count = len(np.unique(groups))
        raise DataError(
            f"dataset '{dataset.name}' has {count} {plural(count, 'group')} for its {len(dataset)} images, and whole "
            f"groups leave {' and '.join(empty)} empty; expected a patient for each few images: name another column "
            "with --group-column, or go without with --group-column none."
        )


def describe_drawing(split: npt.NDArray[np.int8] | None, seed: int) -> str | None:
    """Say what `draw_splits` draws for a dataset of these splits, None where it draws nothing."""
    if split is None or (split < 0).all():
        shares = "/".join(f"{100 * share:.0f}" for share in _SHARES.values())
        return f"the dataset has no splits: {shares} % are drawn by class with seed {seed}"
    if not (split == _VAL).any():
        return f"the dataset has no val: {100 * _SHARES_OF_TRAIN[_VAL]:.0f} % of train are drawn by class, seed {seed}"
    if (split < 0).any():
        return f"{(split < 0).sum()} rows have no split: they join train, or the split of their patient or copy"
    return None


def _draw(
    dataset: Dataset, keys: Keys, unit: npt.NDArray[np.int64], shares: dict[int, float], seed: int
) -> npt.NDArray[np.int8]:
    """Deal units to splits by the rule of Webster and Sainte-Laguë, class by class from the rarest.

    A unit goes where share / (2 · rows of its class there + rows it brings) is largest, a tie to where the same
    quotient of all rows is: proportional at every count, and the first two of a class go to train whatever its size.
    """
    rows, strata, n_strata = _strata(dataset)
    n_units = int(unit.max()) + 1
    counts = np.zeros((n_units, n_strata), np.int64)
    np.add.at(counts, (unit[rows], strata), 1)
    sizes = np.bincount(unit, minlength=n_units)
    totals = counts.sum(0)
    rarity = np.where(counts > 0, totals, totals.max() + 1)
    decisive = rarity.argmin(1)  # (U,) the rarest class of each unit
    ticket = _tickets(keys, unit, seed)
    order = np.lexsort((ticket, -sizes, decisive, rarity[np.arange(n_units), decisive]))
    place = np.empty(n_units, np.int8)
    of_class = {split: [0] * n_strata for split in shares}
    of_all = dict.fromkeys(shares, 0)
    for index in order.tolist():
        chosen = int(decisive[index])
        brings, size = int(counts[index, chosen]), int(sizes[index])
        best = max(
            shares,
            key=lambda split: (
                shares[split] / (2 * of_class[split][chosen] + brings),
                shares[split] / (2 * of_all[split] + size),
            ),
        )
        place[index] = best
        of_all[best] += size
        for name in np.flatnonzero(counts[index]).tolist():
            of_class[best][name] += int(counts[index, name])
    return place[unit]


def _strata(dataset: Dataset) -> tuple[npt.NDArray[Any], npt.NDArray[Any], int]:
    """Return pairs (row, stratum) and how many strata there are: the classes or labels, and a last one for none."""
    n_classes = len(dataset.classes)
    if dataset.task == "multiclass":
        return np.arange(len(dataset)), np.where(dataset.label >= 0, dataset.label, n_classes), n_classes + 1
    positive, labels = np.nonzero(dataset.label == 1)
    nothing = np.flatnonzero(~(dataset.label == 1).any(1))
    return np.append(positive, nothing), np.append(labels, np.full(len(nothing), n_classes)), n_classes + 1


def _tickets(keys: Keys, unit: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """Return a number for each unit that depends on its smallest key and the seed alone, (U,) uint64."""
    by_unit = np.lexsort((*keys.T[::-1], unit))
    sizes = np.bincount(unit)
    smallest = by_unit[np.cumsum(sizes) - sizes]
    salt = f"medal:split {seed} ".encode()
    digests = b"".join(blake2b(salt + key.tobytes(), digest_size=8).digest() for key in keys[smallest])
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def check_rare(dataset: Dataset, split: npt.NDArray[np.int8]) -> tuple[str, ...]:
    """Refuse classes that cannot be learned, and return a sentence for each split that lacks some.

    Parameters
    ----------
    split : (N,) int8 index into `SPLITS`

    Raises
    ------
    DataError
        A class has fewer than two train samples (a label: than two of 0 or of 1), or there is no train sample at all.
    """
    if not (split == _TRAIN).any():
        raise DataError(
            f"dataset '{dataset.name}' has no train rows; expected some: a teacher's probe is fitted on train."
        )
    if dataset.unlabelled:
        return ()
    counts = dict(zip(dataset.classes, _fewest(dataset, split == _TRAIN).tolist(), strict=True))
    rare = [(name, count) for name, count in counts.items() if count < 2]
    if rare:
        listed = ", ".join(f"'{name}' ({count})" for name, count in rare)
        flags = _leave_out(dataset, [name for name, _ in rare])
        which = f"of the {plural(len(rare), 'class')}"
        if dataset.task == "multilabel":
            which = f"with, or without, the {plural(len(rare), 'label')}"
        raise DataError(
            f"dataset '{dataset.name}' has too few train samples {which} {listed}; "
            f"expected two or more: leave {plural(len(rare), 'it', 'them')} out with {flags}."
        )
    warnings = []
    for index in (_VAL, _TEST):
        rows = split == index
        absent = [
            name for name, count in zip(dataset.classes, _fewest(dataset, rows).tolist(), strict=True) if count == 0
        ]
        if rows.any() and absent:
            warnings.append(
                f"{SPLITS[index]} has no sample of the {plural(len(absent), 'class')} {quoted(absent)}: "
                "left out of the mean over classes."
            )
    return tuple(warnings)


def _leave_out(dataset: Dataset, rare: Sequence[str]) -> str:
    """Write the options that leave out classes too rare to learn: one for many of them."""
    if len(rare) <= _NAMED:
        return exclude_flags(rare)
    label = dataset.label
    ones = np.bincount(label[label >= 0], minlength=len(dataset.classes)) if label.ndim == 1 else (label == 1).sum(0)
    least = 1 + max(int(ones[dataset.classes.index(name)]) for name in rare)
    together = ", or put them together with --other NAME beside it" if label.ndim == 1 else ""
    return f"--min-class-images {least}{together}"


def rarest_class(dataset: Dataset, split: npt.NDArray[np.int8]) -> tuple[str, int]:
    """Return the class with the fewest train samples, and how many it has."""
    counts = _fewest(dataset, split == _TRAIN)
    return dataset.classes[int(counts.argmin())], int(counts.min())


def _fewest(dataset: Dataset, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return how many of some rows each class has, (C,); of a label, how many are 0 or how many are 1, the fewer."""
    label = dataset.label[rows]
    if dataset.task == "multilabel":
        return np.asarray(np.minimum((label == 0).sum(0), (label == 1).sum(0)), np.int64)
    return np.bincount(label[label >= 0], minlength=len(dataset.classes)).astype(np.int64)
