"""What the cells of a table say of labels, in the one of their forms that the options name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .....cache.errors import DataError
from .....cache.text import quoted
from ...columns.bits import Bits, one_of, read_bits, split_labels
from ...columns.dataset import DatasetOptions, Task
from ...columns.labels import Classes, label_bits, no_labels, read_classes
from .text import Columns, Table, find_column, require

__all__ = ["Named", "read_labels"]

_LABEL = "label"


@dataclass(frozen=True)
class Named:
    """Labels of a table's rows, and what is to be kept of how they were read."""

    task: Task
    label_columns: tuple[str, ...]
    classes: Classes
    notes: tuple[str, ...] = ()


def read_labels(table: Table, options: DatasetOptions, classes: Sequence[str] | None, what: str) -> Named:
    """Read the labels of a table in the one of its forms that the options say.

    Raises
    ------
    DataError
        Columns are missing, options contradict each other, or cells mean nothing.
    """
    columns, numbers = table
    column = options.label_column or find_column(columns, _LABEL) or _LABEL
    if options.unlabelled:
        return Named("multiclass", (column,), Classes(no_labels(len(numbers)), options.exclude_classes, {}))
    several = _label_columns(columns, options, classes)
    require(columns, several or [column], what, "the labels (--label-column, --label-columns)")
    _check_forms(options, bool(several))
    if options.label_separator is not None:
        read = split_labels(columns[column], options.label_separator, options, classes, what)
        return _several_labels(read, [column], dict(options.rename_classes), options, classes, what)
    if not several:
        made = read_classes(columns[column], options, classes, what, source="column", numbers=numbers)
        return Named("multiclass", (column,), made)
    fresh = classes is None and not options.known_classes
    read = read_bits(columns, several, options, what, numbers, fresh=fresh)
    if options.one_hot:
        values = one_of(read, what, numbers)
        without = [name for name in several if name not in set(values)]
        made = read_classes(values, options, classes, what, source="column", numbers=numbers)
        notes = (f"no image is of {quoted(without)}: no classes",) if without else ()
        return Named("multiclass", tuple(several), made, notes)
    return _several_labels(read, several, {}, options, classes, what)


def _several_labels(
    read: Bits,
    columns: Sequence[str],
    renamed: Mapping[str, str],
    options: DatasetOptions,
    classes: Sequence[str] | None,
    what: str,
) -> Named:
    """Return labels of which an image may have several, without those that are left out or too rare."""
    excluded = list(options.exclude_classes)
    if options.min_class_images is not None and classes is None:
        counts = zip(read.names, (read.bits == 1).sum(0).tolist(), strict=True)
        excluded += [name for name, count in counts if count < options.min_class_images and name not in excluded]
    known = options.known_classes
    labels = label_bits(read.names, read.bits, exclude=excluded, classes=classes, what=what, known=known)
    return Named("multilabel", tuple(columns), Classes(labels, tuple(excluded), renamed), read.notes)


def _label_columns(columns: Columns, options: DatasetOptions, classes: Sequence[str] | None) -> list[str]:
    if options.label_columns and options.label_column:
        raise DataError(
            "--label-column and --label-columns were both given; expected one: classes, or several 0/1 labels."
        )
    if options.label_columns:
        if len(set(options.label_columns)) < len(options.label_columns):
            raise DataError(f"--label-columns names a column twice: {quoted(list(options.label_columns))}.")
        return list(options.label_columns)
    if (
        classes
        and options.label_column is None
        and find_column(columns, _LABEL) is None
        and set(classes) <= set(columns)
    ):
        return list(classes)
    return []


def _check_forms(options: DatasetOptions, several: bool) -> None:
    """Refuse options of labels that would go unheard."""
    asked = {
        "--one-hot": options.one_hot,
        "--blank": options.blank is not None,
        "--uncertain": options.uncertain is not None,
    }
    unheard = [option for option, given in asked.items() if given]
    if options.label_separator is not None and options.blank is not None and not several:
        unheard.remove("--blank")
    if unheard and not several:
        raise DataError(
            f"{', '.join(unheard)} is about columns of 0 and 1, and none are named; expected --label-columns NAME,NAME…"
        )
    named = {"--unknown-label": options.unknown_labels, "--rename-class": options.rename_classes}
    unheard = [option for option, names in named.items() if names]
    if unheard and several and not options.one_hot:
        raise DataError(
            f"{', '.join(unheard)} is about classes in cells, and --label-columns are named by their columns: leave it "
            "out, or rename the columns in the table."
        )
    if several and options.label_separator is not None:
        raise DataError(
            "--label-separator and --label-columns were both given; expected one: a column whose cells have several "
            "labels, or several columns of 0 and 1."
        )
    if options.other_class is not None and (options.label_separator is not None or (several and not options.one_hot)):
        raise DataError(
            "--other puts classes together, and images with several labels have none; leave --other out: "
            "--min-class-images leaves rare labels out."
        )
