"""How images make a patient: ways of multiple-instance learning, on probabilities p of each class over their images.

mean       the average; the default, which no single image decides
max        the greatest: one image with a finding is enough
noisy-or   1 − Π (1 − p): as if every image were a chance of its own to see a finding
top3       the average of the three greatest

Of classes that exclude each other the results are scaled to a sum of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ....cache.errors import DataError

__all__ = ["BY_MEAN", "Aggregate", "PatientRule"]

Aggregate = Literal["mean", "max", "noisy-or", "top3"]


@dataclass(frozen=True)
class PatientRule:
    """How images make a patient.

    Attributes
    ----------
    aggregate : how the answers to a patient's images become one
    finding : classes, the gravest first: a patient whose images are of several classes has the first of these that is
        among them. A patient of several classes of which none is named has no label of its own
    ordinal : classes are grades: a patient's is the highest, and figures of grades are given
    """

    aggregate: Aggregate = "mean"
    finding: tuple[str, ...] = ()
    ordinal: bool = False

    def rank(self, classes: Sequence[str]) -> list[int]:
        """Return the classes of which one image is enough, the gravest first.

        Raises
        ------
        DataError
            A finding is no class.
        """
        strange = [name for name in self.finding if name not in classes]
        if strange:
            raise DataError(f"--finding '{strange[0]}' is no class; expected one of {', '.join(classes)}.")
        if self.ordinal and not self.finding:
            return list(range(len(classes)))[::-1]
        return [list(classes).index(name) for name in self.finding]


BY_MEAN = PatientRule()
