"""The options that every command with a DATASET has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from .dataset import DatasetOptions

__all__ = ["dataset_options", "take_dataset_options"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--label-column", help="Column of the class in a .csv table (default: label)."),
    click.option("--label-columns", help="Columns of a multi-label table, with commas: 0/1, empty = unknown."),
    click.option("--split-column", help="Column of train/val/test in a table (default: split, where there is one)."),
    click.option("--domain-column", help="Column of the domain, e.g. the scanner (default: domain)."),
    click.option("--group-column", help="Column of the patient; a patient stays in one split (default: group)."),
    click.option("--exclude-class", "exclude_classes", multiple=True, help="Leave a class out; may be repeated."),
    click.option(
        "--intensity",
        type=click.Choice(["declared", "minmax"]),
        default=DatasetOptions.intensity,
        show_default=True,
        help="Scale deep images by their declared bits, or each by its own minimum and maximum.",
    ),
)


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
