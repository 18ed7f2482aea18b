"""What a teacher's image processor does to pixels, as one mean and one standard deviation of pixels in 0…1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...cache.errors import TeacherError
from ...cache.text import plural
from ..views.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from .weights import PROCESSOR, PROCESSOR_OF_ALL, read_json

__all__ = ["check_channels", "has_processor", "read_normalisation"]

Triple = tuple[float, float, float]

_ADVICE = "correct the file, or take a teacher whose processor says what its pixels were"


def has_processor(folder: Path) -> bool:
    """Tell whether a teacher's folder says how its pixels are prepared."""
    return (folder / PROCESSOR).is_file() or (folder / PROCESSOR_OF_ALL).is_file()


def check_channels(config: Mapping[str, Any], teacher: str) -> None:
    """Refuse a model that takes other than three channels.

    Raises
    ------
    TeacherError
    """
    channels = config.get("num_channels", 3)
    if channels != 3:
        raise TeacherError(
            f"Teacher '{teacher}' takes images of {channels!r} {plural(channels, 'channel')} ('num_channels' in "
            "config.json); expected 3, as grey images are repeated: choose a teacher of RGB images."
        )


def read_normalisation(folder: Path, teacher: str) -> tuple[Any, Any]:
    """Return mean and standard deviation of pixels in 0…1, three numbers each; ImageNet's where no file says any.

    A processor multiplies pixels of 0…255 by a factor, then takes the mean off and divides by the deviation. That is
    the same as another mean and deviation of pixels in 0…1, which is what a cache records.

    Raises
    ------
    TeacherError
        The processor does something that this cannot say, or contradicts itself.
    """
    name = PROCESSOR if (folder / PROCESSOR).is_file() else PROCESSOR_OF_ALL
    if not (folder / name).is_file():
        return IMAGENET_MEAN, IMAGENET_STD
    processor = read_json(folder / name, teacher)
    if name == PROCESSOR_OF_ALL and isinstance(processor.get("image_processor"), dict):
        processor = processor["image_processor"]
    what = f"Teacher '{teacher}': {name}"
    if processor.get("rescale_offset"):
        raise TeacherError(f"{what} has 'rescale_offset', which medal does not compute; {_ADVICE}.")
    rescaled, normalised = processor.get("do_rescale", True), processor.get("do_normalize", True)
    factor = 255 * _factor(processor.get("rescale_factor", 1 / 255), what) if rescaled else 255.0
    mean, std = processor.get("image_mean", IMAGENET_MEAN), processor.get("image_std", IMAGENET_STD)
    if not normalised:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if not rescaled and (not normalised or _greatest(mean) <= 1):
        raise TeacherError(
            f"{what} says 'do_rescale' false, so that pixels stay in 0…255, with {_written(mean, normalised)}, which "
            f"is of pixels in 0…1; {_ADVICE}: 'do_rescale' true for pixels in 0…1, or mean and deviation of 0…255."
        )
    # 1/255 is written with as many digits as JSON has: what every usual teacher says stays bit for bit.
    same = math.isclose(factor, 1.0, rel_tol=1e-6)
    mean, std = _scaled(mean, 1.0 if same else factor), _scaled(std, 1.0 if same else factor)
    if 1 < _greatest(mean) < math.inf:
        raise TeacherError(
            f"{what} has an 'image_mean' beyond the white that 'do_rescale' and 'rescale_factor' leave, so that every "
            f"pixel would be darker than the mean; {_ADVICE}."
        )
    return mean, std


def _factor(value: object, what: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise TeacherError(f"{what} has the 'rescale_factor' {value!r}; expected a positive number: {_ADVICE}.")
    return float(value)


def _written(mean: object, normalised: bool) -> str:
    return f"'image_mean' {mean!r}" if normalised else "'do_normalize' false"


def _greatest(mean: object) -> float:
    numbers = [value for value in _three(mean) if isinstance(value, int | float)]
    return max(numbers, default=math.inf)


def _scaled(value: object, factor: float) -> Any:
    """Divide by the factor; what is not numbers is left for `Preprocessing` to refuse."""
    three = _three(value)
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in three):
        return value
    return three if factor == 1 else [one / factor for one in three]


def _three(value: object) -> list[Any]:
    """Return a value of each channel, where one stands for all."""
    several = list(value) if isinstance(value, list | tuple) else [value]
    return several * 3 if len(several) == 1 else several
