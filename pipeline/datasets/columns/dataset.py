"""What every kind of dataset becomes: images that can be read one by one, and columns beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from ....cache.errors import DataError
from ....cache.keys import KeySecret
from ...views.preprocessing import Intensity
from .account import Account

Task = Literal["multiclass", "multilabel"]
Window = tuple[float, float]  # centre and width
Repeated = Literal["first", "any", "majority", "refuse"]
SPLITS = ("train", "val", "test")
AXES = ("sagittal", "coronal", "axial")  # across which a volume is cut, in the order of RAS
UNKNOWN_CLASS = -1  # in a multi-class label
UNKNOWN_BIT = 255  # in a multi-label row
UNLABELLED = ("unlabelled",)  # the classes of images that never had labels: a cache has one name at least
UNREADABLE = "unreadable file"  # why an image has not even a key

# Hashing releases the interpreter lock, and files on a network share wait more than they compute.
_KEY_THREADS = 8
_KEYS_AT_ONCE = 64
_MOST_LISTED = 20
_SIZES_READ = 32


class Place(NamedTuple):
    """Where an image is, for tables that machines join.

    Attributes
    ----------
    file : as the folder or the table names it; of arrays, None
    frame : its number in a file of several, counted from 1
    array, row : of arrays, the name of one and the row in it, counted from 0
    """

    file: str | None = None
    frame: int | None = None
    array: str | None = None
    row: int | None = None


class Deep(NamedTuple):
    """The values of an image of more than 8 bits, for which nobody has chosen black and white.

    Attributes
    ----------
    values : of any shape; those that pad an image are left out
    declared : what is black and white by what the file says; None where its values fit nothing that it could mean
    windowless : ``DICOM`` or ``NIfTI``, whose values may be on any scale, where the file has no window
    """

    values: npt.NDArray[Any]
    declared: tuple[float, float] | None
    windowless: str | None = None


class Images(Protocol):
    """Images by row number. Opening one is cheap; nothing is decoded before `read`."""

    def __len__(self) -> int: ...

    def key(self, row: int) -> bytes:
        """Return the 16-byte content key of an image; only DICOM has to be decoded for it."""
        ...

    def remembering(self) -> AbstractContextManager[Images]:
        """Return a context with the same images, which read for a key what they have not read before."""
        ...

    def read(self, row: int) -> npt.NDArray[Any]:
        """Decode an image to (H, W, C), C 1 or 3: uint8, or float32 in 0…255 for deeper images.

        Raises
        ------
        DataError
            The image cannot be decoded; the message names it.
        """
        ...

    def deep(self, row: int) -> Deep | None:
        """Return the values of an image of more than 8 bits before they are scaled.

        None where it has no more, or where the file or the user has chosen which are black and white.
        """
        ...

    def with_intensity(self, intensity: Intensity) -> Images:
        """Return the same images, scaled otherwise."""
        ...

    def describe(self, row: int) -> str:
        """Name an image for a message, for instance ``file 'a/b.png'``."""
        ...

    def locate(self, row: int) -> Place:
        """Say where an image is."""
        ...


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """How to read a dataset; every command that takes a DATASET has these as options.

    Attributes
    ----------
    key_secret : the lab's secret by which keys are keyed, None = plain keys
    unlabelled : as images alone: whatever labels and splits there are do not count, and all rows are of train
    intensity : ``auto`` = ``declared``, unless a sample says better; see `preprocessing.Intensity`
    several_labels : rows of 0/1 are several labels, even where each has exactly one 1
    known_classes : classes that the cache beside it was made of, left out or not: `exclude_classes` may name one
        that no image here has
    file_column : of a table, the column of files; None = ``file``, or the only one whose cells are files
    image_folders : folders under which the files of a table are looked for
    label_separator : what parts the labels in one cell; None = a cell is one class
    one_hot : `label_columns` are the classes, one an image
    blank, uncertain : what empty cells and -1 mean in 0/1 columns: ``0``, ``1`` or ``unknown``; None = unknown, or
        refused where a program has written the table
    repeated : whose label counts where rows of one image differ
    unknown_labels, rename_classes : classes that mean "unknown", and pairs of what is read and what it is
    accept_classes : classes are as they stand, however they look
    min_class_images, other_class : classes of fewer images are left out, or put together as this class
    split_names : pairs of what a split is called and which of `SPLITS` it is
    split_lists : pairs of one of `SPLITS` and the path of a list of names that are of it
    val_table, test_table : more tables, whose rows are of val and test
    class_level : which folder below the dataset names the class, counted from 1; None = by the names of folders
    class_pattern, group_pattern : regular expressions that find the class and the patient in a path
    skip_localizers : scouts, by which a scan is planned, are left out
    slice_axis : across which axis volumes are cut into images; None = axial
    slice_step, middle_slices : every how many slices one is an image, and how many of these in the middle; None = all
    keep_missing : files of a table that are not there stay rows, which cannot be read, where most are there
    """

    label_column: str | None = None
    label_columns: tuple[str, ...] = ()
    split_column: str | None = None
    domain_column: str | None = None
    group_column: str | None = None
    exclude_classes: tuple[str, ...] = ()
    intensity: Intensity = "auto"
    window: Window | None = None
    key_secret: KeySecret | None = None
    unlabelled: bool = False
    several_labels: bool = False
    known_classes: tuple[str, ...] = ()
    file_column: str | None = None
    image_folders: tuple[str, ...] = ()
    label_separator: str | None = None
    one_hot: bool = False
    blank: str | None = None
    uncertain: str | None = None
    repeated: Repeated = "refuse"
    unknown_labels: tuple[str, ...] = ()
    rename_classes: tuple[tuple[str, str], ...] = ()
    accept_classes: bool = False
    min_class_images: int | None = None
    other_class: str | None = None
    split_names: tuple[tuple[str, str], ...] = ()
    split_lists: tuple[tuple[str, str], ...] = ()
    val_table: str | None = None
    test_table: str | None = None
    class_level: int | None = None
    class_pattern: str | None = None
    group_pattern: str | None = None
    skip_localizers: bool = False
    slice_axis: str | None = None
    slice_step: int | None = None
    middle_slices: int | None = None
    keep_missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset in its own order: row i is image i with its label, split, domain and group.

    Attributes
    ----------
    label : (N,) int32 class index, -1 unknown; or (N, L) uint8 of 0/1, 255 unknown
    split : (N,) int8 index into `SPLITS`, or None where the dataset has no splits
    domain : (N,) int16 index into `domains`, -1 none
    group : (N,) int64 one number a patient, -1 none; the numbers mean nothing beyond equality
    label_columns : columns of the table that the labels were read from; empty for other kinds
    secret : what the keys are keyed with, None = they are plain
    account : what was found where it lies, and what became of it; None where nothing can be left out
    notes : sentences on what was guessed or looks odd
    reading : options that decide what a row and a label are, as a cache records them; defaults are left out
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    images: Images
    label: npt.NDArray[Any]
    split: npt.NDArray[np.int8] | None
    domain: npt.NDArray[np.int16]
    group: npt.NDArray[np.int64]
    domains: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    label_columns: tuple[str, ...] = ()
    secret: KeySecret | None = None
    account: Account | None = None
    notes: tuple[str, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def key(self, row: int) -> bytes:
        """Return the content key of an image, keyed where there is a secret."""
        plain = self.images.key(row)
        return plain if self.secret is None else self.secret.key(plain)

    @property
    def unlabelled(self) -> bool:
        """Whether these are images alone."""
        return self.task == "multiclass" and self.classes == UNLABELLED

    def without_labels(self) -> Dataset:
        """Return the images alone, all of them in train."""
        return replace(
            self,
            task="multiclass",
            classes=UNLABELLED,
            label=np.full(len(self), UNKNOWN_CLASS, np.int32),
            split=np.zeros(len(self), np.int8),
            label_columns=(),
        )

    def keys(self) -> npt.NDArray[np.uint8]:
        """Return the content keys of all images, (N, 16) uint8: one pass over their bytes.

        Raises
        ------
        DataError
            Images cannot be read; all of them are counted, the first twenty named.
        """
        keys, bad = self.find_keys()
        if bad:
            self.refuse(bad)
        return keys

    def refuse(self, bad: Mapping[int, DataError]) -> NoReturn:
        """Raise the DataError that counts images which cannot be read, and names the first twenty."""
        errors = list(bad.values())
        listed = "\n  ".join(map(str, errors[:_MOST_LISTED])) + ("\n  …" if len(bad) > _MOST_LISTED else "")
        raise DataError(
            f"{len(bad)} of {len(self)} images of dataset '{self.name}' cannot be read; mend or remove "
            f"them:\n  {listed}"
        ) from errors[0]

    def find_keys(self) -> tuple[npt.NDArray[np.uint8], dict[int, DataError]]:
        """Return the content keys of all images, (N, 16) uint8, and why the rows without one have none.

        The key of a row that cannot be read is all zeros, which no image's is.
        """
        # By parts: to hand over an image of 28 px costs twenty times what it costs to hash it.
        parts = [range(start, min(start + _KEYS_AT_ONCE, len(self))) for start in range(0, len(self), _KEYS_AT_ONCE)]
        with self.images.remembering() as images, ThreadPoolExecutor(_KEY_THREADS) as pool:
            known = replace(self, images=images)
            several = pool.map(lambda rows: [known._key_or_error(row) for row in rows], parts)
            found = [key for part in several for key in part]
        keys = b"".join(key if isinstance(key, bytes) else bytes(16) for key in found)
        bad = {row: key for row, key in enumerate(found) if isinstance(key, DataError)}
        return np.frombuffer(keys, np.uint8).reshape(-1, 16), bad

    def _key_or_error(self, row: int) -> bytes | DataError:
        try:
            return self.key(row)
        except DataError as error:
            return error

    def take(self, rows: npt.NDArray[np.int64]) -> Dataset:
        """Return the dataset of these rows, in this order."""
        return replace(
            self,
            images=Selection(self.images, rows),
            label=self.label[rows],
            split=None if self.split is None else self.split[rows],
            domain=self.domain[rows],
            group=self.group[rows],
        )


@dataclass(frozen=True)
class Selection:
    """Some rows of other images."""

    images: Images
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, row: int) -> bytes:
        return self.images.key(int(self.rows[row]))

    @contextmanager
    def remembering(self) -> Iterator[Images]:
        with self.images.remembering() as images:
            yield replace(self, images=images)

    def read(self, row: int) -> npt.NDArray[Any]:
        return self.images.read(int(self.rows[row]))

    def deep(self, row: int) -> Deep | None:
        return self.images.deep(int(self.rows[row]))

    def with_intensity(self, intensity: Intensity) -> Selection:
        return replace(self, images=self.images.with_intensity(intensity))

    def describe(self, row: int) -> str:
        return self.images.describe(int(self.rows[row]))

    def locate(self, row: int) -> Place:
        return self.images.locate(int(self.rows[row]))


def typical_side(images: Images, rows: npt.NDArray[np.int64]) -> int:
    """Return the median longer side, in pixels, of the first few of some rows that can be decoded; 0 if none can."""
    sides = []
    for row in rows[:_SIZES_READ].tolist():
        with suppress(DataError):  # what is to become of it is decided elsewhere
            sides.append(max(images.read(row).shape[:2]))
    return int(np.median(sides)) if sides else 0


def class_order(names: Sequence[str]) -> tuple[str, ...]:
    """Sort class names as a person would: by number where all are numbers, else by text."""
    unique = set(names)
    if all(name.removeprefix("-").isdecimal() for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))  # "1" and "01" are two names
    return tuple(sorted(unique))
