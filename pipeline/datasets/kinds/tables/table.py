"""Tables that name image files and what is known of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .....cache.errors import DataError
from ...columns.account import CLASS_LEFT_OUT, Account
from ...columns.dataset import Dataset, DatasetOptions, class_order
from ...columns.reading import record_reading
from ...columns.repeats import Merged, merge_rows
from ...pixels.listing import Listing, list_images
from ..grouping import group_images
from .labels import read_labels
from .lookup import Lookup
from .roles import FILE, Roles, find_roles, say_patient_columns
from .splits import say_contrary

__all__ = ["open_table"]

_MOST_DOMAINS = 32_767  # domains are int16 in a cache
_TOGETHER = "put together with another row of the image"

_log = logging.getLogger(__name__)


def open_table(path: Path, name: str, options: DatasetOptions, classes: Sequence[str] | None = None) -> Dataset:
    """Read a table of image files; none is opened, but DICOM headers are read for the number of frames and the patient.

    An empty class is an unknown one, an empty split is one to be drawn, an empty domain or group is none. A DICOM file
    of several frames is as many rows, alike in all but the image, unless a column ``frame`` names one of them. Rows of
    one image are put together where their labels agree.

    Parameters
    ----------
    classes : the cache's classes; if the table has no class column and all of these are columns, it is multi-label

    Raises
    ------
    DataError
        The table cannot be read, lacks columns, names files that are not there, or has a label or split that means
        nothing.
    """
    what = f"table '{path}'"
    folders = [Path(folder) for folder in options.image_folders]
    lookup = Lookup(path.parent, folders, what, keep_missing=options.keep_missing)
    found = find_roles(path, options, lookup, what, fresh=classes is None)
    named = read_labels(found.table, options, classes, what)
    files = lookup.resolve(found.files, found.starts)
    labels = named.classes.labels
    rows = labels.rows
    images = [(files[row], found.frames[row]) if found.frames else files[row] for row in rows.tolist()]
    numbers = [found.table.numbers[row] for row in rows.tolist()]
    merged = merge_rows(images, found.beside(rows), labels.label, labels.classes, options.repeated, what, numbers)
    kept = rows[merged.rows]
    domain_names, domain = _domains(found.domains, kept, what)
    frames = [found.frames[row] for row in kept.tolist()] if found.frames else None
    named_files = [files[row] for row in kept.tolist()]
    listing = list_images(path.parent, named_files, options, what, frames)
    split = None if found.split is None else found.split[kept]
    group, said = _find_groups(found, listing, kept, split, len(labels.classes), options, what)
    contrary = say_contrary(named_files, split, merged.label, labels.classes, options)
    account = _account(found.files, rows, merged, listing, lookup.unnamed(files))
    if account.left_out:
        _log.warning("%s: %s", what, account)
    return Dataset(
        name=name,
        task=named.task,
        classes=labels.classes,
        images=listing.images,
        label=merged.label[listing.place],
        split=None if split is None else split[listing.place],
        domain=domain[listing.place],
        group=group,
        domains=domain_names,
        label_columns=named.label_columns,
        account=account,
        notes=(*found.notes, *named.notes, *named.classes.notes, *contrary, *listing.notes, *said),
        excluded=named.classes.excluded,
        reading=record_reading(
            options,
            file_column=None if found.file_column == FILE else found.file_column,
            rename_classes=tuple(named.classes.renamed.items()),
        ),
    )


def _find_groups(
    found: Roles,
    listing: Listing,
    rows: npt.NDArray[np.int64],
    split: npt.NDArray[np.int8] | None,
    classes: int,
    options: DatasetOptions,
    what: str,
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the patient of each image, (M,) int64, -1 none, and what to say of them."""
    given = None if split is None or not (split == 1).any() else split.tolist()
    column = None if found.groups is None else (found.group_column, [found.groups[row] for row in rows.tolist()])
    places = classes * (1 if split is None else len(set(split.tolist())))
    group, said = group_images(listing, options, what, split=given, places=places, column=column)
    if column is None and given is None and not options.unlabelled and options.group_column is None:
        said += say_patient_columns(found, options)
    return group, said


def _domains(
    values: Sequence[str] | None, rows: npt.NDArray[np.int64], what: str
) -> tuple[tuple[str, ...], npt.NDArray[np.int16]]:
    """Return the different domains of some rows, and (M,) which each has, -1 for an empty cell."""
    taken = [""] * len(rows) if values is None else [values[row] for row in rows.tolist()]
    names = class_order([value for value in set(taken) if value])
    if len(names) > _MOST_DOMAINS:
        raise DataError(f"{what} has {len(names)} domains; expected at most {_MOST_DOMAINS}: is --domain-column right?")
    number = {name: index for index, name in enumerate(names)} | {"": -1}
    return names, np.array([number[value] for value in taken], np.int16)


def _account(
    files: Sequence[str],
    rows: npt.NDArray[np.int64],
    merged: Merged,
    listing: Listing,
    unnamed: Mapping[str, Sequence[str]],
) -> Account:
    """Account for the rows, and for the files under the folders of images that no row names."""
    dropped = np.setdiff1d(np.arange(len(files)), rows).tolist()
    parts = {
        CLASS_LEFT_OUT: tuple(files[row] for row in dropped),
        _TOGETHER: tuple(files[row] for row in rows[merged.gone].tolist()),
        **{reason: tuple(names) for reason, names in listing.left.items()},
    }
    left = {reason: names for reason, names in parts.items() if names}
    used = len(np.unique(listing.place))
    beside = {reason: tuple(names) for reason, names in unnamed.items()}
    return Account(unit="rows", found=len(files), used=used, left=left, beside=beside)
