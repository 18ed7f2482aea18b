"""The command neighbours."""

from __future__ import annotations

from typing import Any

import click

from ...cache.progress import Alert
from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json, say
from ...cache.text import plain
from ..datasets.options import DATASET_GROUP, dataset_options, take_dataset_options

__all__ = ["neighbours"]


@click.command(cls=Command, groups=DATASET_GROUP, short_help="List the images most similar to one image.")
@click.argument("cache")
@click.argument("dataset")
@click.argument("image")
@click.option("--count", type=click.IntRange(min=1), default=10, help="How many images.")
@json_option
@dataset_options
def neighbours(cache: str, dataset: str, image: str, *, count: int, as_json: bool, **chosen: Any) -> None:
    """List the images of DATASET whose features in CACHE are most similar to IMAGE's; the teacher is not needed.

    IMAGE is in the dataset: give its name, the end of its name, or the start of its key. Cosines are of whitened
    features: unrelated images are near 0, copies near 1.

    \b
    medal neighbours chest.zarr chest/ train/normal/0007.png
    medal neighbours scans.h5 labels.csv 9f86d081 --count 30 --json
    """
    options = take_dataset_options(chosen)
    from ...cache.reader import open_cache
    from ..audit.lookup import find_neighbours, find_row, name_row
    from ..audit.subject import load_subject

    subject = load_subject(open_cache(cache), dataset, options)
    for told in subject.notes:
        note(Alert(told))
    row = find_row(subject, image)
    found = [(one.row, one.cosine) for one in find_neighbours(subject, row, count)]
    rows = [
        {
            "image": name_row(subject, one),
            "key": subject.key[one].tobytes().hex(),
            "split": subject.split_name(one),
            "label": subject.label_name(one),
            "patient": int(subject.group[one]),
            "cosine": cosine,
        }
        for one, cosine in [(row, 1.0), *found]
    ]
    if as_json:
        print_json({"cache": cache, "image": rows[0], "neighbours": rows[1:]})
        return
    say(plain(f"{rows[0]['image']} ({rows[0]['split']}, {rows[0]['label']}) is most like:"))
    for one in rows[1:]:
        same = ", same patient" if one["patient"] == rows[0]["patient"] >= 0 else ""
        say(plain(f"  {one['cosine']:6.3f}  {one['image']}  ({one['split']}, {one['label']}{same})"))
