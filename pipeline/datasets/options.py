"""The options that every command with a DATASET has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from ...cache.errors import TeacherError
from ...cache.keys import KeySecret
from ...cache.terminal.command import OTHERS
from ..views.preprocessing import parse_window
from .columns.dataset import DatasetOptions, Window

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


def _read_secret(_context: click.Context, _option: click.Parameter, path: str | None) -> KeySecret | None:
    return KeySecret.read(path) if path else None


_OPTIONS = (
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
        "--split-column",
        metavar="NAME",
        help="Column of train, val or test in a .csv table (default: split, where there is one).",
    ),
    click.option(
        "--domain-column",
        metavar="NAME",
        help="Column of the domain, e.g. the scanner, in a .csv table (default: domain, where there is one).",
    ),
    click.option(
        "--group-column",
        metavar="NAME",
        help="Column of the patient, who stays in one split, in a .csv table (default: group, where there is one).",
    ),
    click.option(
        "--exclude-class",
        "exclude_classes",
        metavar="CLASS",
        multiple=True,
        help="Leave a class out; may be repeated (default: none; with a CACHE, those it leaves out).",
    ),
    click.option(
        "--intensity",
        type=click.Choice(["declared", "minmax"]),
        default=DatasetOptions.intensity,
        help="declared: images of more than 8 bits by the bits that they declare; minmax: every image from its own "
        "minimum to its maximum, also with a CACHE that was made so.",
    ),
    click.option(
        "--window",
        metavar="C,W",
        callback=_read_window,
        help="Centre and width of one window for all grey DICOM images, e.g. 40,400 for soft tissue in CT (default: "
        "the first of each file's own; with a CACHE, the one it was made with).",
    ),
    click.option(
        "--key-secret",
        metavar="FILE",
        envvar="MEDAL_KEY_SECRET",
        show_envvar=True,
        callback=_read_secret,
        help="Key the content keys with the secret in this file, so that nobody without it can look an image up in the "
        "cache; with a CACHE or RUN, the one it was made with (default: plain keys).",
    ),
)

# The end of a command's help: what is its own before what all have.
DATASET_GROUP: dict[str, tuple[str, ...]] = {
    OTHERS: (),
    "Reading DATASET": (
        "--label-column",
        "--label-columns",
        "--split-column",
        "--domain-column",
        "--group-column",
        "--exclude-class",
        "--intensity",
        "--window",
    ),
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
    return DatasetOptions(label_columns=tuple(name.strip() for name in names if name.strip()), **rest)
