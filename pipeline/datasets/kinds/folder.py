"""Images sorted into folders: ``SPLIT/CLASS/file`` or ``CLASS/file``."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from ....cache.errors import DataError
from ..columns.dataset import SPLITS, Dataset, DatasetOptions, class_order
from ..columns.labels import label_classes, no_labels, quoted
from ..columns.splits import SPLIT_NAMES
from ..pixels.files import FORMATS, find_format, list_images

__all__ = ["open_folder"]

# A folder may hold a dataset of another form rather than be one.
_DATASETS = (".npz", ".csv")

_log = logging.getLogger(__name__)


class _ClassFolder(NamedTuple):
    split: int  # -1 where folders name no splits
    name: str
    path: str  # relative to the dataset, with forward slashes


def open_folder(path: Path, name: str, options: DatasetOptions, classes: Sequence[str] | None = None) -> Dataset:
    """List a folder of images; none is opened, but DICOM headers are read for the number of frames.

    Where all folders at the top are called train, val or test (or so), they are the splits, and the folders in them are
    the classes; else the folders at the top are the classes. Hidden files, files of other kinds, and folders inside a
    class's folder are left out; all but the hidden ones with a warning.

    Raises
    ------
    DataError
        There is no image, or fewer than two classes have any.
    """
    what = f"folder '{path}'"
    folders = _class_folders(path, what)
    if options.unlabelled:
        folders.append(_ClassFolder(-1, "", "."))  # images of no class may lie there
    names: list[str] = []
    split: list[int] = []
    class_names = class_order([folder.name for folder in folders])
    code: list[int] = []
    others: list[str] = []
    deeper: list[str] = []
    for folder in folders:
        entries = _entries(path / folder.path, what)
        if folder.path != ".":
            deeper += [f"{folder.path}/{entry.name}" for entry in entries if entry.is_dir()]
        files = [entry.name for entry in entries if entry.is_file()]
        images = sorted(file for file in files if find_format(path / folder.path / file))
        others += [f"{folder.path}/{file}" for file in sorted(set(files) - set(images))]
        names += [f"{folder.path}/{file}" for file in images]
        split += [folder.split] * len(images)
        code += [class_names.index(folder.name)] * len(images)
    if not names:
        raise DataError(_nothing_found(path, what, others, deeper))
    if others:
        _log.warning("%s: %d files that are no images are left out, for instance '%s'", what, len(others), min(others))
    if deeper:
        _log.warning(
            "%s: %d folders inside the classes' folders are not looked into, for instance '%s'; images in them are "
            "left out: put them into the class's own folder, or list them in a .csv table",
            what,
            len(deeper),
            min(deeper),
        )
    if options.unlabelled:
        labels = no_labels(len(names))
    else:
        labels = label_classes(
            class_names,
            np.array(code),
            exclude=options.exclude_classes,
            classes=classes,
            what=what,
            known=options.known_classes,
        )
    splits = np.array(split, np.int8)
    listing = list_images(path, [names[row] for row in labels.rows], options, what)
    rows = labels.rows[listing.place]
    return Dataset(
        name=name,
        task="multiclass",
        classes=labels.classes,
        images=listing.images,
        label=labels.label[listing.place],
        split=splits[rows] if splits[0] >= 0 else None,
        domain=np.full(len(rows), -1, np.int16),
        group=listing.group(np.full(len(labels.rows), -1, np.int64)),
        excluded=options.exclude_classes,
    )


def _class_folders(path: Path, what: str) -> list[_ClassFolder]:
    top = sorted(entry.name for entry in _entries(path, what) if entry.is_dir())
    if not top or any(name.lower() not in SPLIT_NAMES for name in top):
        return [_ClassFolder(-1, name, name) for name in top]
    return [
        _ClassFolder(SPLITS.index(SPLIT_NAMES[split.lower()]), name, f"{split}/{name}")
        for split in top
        for name in sorted(entry.name for entry in _entries(path / split, what) if entry.is_dir())
    ]


def _entries(path: Path, what: str) -> list[os.DirEntry[str]]:
    try:
        # scandir knows files from folders without asking for each: a hundred thousand take a moment.
        with os.scandir(path) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError as exc:
        raise DataError(f"{what} cannot be listed ('{path}': {exc.strerror}).") from exc


def _nothing_found(path: Path, what: str, others: Sequence[str], deeper: Sequence[str]) -> str:
    top = _entries(path, what)
    other = sorted(entry.name for entry in top if PurePath(entry.name).suffix.lower() in _DATASETS and entry.is_file())
    if other:
        return f"{what} has no image in folders of classes; did you mean '{path / other[0]}', which lies in it?"
    splits = [entry.path for entry in top if entry.name.lower() in SPLIT_NAMES and entry.is_dir()]
    entries = [entry for place in (path, *map(Path, splits)) for entry in _entries(place, what) if entry.is_file()]
    loose = sum(find_format(Path(entry.path)) is not None for entry in entries)
    if loose:
        return (
            f"{what} has {loose} image{'s' * (loose > 1)} but no folder that says of which class; expected "
            "SPLIT/CLASS/file or CLASS/file: sort them so, or name them in a .csv table."
        )
    expected = f"expected SPLIT/CLASS/file or CLASS/file of the kinds {', '.join(sorted(FORMATS))}"
    if deeper:
        # Most likely CLASS/PATIENT/file or CLASS/SPLIT/file: the images are there, one folder too deep.
        expected += f"; {len(deeper)} folders lie too deep to be looked into, for instance '{min(deeper)}'"
    if others:
        kinds = sorted({PurePath(file).suffix or "no suffix" for file in others})
        return f"{what} has no image, only {len(others)} files of other kinds ({quoted(kinds)}); {expected}."
    return f"{what} has no image; {expected}."
