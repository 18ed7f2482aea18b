"""What was understood of a dataset, for people to look at before anything is computed."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...cache.errors import DataError
from .columns.dataset import SPLITS, Dataset
from .columns.splits import describe_drawing
from .pixels.small import draw_small

__all__ = ["Understood", "describe", "draw_page", "understand"]

# Images that are decoded for a word on their pixels, of all classes in turn.
_SAMPLE = 24
_SIDE = 96  # of a picture on the page, px
_NO_SPLIT = "to be drawn"


@dataclass(frozen=True, kw_only=True)
class Understood:
    """A dataset in words and counts.

    Attributes
    ----------
    classes : of each class, or label, how many images are of it, by split
    unknown : images whose class, or one of whose labels, is unknown
    splits : images by split; `drawing` says what is drawn
    patients : how many patients are known, and of how many images
    files : what was found and what became of it
    pixels : of a sample: how many, sizes, and the grey values of the 1st, 50th and 99th percentile
    notes : what was guessed or looks odd
    sample : rows that were looked at
    """

    task: str
    images: int
    classes: Mapping[str, Mapping[str, int]]
    unknown: int
    splits: Mapping[str, int]
    drawing: str | None
    patients: Mapping[str, int]
    files: Mapping[str, Any] | None
    pixels: Mapping[str, Any]
    notes: tuple[str, ...]
    sample: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return asdict(self)


def understand(dataset: Dataset, said: Sequence[str]) -> Understood:
    """Count what a dataset is of, and decode a few of its images.

    Parameters
    ----------
    said : what is to be said of it
    """
    split = np.full(len(dataset), -1, np.int8) if dataset.split is None else dataset.split
    names = {-1: _NO_SPLIT, **dict(enumerate(SPLITS))}
    there = {name: split == code for code, name in names.items() if (split == code).any()}
    label = dataset.label
    several = label.ndim == 2
    of_class = {
        name: (label[:, index] == 1) if several else (label == index) for index, name in enumerate(dataset.classes)
    }
    known = dataset.group[dataset.group >= 0]
    sample = _sample(of_class, len(dataset))
    return Understood(
        task=dataset.task,
        images=len(dataset),
        classes={
            name: {part: int((rows & inside).sum()) for part, inside in there.items()}
            for name, rows in of_class.items()
        },
        unknown=int((label == 255).any(1).sum() if several else (label < 0).sum()),
        splits={name: int(rows.sum()) for name, rows in there.items()},
        drawing=None if dataset.unlabelled else describe_drawing(dataset.split, 0),
        patients={"patients": len(np.unique(known)), "images": len(known)},
        files=None if dataset.account is None else dataset.account.to_dict(),
        pixels=_look(dataset, sample),
        notes=tuple(said),
        sample=tuple(sample),
    )


def _sample(of_class: Mapping[str, np.ndarray], images: int) -> list[int]:
    """Return rows of all classes in turn, the first, middle and last of each before others."""
    each = max(1, _SAMPLE // max(1, len(of_class)))
    taken: dict[int, None] = {}
    for rows in of_class.values():
        found = np.flatnonzero(rows)
        for place in np.linspace(0, len(found) - 1, min(each, len(found)), dtype=int).tolist():
            taken[int(found[place])] = None
    return list(taken)[:_SAMPLE] or list(range(min(images, each)))


def _look(dataset: Dataset, rows: list[int]) -> dict[str, Any]:
    sizes, greys = set(), []
    for row in rows:
        with suppress(DataError):  # what cannot be read is said by whoever asks for keys
            pixels = dataset.images.read(row)
            sizes.add((pixels.shape[1], pixels.shape[0]))
            greys.append(np.percentile(pixels, (1, 50, 99)))
    if not greys:
        return {"images": 0, "unreadable": len(rows)}
    return {
        "images": len(greys),
        "unreadable": len(rows) - len(greys),
        "smallest": list(min(sizes)),
        "largest": list(max(sizes)),
        "percentiles": [round(float(value), 1) for value in np.median(greys, 0)],
        "least_contrast": round(float(min(high - low for low, _, high in greys)), 1),
    }


def draw_page(found: Understood, dataset: Dataset, *, with_images: bool) -> str:
    """Return a page of it that needs no other file; pictures, which are patients', only if asked for."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{parts.get(part, 0)}</td>' for part in found.splits)}</tr>"
        for name, parts in found.classes.items()
    )
    head = "".join(f"<th>{html.escape(part)}</th>" for part in found.splits)
    words = "".join(f"<li>{html.escape(line)}</li>" for line in describe(found, dataset))
    pictures = "".join(_picture(dataset, row) for row in found.sample) if with_images else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(dataset.name)}</title><style>body{{font:16px sans-serif;margin:2em}}"
        "td,th{padding:.2em 1em;text-align:right}td:first-child{text-align:left}figure{display:inline-block;"
        f"width:{_SIDE}px;margin:.3em;font-size:11px;overflow-wrap:anywhere}}</style>"
        f"<h1>{html.escape(dataset.name)}</h1><table><tr><th>class</th>{head}</tr>{rows}</table><ul>{words}</ul>"
        f"{pictures}</html>\n"
    )


def _picture(dataset: Dataset, row: int) -> str:
    try:
        address = draw_small(dataset.images.read(row), _SIDE)
    except DataError as error:
        return f"<figure>{html.escape(str(error))}</figure>"
    label = dataset.label[row]
    names = [
        name for index, name in enumerate(dataset.classes) if (label == index if label.ndim == 0 else label[index] == 1)
    ]
    words = html.escape(", ".join(names) or "unknown")
    return f'<figure><img src="{address}" alt=""><figcaption>{words}</figcaption></figure>'


def describe(found: Understood, dataset: Dataset) -> list[str]:
    """Return what was understood as lines of text, without the table of classes."""
    lines = [
        f"{found.images} images, {found.task}, {len(found.classes)} classes; {found.unknown} with an unknown label"
    ]
    lines.append("splits: " + ", ".join(f"{name} {count}" for name, count in found.splits.items()))
    lines += [found.drawing] if found.drawing else []
    patients = found.patients
    lines.append(
        f"{patients['patients']} patients in {patients['images']} images, each in one split"
        if patients["patients"]
        else "no patients are known: images of one may come into several splits"
    )
    pixels = found.pixels
    if pixels["images"]:
        smallest, largest = ("x".join(map(str, pixels[name])) for name in ("smallest", "largest"))
        low, middle, high = pixels["percentiles"]
        lines.append(
            f"pixels of {pixels['images']} images: {smallest} to {largest} px; grey {low} to {high} of 255, median "
            f"{middle}; the flattest image spans {pixels['least_contrast']}"
        )
    lines += [f"{pixels['unreadable']} of them cannot be read"] if pixels["unreadable"] else []
    lines += [str(dataset.account)] if dataset.account is not None else []
    return [*lines, *found.notes]
