"""The options that every command with a DATASET has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import click

from ...cache.errors import TeacherError
from ...cache.keys import KeySecret
from ...cache.terminal.command import OTHERS
from ..views.preprocessing import parse_intensity, parse_window
from .columns.dataset import AXES, SPLITS, DatasetOptions, Window

__all__ = ["DATASET_GROUP", "dataset_options", "take_dataset_options"]

F = TypeVar("F", bound=Callable[..., Any])


def _read_window(_context: click.Context, _option: click.Parameter, words: str | None) -> Window | None:
    if words is None:
        return None
    try:
        return parse_window([float(word) for word in words.split(",")])
    except (ValueError, TeacherError) as exc:
        raise click.BadParameter(
            f"'{words}' is not the centre and width of a window; expected two numbers, the second from 1, as in 40,400."
        ) from exc


def _read_intensity(_context: click.Context, _option: click.Parameter, words: str) -> str:
    if words == DatasetOptions.intensity:
        return words
    try:
        return parse_intensity(words)
    except TeacherError as exc:
        raise click.BadParameter(
            f"'{words}' is no way to scale images; expected auto, declared, minmax, or the values of black and white, "
            "the smaller first, as in 0,4095."
        ) from exc


def _read_secret(_context: click.Context, _option: click.Parameter, path: str | None) -> KeySecret | None:
    return KeySecret.read(path) if path else None


def _read_pairs(_context: click.Context, option: click.Parameter, words: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Part ``A=B``, several of which may stand in one word after commas where B is a split."""
    of_splits = option.name in ("split_names", "split_lists")
    parts = [part for word in words for part in (word.split(",") if option.name == "split_names" else [word]) if part]
    pairs = []
    for part in parts:
        first, equals, second = part.rpartition("=") if option.name == "rename_classes" else part.partition("=")
        split = first if option.name == "split_lists" else second
        if not equals or not first or not second or (of_splits and split not in SPLITS):
            raise click.BadParameter(
                f"'{part}' is not {option.make_metavar(_context)}, as in {_EXAMPLES[option.name]}."
            )
        pairs.append((first, second))
    return tuple(pairs)


_EXAMPLES = {
    "split_names": "1=train,2=val,3=test",
    "split_lists": "test=test_list.txt",
    "rename_classes": "Benign=benign",
}


