"""Preprocessing of images for the teacher, as data that goes into the cache's manifest and id."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

from ...cache.errors import TeacherError

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Intensity",
    "Preprocessing",
    "Resize",
    "levels_of",
    "parse_intensity",
    "parse_window",
    "window_levels",
    "write_levels",
]

Resize = Literal["squash", "pad", "crop"]
# ``declared``, ``minmax``, or the two values that are black and white: ``LOW,HIGH``. ``declared LOW,HIGH`` are those
# that the images of the set declare, all alike: written down, because one image alone may leave it open.
Intensity = str

_DECLARED, _MINMAX = "declared", "minmax"

# ImageNet statistics, which DINOv2 was trained with (facebookresearch/dinov2, data/transforms.py).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image of any size becomes the teacher's input.

    Attributes
    ----------
    image_size : side S of the square input, pixels
    resize : ``squash`` maps the whole image to S × S; ``pad`` keeps the aspect and fills with black;
        ``crop`` brings the shorter side to S and cuts the middle out of the longer one
    interpolation, antialias : the one resampling there is, written down so that a reader need not know
    intensity : how deeper than 8-bit images came to 0…255: by their declared bits, by per-image min-max, or from two
        values that are black and white in all of them, see `Intensity`
    mean, std : per channel, of pixels in 0…1
    window : centre and width that all grey DICOM images, and all others deeper than 8 bits, were shown with; None =
        each file's own

    Raises
    ------
    TeacherError
        A value is not one of those.
    """

    image_size: int = 224
    resize: Resize = "squash"
    interpolation: Literal["bicubic"] = "bicubic"
    antialias: Literal[True] = True
    intensity: Intensity = "declared"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _parse_choice("resize", self.resize, get_args(Resize))
        object.__setattr__(self, "intensity", parse_intensity(self.intensity))
        _parse_choice("interpolation", self.interpolation, ("bicubic",))
        _parse_choice("antialias", self.antialias, (True,))
        _parse_size(self.image_size)
        object.__setattr__(self, "mean", _parse_triple("mean", self.mean))
        object.__setattr__(self, "std", _parse_triple("std", self.std))
        if min(self.std) <= 0:
            raise TeacherError(f"Preprocessing: 'std' must be positive, got {list(self.std)}.")
        object.__setattr__(self, "window", parse_window(self.window))
        if self.window is not None and self.intensity != _DECLARED:
            raise TeacherError(f"Preprocessing: 'window' and the intensity '{self.intensity}' exclude each other.")

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON knows them; where there is no window, without it.

        So the caches from before there were windows keep their address.
        """
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        if self.window is None:
            del values["window"]
        return values

    def to_request(self) -> dict[str, Any]:
        """Return the values as a request has them: what the images declare is one value, whatever it is."""
        words = self.intensity.split()
        return self.to_dict() | {"intensity": words[0]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Return what `to_dict` gave; a name that is missing or unknown is refused, never guessed."""
        known = {field.name for field in fields(cls)}
        if set(values) | {"window"} != known:
            raise TeacherError(
                f"Preprocessing: expected exactly the entries {sorted(known - {'window'})}, got {sorted(values)}; "
                "a newer medal may have written it."
            )
        return cls(**values)


def parse_intensity(value: object) -> str:
    """Return an intensity in its one spelling.

    Raises
    ------
    TeacherError
        It is none of those that `Intensity` names.
    """
    first, _, rest = value.rpartition(" ") if isinstance(value, str) else ("", "", "")
    if first in ("", _DECLARED) and value in (_DECLARED, _MINMAX):
        return str(value)
    words = rest.split(",")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if first not in ("", _DECLARED) or len(numbers) != 2 or not all(map(math.isfinite, numbers)):
        raise TeacherError(
            f"Preprocessing: 'intensity' must be declared, minmax, or the values of black and white as in 0,4095, got "
            f"{value!r}."
        )
    if numbers[0] >= numbers[1]:
        raise TeacherError(
            f"Preprocessing: 'intensity' must name black before white, the smaller value first, got {value!r}."
        )
    return f"{first} {write_levels(*numbers)}".lstrip()


def write_levels(low: float, high: float) -> str:
    """Return the values of black and white as an intensity names them: whole numbers without a point."""
    return ",".join(str(int(value)) if float(value).is_integer() else repr(float(value)) for value in (low, high))


def levels_of(intensity: str) -> tuple[float, float] | None:
    """Return the values that an intensity says are black and white; None where it names none."""
    low, comma, high = intensity.rpartition(" ")[2].partition(",")
    return (float(low), float(high)) if comma else None


def window_levels(window: tuple[float, float]) -> tuple[float, float]:
    """Return the values that are black and white in a window, by DICOM's linear function (PS3.3, C.11.2.1.2)."""
    centre, width = window
    return centre - width / 2, centre + max(width / 2 - 1, 1e-6 - width / 2)


def parse_window(value: object) -> tuple[float, float] | None:
    """Return the centre and width of a window from two numbers, the width from 1; None stays None.

    Raises
    ------
    TeacherError
        It is neither.
    """
    if value is None:
        return None
    numbers = tuple(value) if isinstance(value, list | tuple) else ()
    if len(numbers) != 2 or not all(map(_is_number, numbers)) or numbers[1] < 1:
        raise TeacherError(f"Preprocessing: 'window' must be a centre and a width from 1, got {value!r}.")
    return float(numbers[0]), float(numbers[1])


def _parse_choice(name: str, value: object, known: tuple[object, ...]) -> None:
    # `1 == True`: a JSON number is not the flag it happens to equal.
    if not any(type(value) is type(item) and value == item for item in known):
        raise TeacherError(f"Preprocessing: '{name}' must be one of {', '.join(map(str, known))}, got {value!r}.")


def _parse_size(value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 4096:
        raise TeacherError(f"Preprocessing: 'image_size' must be a number of pixels from 1 to 4096, got {value!r}.")


def _parse_triple(name: str, value: object) -> tuple[float, float, float]:
    numbers = tuple(value) if isinstance(value, list | tuple) else ()
    if len(numbers) != 3 or not all(map(_is_number, numbers)):
        raise TeacherError(f"Preprocessing: '{name}' must be three numbers, got {value!r}.")
    return cast(tuple[float, float, float], tuple(float(item) for item in numbers))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
