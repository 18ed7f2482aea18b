"""Opening a dataset by what the user calls it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...cache.errors import DataError
from ...cache.format.forms import SUFFIXES
from ...cache.text import plain
from .columns.dataset import Dataset, DatasetOptions
from .columns.patients import NO_GROUP
from .kinds.tables.text import is_table
from .pixels.file_kinds import VOLUMES, suffix_of

__all__ = ["dataset_kind", "dataset_name", "open_dataset"]

_FORMS = (
    "medmnist:NAME[@SIZE], a .npz file, a folder of SPLIT/CLASS/file or CLASS/file, a .csv table, a file …_x.h5 beside "
    "…_y.h5, or phantom"
)
# What is to be made of files that are no datasets, by suffix.
_INSTEAD = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save its sheet as CSV UTF-8"),
    **dict.fromkeys((".txt", ".dat"), "a table in it is read once it is called .csv or .tsv"),
    **dict.fromkeys(VOLUMES, "put volumes into a folder of CLASS/file, or name them in a .csv table"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"), "unpack it first"),
    **dict.fromkeys((".npy", ".mat", ".pt", ".pkl"), "save images and labels together with numpy.savez"),
    **dict.fromkeys((".parquet", ".json", ".jsonl"), "write files and labels into a .csv table"),
}


# What has no columns, in words.
_WITHOUT_COLUMNS = {
    "medmnist": "a MedMNIST set",
    "npz": "an .npz file",
    "hdf5": "a pair of HDF5 files",
    "folder": "a folder whose own folders are the classes",
    "phantom": "a set that medal draws",
}
# Options of tables; of folders; and of files, in a folder or named by a table.
_OF_COLUMNS = (
    "label_column",
    "label_columns",
    "split_column",
    "domain_column",
    "file_column",
    "image_folders",
    "label_separator",
    "one_hot",
    "blank",
    "uncertain",
    "split_lists",
    "val_table",
    "test_table",
)
_OF_FOLDERS = ("class_level", "class_pattern")
_OF_FILES = ("group_pattern", "skip_localizers", "split_names", "slice_axis", "slice_step", "middle_slices")
# Options of all that has classes of its own.
_OF_CLASSES = ("unknown_labels", "rename_classes", "accept_classes", "min_class_images", "other_class")
_ARRAYS = ("npz", "hdf5")
_FLAGS = {
    "image_folders": "--images",
    "split_lists": "--split-list",
    "unknown_labels": "--unknown-label",
    "rename_classes": "--rename-class",
    "other_class": "--other",
}

Classes = Sequence[str] | None


def open_dataset(spec: str, options: DatasetOptions | None = None, classes: Classes = None) -> Dataset:
    """Open a dataset by what the user calls it. Nothing is decoded.

    Parameters
    ----------
    spec : ``medmnist:NAME[@SIZE]``, a ``.npz`` file, a folder, a ``.csv`` table, a ``…_x.h5`` file, or ``phantom``
    classes : class names in the order wanted, as a cache has them; None = the dataset's own

    Raises
    ------
    DataError
        It is none of these, cannot be read, or has a class outside `classes`.
    """
    spec = str(spec)
    options = options or DatasetOptions()
    kind = dataset_kind(spec)
    if Path(spec).suffix in SUFFIXES and (kind is None or Path(spec, "zarr.json").is_file()):
        raise DataError(
            f"dataset '{spec}' has the name of a cache; expected {_FORMS}: stage one takes DATASET before OUT, stage "
            "two CACHE before DATASET."
        )
    if kind is None:
        raise DataError(_unknown(spec))
    _refuse_unheard(options, spec, kind)
    _check_patterns(options)
    _check_window(options, spec, kind)
    _check_unlabelled(options)
    dataset = _open(kind, spec, options, classes)
    dataset = dataset.without_labels() if options.unlabelled else dataset
    _check_names(dataset)
    return dataset if options.key_secret is None else replace(dataset, secret=options.key_secret)


def dataset_name(spec: str) -> str:
    """Return a short name for a dataset: the file's stem, or the folder of a table, or what medmnist calls it.

    What a manifest, which is UTF-8 and is shown to people, cannot hold is escaped: nothing is found by this name.
    """
    return plain(_short_name(str(spec)))


def _short_name(spec: str) -> str:
    kind = dataset_kind(spec)
    if kind == "medmnist":
        name, _, size = spec.partition(":")[2].lower().partition("@")
        return f"{name}-{size}" if size not in ("", "28") else name
    path = Path(spec)
    if kind == "npz":
        return path.stem
    if kind == "hdf5":
        from .kinds.hdf5 import hdf5_name

        return hdf5_name(path)
    if kind == "table":
        path = path.parent
    return spec if kind == "phantom" else path.resolve().name or "dataset"


def dataset_kind(spec: str) -> str | None:
    """Tell what form a spec has without opening it: medmnist, npz, hdf5, table, folder or phantom; None = none."""
    if spec.lower().startswith("medmnist:"):
        return "medmnist"
    if spec == "phantom":
        return "phantom"
    kind = "npz" if spec.lower().endswith(".npz") else "table" if is_table(spec) else None
    if spec.lower().endswith((".h5", ".hdf5")):
        from .kinds.hdf5 import is_hdf5

        kind = "hdf5" if is_hdf5(spec) else None
    if kind is not None and not Path(spec).is_dir():
        return kind
    return "folder" if spec and Path(spec).is_dir() else None


def _unknown(spec: str) -> str:
    from .kinds.medmnist import official_names

    close = difflib.get_close_matches(spec.lower(), official_names(), n=1, cutoff=0.6)
    hint = f" Did you mean medmnist:{close[0]}?" if close else ""
    there = "is a file of another kind" if Path(spec).exists() else "is not there"
    instead = _INSTEAD.get(suffix_of(spec))
    if instead is not None and Path(spec).is_file():
        return f"dataset '{spec}' {there}; expected {_FORMS}: {instead}."
    return f"dataset '{spec}' {there}; expected {_FORMS}.{hint}"


def _refuse_unheard(options: DatasetOptions, spec: str, kind: str) -> None:
    """Refuse options that would go unheard."""
    if kind != "table":
        heard = kind in _ARRAYS or (options.group_column == NO_GROUP and kind == "folder")
        group = None if heard else options.group_column
        repeated = None if options.repeated == DatasetOptions.repeated else options.repeated
        asked = {_flag(name): getattr(options, name) for name in _OF_COLUMNS}
        asked |= {"--group-column": group, "--repeated": repeated}
        unheard = [option for option, value in asked.items() if value]
        if unheard:
            raise DataError(
                f"dataset '{spec}' is {_WITHOUT_COLUMNS[kind]} and has no columns for {', '.join(unheard)}; leave "
                f"{_those(unheard)} out, or give a .csv table."
            )
    files = ("table", "folder")
    names = [*(() if kind == "folder" else _OF_FOLDERS), *(() if kind in files else _OF_FILES)]
    names += () if kind in (*files, *_ARRAYS) else _OF_CLASSES
    unheard = [_flag(name) for name in names if getattr(options, name) not in (None, (), False)]
    if unheard:
        what = "a table" if kind == "table" else _WITHOUT_COLUMNS[kind]
        raise DataError(
            f"dataset '{spec}' is {what}, for which {', '.join(unheard)} would go unheard; leave {_those(unheard)} out."
        )


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def _those(options: Sequence[str]) -> str:
    return "that option" if len(options) == 1 else "these options"


def _check_patterns(options: DatasetOptions) -> None:
    for name in ("class_pattern", "group_pattern"):
        pattern = getattr(options, name)
        try:
            re.compile(pattern or "")
        except re.error as exc:
            raise DataError(f"{_flag(name)} '{pattern}' is not a regular expression: {exc}.") from exc


def _check_window(options: DatasetOptions, spec: str, kind: str) -> None:
    """Refuse a window that would go unheard; files and arrays look for images of more than 8 bits themselves."""
    if options.window is None:
        return
    if options.intensity not in ("auto", "declared"):
        raise DataError(
            f"--window and --intensity {options.intensity} were both given; expected one: the same window for all "
            "images, their own minimum and maximum for each, or the values that are black and white."
        )
    if kind not in ("table", "folder", *_ARRAYS):
        raise DataError(
            f"dataset '{spec}' is {_WITHOUT_COLUMNS[kind]} and has no image of more than 8 bits for --window; leave "
            "that option out."
        )


def _check_unlabelled(options: DatasetOptions) -> None:
    asked = {
        "--label-column": options.label_column,
        "--label-columns": options.label_columns,
        "--split-column": options.split_column,
        "--exclude-class": options.exclude_classes,
    }
    unheard = [option for option, value in asked.items() if value]
    if options.unlabelled and unheard:
        raise DataError(
            f"--unlabelled reads images alone, and {', '.join(unheard)} would go unheard; leave one or the other out."
        )


def _check_names(dataset: Dataset) -> None:
    """Refuse names of classes and domains that a manifest, which is UTF-8 and is shown to people, cannot hold."""
    for what, names in (("class", dataset.classes), ("domain", dataset.domains)):
        for name in names:
            if not name.isprintable() or not name.strip():
                raise DataError(
                    f"dataset '{dataset.name}' has a {what} named '{plain(name)}'; expected a name of printable "
                    "characters: rename its folder or change the table."
                )


def _open(kind: str, spec: str, options: DatasetOptions, classes: Classes) -> Dataset:
    """Open a dataset of a kind, whose module is imported only now."""
    name, path = dataset_name(spec), Path(spec)
    if kind == "medmnist":
        from .kinds.medmnist import open_medmnist

        return open_medmnist(spec, name, options, classes)
    if kind == "npz":
        from .kinds.npz import open_npz

        return open_npz(path, name, options, classes)
    if kind == "hdf5":
        from .kinds.hdf5 import open_hdf5

        return open_hdf5(path, name, options, classes)
    if kind == "table":
        from .kinds.tables.table import open_table

        return open_table(path, name, options, classes)
    if kind == "folder":
        from .kinds.folder import open_folder

        return open_folder(path, name, options, classes)
    from .kinds.phantom import open_phantom

    return open_phantom(options, classes)
