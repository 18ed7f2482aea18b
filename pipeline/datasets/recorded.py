"""Options of a dataset that is opened beside its cache: what the user leaves out, the cache knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...cache.errors import CacheMismatch
from ...cache.format.manifest import Manifest
from ...cache.keys import match_secret
from ...cache.text import plural, quoted
from ..views.preprocessing import parse_window
from .columns.dataset import UNLABELLED, DatasetOptions
from .columns.reading import with_reading
from .opening import dataset_kind

__all__ = ["recorded_options"]


def recorded_options(options: DatasetOptions, manifest: Manifest, spec: str) -> DatasetOptions:
    """Fill in what a cache records: label columns, excluded classes, how deep images are scaled and DICOM is shown.

    The secret that keys are keyed with it does not record, but whether it is the right one.

    Parameters
    ----------
    options : what the user asked for, which goes first
    spec : what the user calls the dataset; only a table has columns

    Raises
    ------
    CacheMismatch
        The label columns asked for are of another task than the cache's, or the secret of its keys is missing or
        another one.
    TeacherError
        The cache records a window that is none.
    """
    secret = match_secret(options.key_secret, manifest.key_check, f"the cache of '{manifest.dataset.get('name')}'")
    options = replace(options, key_secret=secret)
    if manifest.task == "multiclass" and manifest.classes == UNLABELLED:
        options = replace(options, unlabelled=True)
    elif dataset_kind(spec) == "table":
        options = _with_columns(options, manifest)
    options = with_reading(options, manifest.dataset.get("reading", {}), dataset_kind(spec))
    options = replace(
        options, several_labels=manifest.task == "multilabel", keep_missing=bool(manifest.skipped.without_key)
    )
    known = (*manifest.classes, *manifest.dataset.get("excluded_classes", ()))
    # The dataset may have classes that the cache never knew, and may lack some that it knows: either can be left out.
    options = replace(options, known_classes=known)
    if not options.exclude_classes:
        options = replace(options, exclude_classes=tuple(manifest.dataset.get("excluded_classes", ())))
    if options.intensity == DatasetOptions.intensity and options.window is None:
        options = replace(options, intensity=manifest.preprocessing.get("intensity", "declared"))
        if dataset_kind(spec) in ("table", "folder", "npz", "hdf5"):
            options = replace(options, window=parse_window(manifest.preprocessing.get("window")))
    return options


def _with_columns(options: DatasetOptions, manifest: Manifest) -> DatasetOptions:
    recorded = tuple(manifest.dataset.get("label_columns", ()))
    reading = manifest.dataset.get("reading", {})
    if manifest.task == "multilabel" and "label_separator" in reading:
        return options if options.label_columns or options.label_column else replace(options, label_column=recorded[0])
    if manifest.task == "multiclass" and reading.get("one_hot"):
        return options if options.label_columns or options.label_column else replace(options, label_columns=recorded)
    if manifest.task == "multilabel":
        if options.label_column is not None:
            raise CacheMismatch(
                f"--label-column {options.label_column} names a column of classes, but the cache is multi-label, "
                f"{_made_from(recorded)}; leave --label-column out, or name 0/1 columns with --label-columns."
            )
        return options if options.label_columns else replace(options, label_columns=manifest.classes)
    if options.label_columns:
        raise CacheMismatch(
            f"--label-columns {','.join(options.label_columns)} names 0/1 columns, but the cache is multi-class, "
            f"{_made_from(recorded)}; leave --label-columns out, or name a column of classes with --label-column."
        )
    return replace(options, label_column=recorded[0]) if recorded and options.label_column is None else options


def _made_from(columns: Sequence[str]) -> str:
    return f"made from the {plural(len(columns), 'column')} {quoted(columns)}" if columns else "not made from a table"
