"""The report of runs as one HTML page, from what they recorded; no image is looked at unasked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...cache.page import render
from ...pipeline.datasets.dataset import DatasetOptions
from .collecting import Recorded
from .sections import Section, describe_run
from .several import describe_together
from .thumbnails import draw_thumbnails

__all__ = ["Page", "build_page"]

_TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Page:
    """A page and what stands on it.

    Attributes
    ----------
    thumbnails : pictures of patients' images in it
    missing : images that should have had a picture, and are not in the dataset
    """

    html: str
    thumbnails: int
    missing: int


def build_page(runs: Sequence[Recorded], *, images: str | None = None, options: DatasetOptions | None = None) -> Page:
    """Build the report of runs.

    Parameters
    ----------
    images : a dataset whose images are shown where student and teacher disagree; None = no image is shown
    options : how it is to be read

    Raises
    ------
    DataError
        The dataset cannot be read.
    """
    sections = [describe_run(run, f"run-{number}") for number, run in enumerate(runs, 1)]
    pictures: dict[str, str] = {}
    for section in sections:
        keys = _keys(section)
        if images is not None and keys:
            pictures |= draw_thumbnails(section.run, images, options or DatasetOptions(), keys)
    wanted = {key for section in sections for key in _keys(section)}
    html = render(
        _TEMPLATE,
        title=f"Report of {runs[0].name}" if len(runs) == 1 else f"Report of {len(runs)} runs",
        sections=sections,
        together=describe_together(runs) if len(runs) > 1 else None,
        pictures=pictures,
        contents=_contents,
    )
    return Page(html, len(pictures), len(wanted - pictures.keys()) if images is not None else 0)


def _contents(section: Section) -> list[tuple[str, str]]:
    """Return the parts of a section that have something to show: the end of the anchor, and words."""
    parts = [
        ("arms", "Against each other", section.forest),
        ("curves", "Curves", True),
        ("classes", "By class", True),
        ("domains", "By domain", section.domains),
        ("calibration", "Calibration and training", True),
        ("images", "Disagreements", section.disagreements),
    ]
    return [(end, words) for end, words, there in parts if there]


def _keys(section: Section) -> list[str]:
    return [one.key for one in section.disagreements]
