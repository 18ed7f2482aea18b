"""The patients of images: by a table's column, a pattern of the path or DICOM's PatientID, or a warning if unknown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.text import plural
from ..columns.dataset import SPLITS, DatasetOptions
from ..columns.patients import (
    NO_GROUP,
    check_groups,
    group_by_pattern,
    number_groups,
    say_likely_patients,
    without_missing,
)
from ..pixels.listing import Listing

__all__ = ["group_images"]

Group = npt.NDArray[np.int64]


def group_images(
    listing: Listing,
    options: DatasetOptions,
    what: str,
    *,
    split: Sequence[int] | None,
    places: int,
    column: tuple[str, Sequence[str]] | None = None,
) -> tuple[Group, list[str]]:
    """Return the patient of each image, (M,) int64, -1 none, and what to say of them.

    Parameters
    ----------
    split : of each of the files listed, if splits are given; None = they are drawn, and keep patients together
    places : number of folders that classes and splits explain
    column : a table's column of patients: its name, and its cell for each of the files listed

    Raises
    ------
    DataError
        The column or the pattern cannot be of patients, or both are given.
    """
    files, drawn = len(listing.names), split is None
    if options.group_pattern is not None:
        if column is not None and options.group_column is not None:
            raise DataError("--group-column and --group-pattern were both given; expected one of them.")
        values, found = group_by_pattern(listing.names, options.group_pattern, what)
        check_groups(values, "--group-pattern", what, drawn)
        return listing.group(number_groups(values)), [found]
    if column is not None:
        values, told = without_missing(column[1])
        check_groups(values, column[0], what, drawn)
        return listing.group(number_groups(values)), told
    nobody = np.full(files, -1, np.int64)
    if options.group_column == NO_GROUP:
        return listing.group(nobody), []
    patients = number_groups([code.hex() for code in listing.patients]) if listing.patients else nobody
    count = len(np.unique(patients[patients >= 0]))
    named = int((patients >= 0).sum())
    if count > 1 and count < named and (count >= len(SPLITS) or not drawn):
        return listing.group(patients), [f"images are grouped by DICOM's PatientID: {count} patients"]
    said: list[str] = []
    if 0 < count < min(named, len(SPLITS)):
        # One for all is what many a tool writes when it takes names away.
        why = "which cannot fill three splits" if drawn else "who may be any"
        said = [
            f"the DICOM files name {count} {plural(count, 'patient')} by PatientID, {why}: images of one may come into "
            "several splits, unless --group-pattern or a table's column tells them apart"
        ]
    elif not options.unlabelled:
        said = say_likely_patients(listing.names, split, places)
    return listing.group(nobody), said
