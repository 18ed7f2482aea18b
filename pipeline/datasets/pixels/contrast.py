"""What is black and white in a set of deep images: decided once, from what is declared and what a sample holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ...views.preprocessing import Intensity, levels_of, write_levels
from ..columns.dataset import Dataset, DatasetOptions, Deep, Images
from .intensity import REMEDY, float_scale, scale

__all__ = [
    "FLAT",
    "SAMPLED",
    "Found",
    "Looked",
    "check_other_splits",
    "find_intensity",
    "flat_rows",
    "is_flat",
    "sample_deep",
    "settle_intensity",
]

# Enough to meet what one image in twenty holds, but for one set in thirty.
SAMPLED = 64
# Of 255 greys: 12 bits taken for 16 have 16, 13 bits 32; of the sound sets measured, the flattest image has 60.
FLAT = 24.0
# A deep set that is taken for what it declares has more than 14 bits in 16, or HU in 16 signed bits.
_ROOM = 64.0
# Pixels of an image that may be anything: dead ones, and letters burned in.
_STRAY = 0.001
_TAILS = (0.005, 0.995)
_FAR = 4.0  # of another scale are images that go on to four times white, or are flat
_VALUES_KEPT = 4096  # of each image; the extremes are kept beside them
_PIXELS_KEPT = 1 << 16
_READERS = 8
Pixels = npt.NDArray[Any]


class Found(NamedTuple):
    """What is black and white in a set, and a sentence on why, where it is not what the images declare."""

    intensity: Intensity
    note: str | None = None


def settle_intensity(dataset: Dataset, rows: npt.NDArray[np.int64], options: DatasetOptions) -> tuple[Dataset, Found]:
    """Return a dataset whose images are scaled as the user says or, where nothing is said, as `find_intensity` finds.

    Parameters
    ----------
    rows : (M,) int64, in an order that the dataset's own has no part in; the first few are looked at

    Raises
    ------
    DataError
        As `find_intensity`.
    """
    if options.intensity != "auto" or options.window is not None:
        found = Found("declared" if options.intensity == "auto" else options.intensity)
    else:
        found = find_intensity(sample_deep(dataset.images, rows), f"dataset '{dataset.name}'")
    return replace(dataset, images=dataset.images.with_intensity(found.intensity)), found


def check_other_splits(
    images: Images, rows: npt.NDArray[np.int64], intensity: Intensity, name: str, split: str
) -> None:
    """Refuse deep images of val or test that are on another scale than those of train, by which it was found.

    Parameters
    ----------
    rows : (M,) int64 of the split; the first few are looked at

    Raises
    ------
    DataError
    """
    levels = levels_of(intensity)
    seen, far = 0, []
    for deep in sample_deep(images, rows):
        ends = levels or deep.declared
        if ends is None or np.ptp(deep.values) == 0:
            continue
        seen += 1
        low, high = (float(value) for value in np.quantile(_thin(deep).values, _TAILS))
        width = ends[1] - ends[0]
        if high - ends[0] > _FAR * width or high - low < width * FLAT / 255:
            far.append(f"one from {low:g} to {high:g} with black at {ends[0]:g} and white at {ends[1]:g}")
    if 2 * len(far) > seen:
        raise DataError(
            f"dataset '{name}': {len(far)} of {seen} images looked at in {split} are on another scale than those of "
            f"train, {far[0]}; expected one scale: rescale them, {REMEDY}."
        )


def sample_deep(images: Images, rows: npt.NDArray[np.int64]) -> list[Deep]:
    """Return the deep ones among the first few of some rows, as they are stored; what cannot be used is left out."""
    found = [deep for deep in _ask(images.deep, rows) if deep is not None and deep.values.size]
    return [deep for deep in found if deep.values.dtype.kind != "f" or np.isfinite(deep.values).all()]


def _ask(question: Callable[[int], Any], rows: npt.NDArray[np.int64]) -> list[Any]:
    def answer(row: int) -> Any:
        try:
            return question(row)
        except (DataError, OSError):  # what is to become of it is decided where it is read for good
            return None

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(answer, rows[:SAMPLED].tolist()))


def find_intensity(sample: Sequence[Deep], what: str) -> Found:
    """Decide what is black and white in a set.

    What the images declare holds where it shows them: then most of the sample spans a quarter of the greys. Else whole
    numbers from about 0 are taken for the fewest bits that hold them, and others are shown from their 0.5th to their
    99.5th percentile, as a viewer does; a value that pads images, far from all others, counts for neither.

    Parameters
    ----------
    what : the dataset, for messages

    Raises
    ------
    DataError
        The images have floating-point values on neither of the scales 0…1 and 0…255.
    """
    if not sample:
        return Found("declared")
    floats = [deep for deep in sample if deep.values.dtype.kind == "f" and deep.windowless is None]
    if floats and len(floats) == len(sample):
        return _find_scale(floats, what)
    return _find_bits([_thin(deep) for deep in sample])


# ── Floats ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _find_scale(sample: Sequence[Deep], what: str) -> Found:
    low = min(float(deep.values.min()) for deep in sample)
    high = max(float(deep.values.max()) for deep in sample)
    white = float_scale([deep.values for deep in sample], what)
    levels = write_levels(0, white)
    if all(deep.declared in ((0.0, white), None if _is_black(deep) else (0.0, white)) for deep in sample):
        return Found(f"declared {levels}")
    beyond = f", which some go beyond (from {low:.9g} to {high:.9g}) and are clipped" if low < 0 or high > white else ""
    return Found(levels, f"the floating-point images are taken for 0…{white:g}{beyond}, as --intensity {levels} says")


def _is_black(deep: Deep) -> bool:
    return not np.any(deep.values)


# ── Whole numbers ────────────────────────────────────────────────────────────────────────────────────────────────


class _Thin(NamedTuple):
    """Some values of an image in ascending order, its extremes among them, and what it declares."""

    values: npt.NDArray[np.float64]
    declared: tuple[float, float] | None
    windowless: str | None


def _thin(deep: Deep) -> _Thin:
    values = deep.values.reshape(-1)
    some = values[:: max(1, len(values) // _VALUES_KEPT)].astype(np.float64)
    return _Thin(np.sort(np.append(some, (float(values.min()), float(values.max())))), deep.declared, deep.windowless)


def _find_bits(sample: Sequence[_Thin]) -> Found:
    if _shows(sample, None, _ROOM):
        return Found("declared", _unsaid(sample))
    low, high, values = _without_padding(np.sort(np.concatenate([thin.values for thin in sample])))
    seen = f"{len(sample)} deep images looked at hold values from {low:g} to {high:g}"
    bits = int(high).bit_length() if high > 0 else 0
    windowless = any(thin.windowless for thin in sample)
    if not windowless and 0 <= low < 2 ** max(0, bits - 2) and _shows(sample, (0.0, 2.0**bits - 1), _ROOM):
        levels = write_levels(0, 2.0**bits - 1)
        return Found(
            levels,
            f"{seen}, which is {bits} bits of the more that they declare: 0 is taken for black and {2**bits - 1} for "
            f"white, as --intensity {levels} says; name others with --intensity LOW,HIGH or --window C,W",
        )
    black, white = (float(value) for value in np.quantile(values, _TAILS))
    if white <= black or not _shows(sample, (black, white), FLAT):
        return Found("declared", _unsaid(sample))
    if values[0].is_integer() and white - black > _ROOM:
        black, white = float(np.floor(black)), float(np.ceil(white))
    levels = write_levels(black, white)
    none = "no window" if windowless else "nothing that shows them"
    return Found(
        levels,
        f"{seen} and declare {none}: they are shown from {black:g} to {white:g}, the 0.5th and 99.5th percentiles, as "
        f"--intensity {levels} says; give all images one window with --window C,W, for instance 40,400 for soft tissue "
        "in CT",
    )


def _unsaid(sample: Sequence[_Thin]) -> str | None:
    kinds = [thin.windowless for thin in sample if thin.windowless is not None]
    if not kinds:
        return None
    names = " and ".join(sorted(set(kinds)))
    return (
        f"{len(kinds)} of the {names} images looked at have no window: black and white are the ends of their declared "
        "bits; give all images one with --window C,W, for instance 40,400 for soft tissue in CT"
    )


def _shows(sample: Sequence[_Thin], levels: tuple[float, float] | None, least: float) -> bool:
    """Tell whether most images, but for those of one value, span so many greys from black to white."""
    spans = []
    for thin in sample:
        ends = levels or thin.declared
        if thin.values[0] == thin.values[-1]:
            continue
        spans.append(0.0 if ends is None else _depth(scale(thin.values, *ends)))
    return not spans or float(np.median(spans)) >= least


def _without_padding(values: npt.NDArray[np.float64]) -> tuple[float, float, npt.NDArray[np.float64]]:
    """Return the least and greatest of values in ascending order, and all, without one that is far from the others.

    That is what pads an image beyond its own field, or letters burned in: farther from the next value than all others
    are from each other.
    """
    for _ in range(2):
        inner = values[values > values[0]]
        if len(inner) and inner[0] - values[0] > inner[-1] - inner[0]:
            values = inner
        inner = values[values < values[-1]]
        if len(inner) and values[-1] - inner[-1] > inner[-1] - inner[0]:
            values = inner
    return float(values[0]), float(values[-1]), values


# ── Views ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Looked(NamedTuple):
    """Rows that were looked at: nearly of one grey, of more, and of one value, which no choice of black changes."""

    flat: list[int]
    lively: list[int]
    blank: list[int]


def flat_rows(images: Images, rows: npt.NDArray[np.int64]) -> Looked:
    """Return which of the first few of some rows come out nearly as one grey."""
    found = Looked([], [], [])
    for row, pixels in zip(rows.tolist(), _ask(images.read, rows), strict=False):
        if pixels is None:
            continue
        kind = found.blank if pixels.min() == pixels.max() else found.flat if is_flat(pixels) else found.lively
        kind.append(row)
    return found


def is_flat(pixels: Pixels) -> bool:
    """Tell whether pixels in 0…255 span next to nothing, or nothing between a black ground and a white mark."""
    some = pixels.reshape(-1)
    return _depth(np.sort(some[:: max(1, len(some) // _PIXELS_KEPT)])) < FLAT


def _depth(values: npt.NDArray[Any]) -> float:
    """Return how far values in ascending order are apart, or those between the least and the greatest."""
    inner = values[(values > values[0]) & (values < values[-1])]
    # A mask has nothing between the two, and a drawing little.
    return min(span(values), span(inner)) if len(inner) > len(values) / 2 else span(values)


def span(values: npt.NDArray[Any]) -> float:
    """Return how far values in ascending order are apart, but for a thousandth of them at each end."""
    cut = int(len(values) * _STRAY)
    return float(values[len(values) - 1 - cut]) - float(values[cut])