_OPTIONS = (
    click.option(
        "--file-column",
        metavar="NAME",
        help="Column of the images' files in a table (default: file, or the only one whose cells are files; with a "
        "CACHE, the one it was made from).",
    ),
    click.option(
        "--images",
        "image_folders",
        metavar="FOLDER",
        multiple=True,
        help="Also look for a table's files in this folder and its subfolders, by path, by name, and by name without "
        "suffix; may be repeated.",
    ),
    click.option(
        "--label-column",
        metavar="NAME",
        help="Column of the class in a .csv table (default: label; with a CACHE, the one it was made from).",
    ),
    click.option(
        "--label-columns",
        metavar="NAME,NAME…",
        help="Columns of several labels in a .csv table, whose cells are 0, 1 or empty = unknown (default: none; with "
        "a CACHE, those it was made from).",
    ),
    click.option(
        "--label-separator",
        metavar="TEXT",
        help="Separator of several labels in one cell, as | in A|B or , in ['A', 'B']; an image has all of them.",
    ),
    click.option("--one-hot", is_flag=True, help="--label-columns are classes: exactly one 1 in every row."),
    click.option("--blank", type=click.Choice(["0", "unknown"]), help="What an empty cell of labels means."),
    click.option(
        "--uncertain", type=click.Choice(["0", "1", "unknown"]), help="What -1 in a cell of --label-columns means."
    ),
    click.option(
        "--unknown-label",
        "unknown_labels",
        metavar="NAME",
        multiple=True,
        help="A class name that means unknown, as NA; may be repeated.",
    ),
    click.option(
        "--rename-class",
        "rename_classes",
        metavar="OLD=NEW",
        multiple=True,
        callback=_read_pairs,
        help="Rename a class, or merge two spellings or two classes; may be repeated.",
    ),
    click.option(
        "--accept-classes", is_flag=True, help="Accept the classes as they are, even if they look wrong or are many."
    ),
    click.option(
        "--repeated",
        type=click.Choice(["first", "any", "majority", "refuse"]),
        default=DatasetOptions.repeated,
        show_default=True,
        help="Which label to use if rows of one image differ; any: every label that any row has.",
    ),
    click.option(
        "--split-column",
        metavar="NAME",
        help="Column of train, val or test in a .csv table (default: split, where there is one); none = draw splits.",
    ),
    click.option(
        "--split-names",
        metavar="NAME=SPLIT,…",
        multiple=True,
        callback=_read_pairs,
        help="Names of splits that medal does not know, as 1=train,2=val,3=test; of folders too.",
    ),
    click.option(
        "--split-list",
        "split_lists",
        metavar="SPLIT=FILE",
        multiple=True,
        callback=_read_pairs,
        help="A text file whose lines name the images of a split, as test=test_list.txt; may be repeated.",
    ),
    click.option("--val-table", metavar="FILE", help="A table like DATASET whose rows are val; DATASET is train then."),
    click.option("--test-table", metavar="FILE", help="A table like DATASET whose rows are test."),
    click.option(
        "--domain-column",
        metavar="NAME",
        help="Column of the domain, e.g. the scanner, in a .csv table (default: domain, where there is one).",
    ),
    click.option(
        "--group-column",
        metavar="NAME",
        help="Column of the patient, who stays in one split, in a .csv table (default: group, where there is one; in "
        "DICOM files PatientID); none = ignore patients.",
    ),
    click.option(
        "--group-pattern",
        metavar="REGEX",
        help="Find the patient in a file's path: its first group, as in '14-(\\d+)'.",
    ),
    click.option(
        "--class-level",
        metavar="K",
        type=click.IntRange(min=1),
        help="In a folder, the class is the K-th folder below DATASET, and images may lie deeper.",
    ),
    click.option(
        "--class-pattern",
        metavar="REGEX",
        help="In a folder, find the class in a file's path: its first group, as in '([A-Z]+)-\\d+'.",
    ),
    click.option(
        "--skip-localizers", is_flag=True, help="Leave out localizers (scouts): DICOM images that only plan a scan."
    ),
    click.option(
        "--slice-axis",
        type=click.Choice(AXES),
        help="Across which axis NIfTI volumes are cut into images (default: axial; with a CACHE, as it was made).",
    ),
    click.option(
        "--slice-step",
        metavar="K",
        type=click.IntRange(min=1),
        help="Take every K-th slice of a NIfTI volume (default: every slice; with a CACHE, as it was made).",
    ),
    click.option(
        "--middle-slices",
        metavar="N",
        type=click.IntRange(min=1),
        help="Take only the N slices in the middle of a NIfTI volume, K apart (default: all; with a CACHE, as it was "
        "made).",
    ),
    click.option(
        "--exclude-class",
        "exclude_classes",
        metavar="CLASS",
        multiple=True,
        help="Leave a class out; may be repeated (default: none; with a CACHE, those it leaves out).",
    ),
    click.option(
        "--min-class-images",
        metavar="N",
        type=click.IntRange(min=1),
        help="Leave out all classes with fewer images (with a CACHE, those it leaves out).",
    ),
    click.option(
        "--other", "other_class", metavar="NAME", help="Merge the classes with fewer images into this one instead."
    ),
    click.option(
        "--intensity",
        metavar="auto|declared|minmax|LOW,HIGH",
        callback=_read_intensity,
        default=DatasetOptions.intensity,
        help="How images of more than 8 bits become grey values. declared: by the bits that they declare; LOW,HIGH: "
        "the values of black and white, e.g. 0,4095; minmax: every image from its own minimum to its maximum; auto: as "
        "declared, unless a sample of the images then shows almost no contrast; with a CACHE, as it was made.",
    ),
    click.option(
        "--window",
        metavar="C,W",
        callback=_read_window,
        help="Centre and width of one window for all grey DICOM images, and all others of more than 8 bits, e.g. "
        "40,400 for soft tissue in CT (default: the first of each file's own; with a CACHE, the one it was made with).",
    ),
    click.option(
        "--key-secret",
        metavar="FILE",
        envvar="MEDAL_KEY_SECRET",
        show_envvar=True,
        callback=_read_secret,
        help="Key the content keys with the secret in this file, so that nobody without it can look an image up in the "
        "cache; for a CACHE or RUN, give the secret that it was made with (default: plain keys).",
    ),
)

# The end of a command's help: what is its own before what all have.
DATASET_GROUP: dict[str, str] = {
    OTHERS: "",
    "Reading DATASET": "--intensity --window",
    "Tables: files and rows": "--file-column --images --split-column --split-names --split-list --val-table "
    "--test-table --domain-column --group-column --repeated",
    "Tables: labels": "--label-column --label-columns --label-separator --one-hot --blank --uncertain",
    "Folders": "--class-level --class-pattern --group-pattern --skip-localizers",
    "NIfTI volumes": "--slice-axis --slice-step --middle-slices",
    "Classes": "--exclude-class --min-class-images --other --rename-class --unknown-label --accept-classes",
}


def dataset_options(function: F) -> F:
    """Add the dataset options to a command; its function hands its keyword arguments to `take_dataset_options`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_dataset_options(chosen: dict[str, Any]) -> DatasetOptions:
    """Take the values of `dataset_options` out of a command's keyword arguments."""
    names = (chosen.pop("label_columns") or "").split(",")
    rest = {field.name: chosen.pop(field.name) for field in fields(DatasetOptions) if field.name in chosen}
    if rest.get("other_class") is not None and rest.get("min_class_images") is None:
        raise click.UsageError(
            "--other goes with --min-class-images N: it says what their classes are put together as."
        )
    return DatasetOptions(label_columns=tuple(name.strip() for name in names if name.strip()), **rest)
