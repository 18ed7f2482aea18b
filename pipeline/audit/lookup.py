"""The images of a set that the teacher finds most like one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...cache.errors import DataError
from .neighbours import fit_whitening
from .subject import Subject

__all__ = ["Neighbour", "find_neighbours", "find_row", "name_row"]

_FEWEST_DIGITS = 6


@dataclass(frozen=True)
class Neighbour:
    """A row, and the cosine of its whitened feature to the one asked about."""

    row: int
    cosine: float


def find_row(subject: Subject, image: str) -> int:
    """Return the row of an image by its name in the dataset, the end of the name, or the start of its key in hex.

    Raises
    ------
    DataError
        There is none, or there are several.
    """
    names = [name_row(subject, row) for row in range(len(subject))]
    exact = [row for row, name in enumerate(names) if name == image]
    ending = [row for row, name in enumerate(names) if name.replace("\\", "/").endswith(f"/{image}")]
    keys = [subject.key[row].tobytes().hex() for row in range(len(subject))] if _is_key(image) else []
    started = [row for row, key in enumerate(keys) if key.startswith(image.lower())]
    found = exact or ending or started
    if len(found) != 1 and len({subject.key[row].tobytes() for row in found}) != 1:
        many = f"{len(found)} images of '{subject.name}' have this name" if found else f"'{subject.name}' has none"
        raise DataError(
            f"Image '{image}' cannot be found: {many}; expected a name such as '{names[0]}', or the start of a key."
        )
    return found[0]


def name_row(subject: Subject, row: int) -> str:
    """Return the file of an image, of an array its name and row as in ``train_images[3]``, or else its key."""
    source = int(subject.source[row])
    if source < 0:
        return bytes(subject.key[row]).hex()
    place = subject.dataset.images.locate(source)
    frame = f" frame {place.frame}" if place.frame is not None else ""
    return f"{place.file}{frame}" if place.file is not None else f"{place.array}[{place.row}]"


def _is_key(image: str) -> bool:
    return len(image) >= _FEWEST_DIGITS and all(digit in "0123456789abcdef" for digit in image.lower())


def find_neighbours(subject: Subject, row: int, count: int) -> list[Neighbour]:
    """Return the rows most similar to a row, the nearest first, including copies but not itself.

    Raises
    ------
    DataError
        The cache has no features.
    """
    if subject.feature is None:
        raise DataError(
            f"The cache of '{subject.name}' has no features, which neighbours are found by; make it without "
            "--no-features."
        )
    whitened = fit_whitening(subject.feature).apply(subject.feature)
    cosine = whitened @ whitened[row]
    cosine[row] = -np.inf
    nearest = np.argsort(-cosine, kind="stable")[: min(count, len(subject) - 1)]
    return [Neighbour(int(one), float(cosine[one])) for one in nearest]
