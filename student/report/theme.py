"""Charts as SVG for a page: text stays text, colours are the page's, and each chart has a description."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from ...cache.text import plain
from ..figures.plots import drawing

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "DATELESS", "LINES", "MARKERS", "WIDTH", "chart", "for_papers", "saving"]

# Width of a column on a phone, in CSS pixels: a chart drawn for the narrowest screen is readable on all.
WIDTH = 340

# Arms also differ in line and marker, for colour-blind readers and grey paper.
LINES: Mapping[str, Any] = {"student": "-", "baseline": ":", "teacher": (0, (5, 2))}
MARKERS = {"student": "o", "baseline": "^", "teacher": "s"}

# matplotlib wants colours, the page has variables: each stands for one while a chart is drawn. No two are near enough
# to be seen, and no chart has any other.
COLOURS = {
    "ink": "#010101",
    "soft": "#010102",
    "line": "#010103",
    "student": "#010104",
    "teacher": "#010105",
    "baseline": "#010106",
    "paper": "#010107",
}
_SETTINGS: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medal",  # else ids are drawn anew, and the page of the same runs has other bytes
    "axes.formatter.use_mathtext": False,
    "font.size": 11.5,
    "axes.titlesize": 11.5,
    "axes.labelsize": 11.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["soft"],
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "grid.color": COLOURS["line"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# What the variables are on the light page, for drawings that leave it.
_ON_PAPER = {
    "ink": "#1a1a1a",
    "soft": "#5c5c5c",
    "line": "#d4d4d4",
    "student": "#0b5cad",
    "teacher": "#b34700",
    "baseline": "#6b4fa0",
    "paper": "#ffffff",
}
_FORMS = ("svg", "pdf")
_sink: ContextVar[Path | None] = ContextVar("figures", default=None)
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"


def chart(draw: Callable[[Axes], None], *, name: str, title: str, description: str, height: int = 300) -> Markup:
    """Draw a chart and return it as an element of a page.

    The same drawing gives the same bytes: there is no date, and ids come from what is drawn.

    Parameters
    ----------
    draw : draws into the axes, in `COLOURS` alone
    name : one word, unique on the page
    title, description : what it shows, for screen readers
    height : in CSS pixels, where it is `WIDTH` wide
    """
    from markupsafe import Markup
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with drawing(_SETTINGS):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        draw(figure.subplots())
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    if (folder := _sink.get()) is not None:
        _save(draw, folder / name, description, height)
    # What is marked as safe was written by ElementTree, which escapes every name in it.
    return Markup(_for_page(out.getvalue(), name, title, description))  # noqa: S704


@contextmanager
def saving(folder: Path | None) -> Iterator[None]:
    """Also save each chart drawn inside this context as vector files under its name; None = do not."""
    token = _sink.set(folder)
    try:
        yield
    finally:
        _sink.reset(token)


@contextmanager
def for_papers() -> Iterator[None]:
    """Draw in the colours of the light page, by name from `COLOURS`, in place of its variables."""
    variables = dict(COLOURS)
    settings = {
        name: _ON_PAPER[_NAMES[value]] if value in _NAMES else value
        for name, value in _SETTINGS.items()
        if name != "svg.fonttype"  # letters as outlines: a journal has no fonts of a page's
    }
    COLOURS.update(_ON_PAPER)
    try:
        with drawing({**settings, "svg.fonttype": "path", "pdf.fonttype": 42}):
            yield
    finally:
        COLOURS.update(variables)


def _save(draw: Callable[[Axes], None], path: Path, description: str, height: int) -> None:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with for_papers():
        figure = Figure(figsize=(WIDTH / 72, (height + 70) / 72), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        there = {line.get_color() for line in axes.get_lines()}
        arms = [arm for arm in ("student", "baseline", "teacher") if COLOURS[arm] in there]
        if len(arms) > 1:
            handles = [Line2D([], [], color=COLOURS[arm], linestyle=LINES[arm], marker=MARKERS[arm]) for arm in arms]
            figure.legend(handles, arms, loc="outside upper center", ncols=len(arms), frameon=False)
        figure.supxlabel(fill(plain(description), 62), fontsize=7)
        for form in _FORMS:
            figure.savefig(path.with_name(f"{path.name}.{form}"), metadata=DATELESS[form])


# The same run gives the same bytes.
DATELESS: Mapping[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def _for_page(drawn: bytes, name: str, title: str, description: str) -> str:
    root = ET.fromstring(drawn)  # noqa: S314 - matplotlib's own
    for part in (*root.findall(f"{_SVG}metadata"), *root.findall(f"{_SVG}defs")):
        # The definitions at the top hold a style that would be the whole page's; others stand where they are used.
        if part.tag.endswith("metadata") or part.find(f"{_SVG}style") is not None:
            root.remove(part)
    used = _used(root)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if _HREF in element.attrib:
            element.set("href", f"#{name}-{element.attrib.pop(_HREF)[1:]}")
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{name}-{own}")
        if "clip-path" in element.attrib:
            element.set("clip-path", element.attrib["clip-path"].replace("(#", f"(#{name}-"))
        if "d" in element.attrib:
            element.set("d", re.sub(r"(\.\d\d)\d+", r"\1", " ".join(element.attrib["d"].split())))
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib |= {
        "viewBox": box,
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "stroke-linejoin": "round",
    }
    for index, (tag, words) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(tag, {"id": f"{name}-{tag}"})
        element.text = plain(words)
        root.insert(index, element)
    text = ET.tostring(root, encoding="unicode")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    return re.sub("|".join(COLOURS.values()), lambda found: f"var(--{_NAMES[found.group()]})", text)


_NAMES = {colour: name for name, colour in COLOURS.items()}


def _used(root: ET.Element) -> set[str]:
    """Return the ids that something in the drawing refers to."""
    found = set()
    for element in root.iter():
        found.add(element.attrib.get(_HREF, "#")[1:])
        found |= set(re.findall(r"url\(#([^)]+)\)", element.attrib.get("clip-path", "")))
    return found
