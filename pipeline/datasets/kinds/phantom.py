"""``phantom``: a small set of made-up scans that medal draws itself, the same bytes on every machine.

Only the raw words of PCG64 and integer arithmetic are used: numpy promises the former for ever, which it does not for
its distributions, and the latter does not depend on a mathematical library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..columns.dataset import SPLITS, Dataset, DatasetOptions
from ..columns.labels import label_classes
from .arrays import ArrayImages

__all__ = ["open_phantom"]

SIZE = 64
CLASSES = ("clear", "nodule", "mass")
_BLOCKS = 28  # of one patient for each class on each scanner
_SEED = 1528

# Sixteen directions of length 64.
_X = (64, 59, 45, 24, 0, -24, -45, -59, -64, -59, -45, -24, 0, 24, 45, 59)
_DIRECTIONS = tuple(zip(_X, _X[4:] + _X[:4], strict=True))
_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.int64)

Picture = npt.NDArray[np.int64]


class _Scanner(NamedTuple):
    name: str
    gain: int  # in 1/64
    offset: int
    noise: int  # in 1/64 of `_noise`, so that 8 is a deviation of 16 grey levels
    blurs: int


_SCANNERS = (_Scanner("alder", 64, 0, 5, 0), _Scanner("birch", 52, 28, 8, 1), _Scanner("cedar", 78, -18, 6, 1))


class _Dice:
    """Bytes that depend on a few numbers and nothing else."""

    def __init__(self, *seeds: int) -> None:
        self._source = np.random.PCG64(np.random.SeedSequence([_SEED, *seeds]))

    def bytes(self, *shape: int) -> Picture:
        count = int(np.prod(shape))
        words = np.asarray(self._source.random_raw(-(-count // 8)), "<u8")
        return words.view(np.uint8)[:count].astype(np.int64).reshape(shape)

    def between(self, low: int, high: int) -> int:
        """Return a whole number from low to high, both included."""
        return low + int(self.bytes(1)[0]) * (high - low + 1) // 256


def open_phantom(options: DatasetOptions, classes: Sequence[str] | None = None) -> Dataset:
    """Draw 630 grey scans of 252 patients, (64, 64) uint8: three classes, three scanners, two or three scans a patient.

    Classes and scanners are in balance in every split, and a patient's scans are in one split.

    Raises
    ------
    DataError
        A class to leave out is not there, or is not among `classes`.
    """
    scans, patients = [], []
    for patient in range(_BLOCKS * len(CLASSES) * len(_SCANNERS)):
        kind, scanner = patient % len(CLASSES), patient // len(CLASSES) % len(_SCANNERS)
        for view in range(2 + patient % 2):
            scans.append(_draw_scan(patient, view, kind, _SCANNERS[scanner]))
            patients.append(patient)
    group = np.array(patients, np.int64)
    block = group // (len(CLASSES) * len(_SCANNERS))
    split = np.select([block % 7 == 5, block % 7 == 6], [SPLITS.index("val"), SPLITS.index("test")], 0).astype(np.int8)
    what = "dataset 'phantom'"
    kinds = group % len(CLASSES)
    labels = label_classes(
        CLASSES, kinds, exclude=options.exclude_classes, classes=classes, what=what, known=options.known_classes
    )
    rows = labels.rows
    return Dataset(
        name="phantom",
        task="multiclass",
        classes=labels.classes,
        images=ArrayImages({"scans": np.stack(scans)[rows]}, what, None, options.intensity),
        label=labels.label,
        split=split[rows],
        domain=(group // len(CLASSES) % len(_SCANNERS)).astype(np.int16)[rows],
        group=group[rows],
        domains=tuple(scanner.name for scanner in _SCANNERS),
        excluded=options.exclude_classes,
    )


def _draw_scan(patient: int, view: int, kind: int, scanner: _Scanner) -> npt.NDArray[np.uint8]:
    """Draw one scan, (64, 64): tissue, what grows in it, and what the scanner makes of both."""
    person, moment = _Dice(patient), _Dice(patient, 1 + view)
    tissue = 84 + _texture(moment, 8) // 6 + _texture(moment, 4) // 8
    finding = _finding(CLASSES[kind], person, moment)
    body = _disc(32 + moment.between(-2, 2), 32 + moment.between(-2, 2), person.between(26, 30), person.between(56, 76))
    picture = np.where(body > 0, tissue + finding, 14)
    for _ in range(scanner.blurs):
        picture = _blurred(picture)
    picture = picture * scanner.gain // 64 + scanner.offset + _noise(moment) * scanner.noise // 64
    return np.clip(picture, 0, 255).astype(np.uint8)


def _finding(name: str, person: _Dice, moment: _Dice) -> Picture:
    """Return what is added to the tissue: a smooth nodule, a lobed and mottled mass, or a few vessels."""
    x = 32 + person.between(-9, 9) + moment.between(-2, 2)
    y = 32 + person.between(-9, 9) + moment.between(-2, 2)
    radius, contrast = person.between(5, 9), person.between(18, 62)
    turn = moment.between(0, 15)
    shape = np.zeros((SIZE, SIZE), np.int64)
    if name == "clear":
        for _ in range(person.between(0, 3)):  # vessels seen end on
            shape |= _disc(32 + moment.between(-15, 15), 32 + moment.between(-15, 15), moment.between(2, 3), 64)
    else:
        shape |= _disc(x, y, radius, person.between(50, 80))
    if name == "mass":
        for lobe in range(person.between(4, 7)):
            right, down = _DIRECTIONS[(turn + lobe * 5) % 16]
            reach = radius + person.between(1, 4)
            shape |= _disc(x + right * reach // 64, y + down * reach // 64, person.between(2, 4), 64)
    edge = _blurred(_blurred(shape * 256))
    mottle = _texture(moment, 2) // 2 if name == "mass" else 0
    return np.asarray(edge * (contrast - mottle) // 256, np.int64)


def _disc(x: int, y: int, radius: int, flatness: int) -> Picture:
    """Return 1 inside an upright ellipse: `radius` wide, radius · 64 / flatness high."""
    inside = ((_COLUMNS - x) * 64) ** 2 + ((_ROWS - y) * flatness) ** 2 <= (radius * 64) ** 2
    return np.asarray(inside, np.int64)


def _texture(dice: _Dice, step: int) -> Picture:
    """Return smooth clouds of about -128 … 127, as wide as `step` pixels."""
    knots = dice.bytes(SIZE // step + 1, SIZE // step + 1) - 128
    part = np.arange(SIZE) % step
    first = np.arange(SIZE) // step
    rows = knots[first] * (step - part)[:, None] + knots[first + 1] * part[:, None]
    clouds = (rows[:, first] * (step - part) + rows[:, first + 1] * part) // (step * step)
    return np.asarray(clouds, np.int64)


def _noise(dice: _Dice) -> Picture:
    """Return nearly normal noise with a deviation of about 128: the sum of three bytes less its mean."""
    return np.asarray(dice.bytes(3, SIZE, SIZE).sum(0) - 382, np.int64)


def _blurred(picture: Picture) -> Picture:
    """Average over 3 × 3 pixels, the border repeated."""
    padded = np.pad(picture, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) // 9, np.int64)
