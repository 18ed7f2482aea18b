"""Images sorted into folders: ``SPLIT/CLASS/file`` or ``CLASS/file``, or at any depth by what the options say."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from ....cache.errors import DataError
from ....cache.text import plural, quoted
from ..columns.account import CLASS_LEFT_OUT, Account
from ..columns.dataset import Dataset, DatasetOptions
from ..columns.labels import Classes, no_labels, read_classes
from ..columns.reading import record_reading
from ..columns.splits import check_split_names, find_split
from ..pixels.files import FORMATS
from ..pixels.listing import Listing, list_images
from .grouping import group_images
from .hdf5 import is_hdf5
from .placing import DEEPER, LOOSE, Placed, place_images
from .tree import Tree, walk

__all__ = ["open_folder"]

# A folder may hold a dataset of another form rather than be one.
_DATASETS = (".npz", ".csv", ".tsv")

_log = logging.getLogger(__name__)


def open_folder(path: Path, name: str, options: DatasetOptions, classes: Sequence[str] | None = None) -> Dataset:
    """List a folder of images; none is opened, but DICOM headers are read for the number of frames and the patient.

    Where folders at the top are called train, val or test (or so) and hold folders, they are the splits, and the
    folders in them are the classes; else the folders at the top are the classes. Every file is accounted for: what is
    no image of a class is left out with a warning, and a class of which nothing can be read is refused.

    Raises
    ------
    DataError
        There is no image, fewer than two classes have any, or folders or their names are most likely no classes.
    """
    what = f"folder '{path}'"
    tree = walk(path, what)
    if classes is None and options.class_pattern is None:
        folders = {part for folder in tree.folders for part in folder.split("/")}
        check_split_names(dict(options.split_names), folders, what)
    images, left = tree.sort_out(tree.files)
    placed = place_images(tree, images, left, options, what)
    left = {**left, **placed.left}
    if not placed.names:
        raise DataError(_nothing_found(tree, left, what))
    if options.unlabelled:
        read = Classes(no_labels(len(placed.names)), options.exclude_classes, {})
    else:
        empty = [*(PurePosixPath(folder).name for folder in placed.empty), *_folders_of_classes(tree)]
        read = read_classes(placed.classes, options, classes, what, source="folders", empty=empty)
    labels = read.labels
    listing = list_images(path, [placed.names[row] for row in labels.rows], options, what)
    account = _account(tree, placed, left, listing, labels.rows)
    notes = [
        *placed.notes,
        *read.notes,
        *(f"folder '{folder}' has no image and is no class" for folder in placed.empty),
    ]
    splits = np.array(placed.split, np.int8)
    given = None if splits.max(initial=-1) < 0 else splits[labels.rows].tolist()
    places = len(set(zip(placed.classes, placed.split, strict=True)))
    group, said = group_images(listing, options, what, split=given, places=places)
    if account.left_out:
        _log.warning("%s: %s", what, account)
    rows = labels.rows[listing.place]
    return Dataset(
        name=name,
        task="multiclass",
        classes=labels.classes,
        images=listing.images,
        label=labels.label[listing.place],
        split=None if given is None else splits[rows],
        domain=np.full(len(rows), -1, np.int16),
        group=group,
        excluded=read.excluded,
        account=account,
        notes=(*notes, *listing.notes, *said),
        reading=record_reading(options, rename_classes=tuple(read.renamed.items())),
    )


def _folders_of_classes(tree: Tree) -> list[str]:
    """Return the names of all folders: one that has no image may be left out all the same."""
    return [PurePosixPath(folder).name for folder in tree.folders] + [PurePosixPath(name).name for name in tree.nowhere]


def _account(
    tree: Tree, placed: Placed, left: Mapping[str, Iterable[str]], listing: Listing, rows: np.ndarray
) -> Account:
    used = set(listing.images.names)
    listed = {placed.names[row] for row in rows.tolist()}
    dropped = [name for name in placed.names if name not in listed]
    parts: dict[str, tuple[str, ...]] = {reason: tuple(names) for reason, names in left.items() if names}
    if dropped:
        parts[CLASS_LEFT_OUT] = tuple(dropped)
    for reason, names in listing.left.items():
        parts[reason] = tuple(names)
    return Account(unit="files", found=len(tree.files), used=len(used), left=parts, system=tree.system)


def _nothing_found(tree: Tree, left: Mapping[str, Sequence[str]], what: str) -> str:
    path = tree.path
    top = [name for name in tree.files if "/" not in name]
    other = sorted(name for name in top if PurePath(name).suffix.lower() in _DATASETS or is_hdf5(str(path / name)))
    if other:
        return f"{what} has no image in folders of classes; did you mean '{path / other[0]}', which lies in it?"
    backslashes = [name for name in top if "\\" in name]
    if backslashes:
        return (
            f"{what} has no folder, and {len(backslashes)} files have backslashes in their names, '{backslashes[0]}' "
            "for one, as some programs for Windows pack folders; expected SPLIT/CLASS/file or CLASS/file: unpack it "
            "with another program, or take the class from the name with --class-pattern."
        )
    loose = [name for name in left.get(LOOSE, ()) if "/" not in name or find_split(name.split("/")[0], {}) >= 0]
    if loose:
        return (
            f"{what} has {len(loose)} {plural(len(loose), 'image')} but no folder that says of which class; expected "
            "SPLIT/CLASS/file or CLASS/file: sort them so, name them in a .csv table, or take the class from the path "
            "with --class-pattern."
        )
    expected = f"expected SPLIT/CLASS/file or CLASS/file of the kinds {', '.join(sorted(FORMATS))}"
    deeper = left.get(DEEPER, ())
    if deeper:
        return f"{what} has no image; {expected}; {_too_deep(deeper)}."
    others = [name for names in left.values() for name in names]
    if others:
        kinds = sorted({PurePath(file).suffix or "no suffix" for file in others})
        return f"{what} has no image, only {len(others)} files of other kinds ({quoted(kinds)}); {expected}."
    return f"{what} has no image; {expected}."


def _too_deep(deeper: Sequence[str]) -> str:
    """Say of images that lie deeper than a class's folder which level is worth a try."""
    folders = sorted({name.rpartition("/")[0] for name in deeper})
    levels = []
    for level in range(1, 1 + max(name.count("/") for name in deeper)):
        found = Counter(name.split("/")[level - 1] for name in deeper if name.count("/") >= level)
        levels.append(f"--class-level {level} ({quoted(sorted(found), 3)})")
    return (
        f"{len(folders)} folders lie too deep to be looked into, for instance '{folders[0]}': say which folder is the "
        f"class, {', '.join(levels)}"
    )
