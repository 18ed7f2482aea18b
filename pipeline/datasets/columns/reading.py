"""How a dataset was read, where that decides what a row and a label are: a cache records it, stage two reads alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ....cache.errors import CacheMismatch
from .dataset import AXES, DatasetOptions

__all__ = ["as_run_read", "record_reading", "record_run", "with_reading", "with_slices"]

_TABLE, _FOLDER, _FILES = ("table",), ("folder",), ("table", "folder")
_CLASSES = ("table", "folder", "npz", "hdf5")
# Options that are recorded, for which kinds of datasets, and what they can be. Paths are not recorded, nor what a cache
# holds itself: classes left out, splits, patients.
_KINDS: dict[str, tuple[tuple[str, ...], type | tuple[str, ...]]] = {
    "file_column": (_TABLE, str),
    "label_separator": (_TABLE, str),
    "one_hot": (_TABLE, bool),
    "blank": (_TABLE, ("0", "unknown")),
    "uncertain": (_TABLE, ("0", "1", "unknown")),
    "repeated": (_TABLE, ("first", "any", "majority")),
    "unknown_labels": (_CLASSES, tuple),
    "rename_classes": (_CLASSES, tuple),
    "split_names": (_FILES, tuple),
    "class_level": (_FOLDER, int),
    "class_pattern": (_FOLDER, str),
    "skip_localizers": (_FILES, bool),
    "slice_axis": (_FILES, AXES),
    "slice_step": (_FILES, int),
    "middle_slices": (_FILES, int),
}
_SLICES = ("slice_axis", "slice_step", "middle_slices")
_DEFAULTS = {one.name: one.default for one in fields(DatasetOptions) if one.name in _KINDS}


def record_reading(options: DatasetOptions, **found: Any) -> dict[str, Any]:
    """Return what options say of rows and labels, defaults left out, as JSON holds it.

    Parameters
    ----------
    found : values that were found out where the options leave them open
    """
    values = {name: getattr(options, name) for name in _KINDS} | found
    return {name: _plain(value) for name, value in values.items() if value != _DEFAULTS[name]}


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def with_reading(options: DatasetOptions, recorded: Mapping[str, Any], kind: str | None) -> DatasetOptions:
    """Fill in what a cache records, where the user says nothing else.

    Parameters
    ----------
    kind : of the dataset, as `dataset_kind` tells it: what is of tables alone means nothing to a folder

    Raises
    ------
    CacheMismatch
        A value is none that this option can have.
    """
    taken = {}
    for name, value in recorded.items():
        if name not in _KINDS or kind not in _KINDS[name][0] or getattr(options, name) != _DEFAULTS[name]:
            continue
        if not _is_valid(value, _KINDS[name][1]):
            raise CacheMismatch(
                f"The cache records {value!r} for '{name}' of how its dataset was read, which is no value of it; give "
                "the option yourself, or make the cache anew."
            )
        taken[name] = _tuples(value)
    return replace(options, **taken)


def _is_valid(value: Any, kind: type | tuple[str, ...]) -> bool:
    if isinstance(kind, tuple):
        return value in kind
    if kind is tuple:
        return isinstance(value, list) and all(
            isinstance(part, str) or (isinstance(part, list) and list(map(type, part)) == [str, str]) for part in value
        )
    return type(value) is kind


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def with_slices(options: DatasetOptions, recorded: Mapping[str, Any]) -> DatasetOptions:
    """Fill in how volumes are cut, for images that are in no dataset."""
    return with_reading(options, {name: recorded[name] for name in _SLICES if name in recorded}, "folder")


_COLUMNS = "label_columns"


def record_run(options: DatasetOptions) -> dict[str, Any]:
    """Return what a run records of how its dataset was read, and its columns of labels; empty where all is usual."""
    reading = record_reading(options)
    columns = options.label_columns or ((options.label_column,) if options.label_column else ())
    return {**reading, _COLUMNS: list(columns)} if reading else {}


def as_run_read(
    options: DatasetOptions, recorded: Mapping[str, Any], kind: str | None, task: str, classes: tuple[str, ...]
) -> DatasetOptions:
    """Fill in how a run's dataset was read, for another that is shown to its student.

    Parameters
    ----------
    recorded : as `record_run` returns it
    kind : of the other dataset
    task, classes : the run's; the labels of a multi-label table are the columns of these names
    """
    options = with_reading(options, recorded, kind)
    if kind != "table" or options.label_columns or options.label_column:
        return options
    columns = tuple(map(str, recorded.get(_COLUMNS, ())))
    if options.label_separator is not None or (task == "multiclass" and not options.one_hot):
        return replace(options, label_column=columns[0]) if columns else options
    return replace(options, label_columns=columns if options.one_hot else classes)
