"""The report of runs as one HTML page, from their recorded results; images are read only on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...cache.errors import StudentError
from ...cache.reader import Cache
from ...cache.terminal.page import render
from ...pipeline.datasets.columns.dataset import DatasetOptions
from ..figures.lettering import letter
from ..figures.plots import draw_confusion, drawing
from .collecting import Recorded, Unseen
from .sections import Section, describe_run
from .several import describe_together
from .theme import DATELESS, for_papers, saving
from .thumbnails import Draw, draw_thumbnails
from .unseen import UnseenSection, describe_unseen

__all__ = ["Page", "build_page"]

_TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Page:
    """A page and what it contains.

    Attributes
    ----------
    thumbnails : number of patients' images on it
    missing : images that should have been shown but are not in the dataset
    """

    html: str
    thumbnails: int
    missing: int


def build_page(
    runs: Sequence[Recorded | Unseen],
    *,
    images: str | None = None,
    options: DatasetOptions | None = None,
    figures: Path | None = None,
    cache: Cache | None = None,
    heat: Callable[[Path], Draw] | None = None,
) -> Page:
    """Build the report of runs.

    Parameters
    ----------
    images : dataset whose images are shown where student and teacher disagree; None = show no images
    options : how it is to be read
    cache : that the runs were trained with, for a map of the images; None = no map
    heat : maps a run's folder to a function that draws an image with its heat map; None = the image alone
    figures : folder where every chart is also saved as vector files; None = do not save

    Raises
    ------
    StudentError
        A run's files do not fit together.
    DataError
        The dataset cannot be read.
    """
    unseen: list[UnseenSection] = []
    alone: list[Recorded] = []
    sections: list[Section] = []
    for number, run in enumerate(runs, 1):
        with _whole(run.name), saving(figures):
            if isinstance(run, Unseen):
                unseen.append(describe_unseen(run, f"unseen-{number}"))
            parts = list(run.parts.values()) if isinstance(run, Unseen) else [run]
            sections += [describe_run(part, f"run-{len(alone) + place}", cache) for place, part in enumerate(parts, 1)]
            for place, part in enumerate(parts, 1) if figures is not None else ():
                _save_confusion(part, Path(str(figures)) / f"run-{len(alone) + place}-confusion")
            alone += parts
    pictures: dict[str, str] = {}
    for section in sections:
        keys = _keys(section)
        if images is not None and keys:
            pictures |= draw_thumbnails(
                section.run, images, options or DatasetOptions(), keys, heat and heat(section.run.place)
            )
    wanted = {key for section in sections for key in _keys(section)}
    html = render(
        _TEMPLATE,
        title=f"Report of {runs[0].name}" if len(runs) == 1 else f"Report of {len(runs)} runs",
        sections=sections,
        unseen=unseen,
        # The domains of one run share no images.
        together=describe_together(alone) if len(runs) > 1 else None,
        pictures=pictures,
        contents=_contents,
        heat=heat is not None,
    )
    return Page(html, len(pictures), len(wanted - pictures.keys()) if images is not None else 0)


def _save_confusion(run: Recorded, path: Path) -> None:
    top, lettering = run.rows, letter(run.classes)
    with for_papers(), drawing({"font.family": lettering.families}):
        figure = draw_confusion(top.logits, top.label, run.task, lettering.labels)
        if lettering.legend:
            figure.supxlabel(lettering.legend, fontsize="x-small")
        for form in ("svg", "pdf"):
            figure.savefig(path.with_name(f"{path.name}.{form}"), metadata=DATELESS[form])


@contextmanager
def _whole(name: str) -> Iterator[None]:
    """Turn errors from unexpected file contents into one sentence: a run may come from anybody."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise StudentError(
            f"'{name}' cannot be reported on: its files are not as medal writes them ({error!r:.200}). Ask for a "
            "complete copy of the run."
        ) from error


def _contents(section: Section) -> list[tuple[str, str]]:
    """Return the parts of a section that have content: the end of the anchor, and the title."""
    parts = [
        ("arms", "Against each other", section.forest),
        ("curves", "Curves", True),
        ("classes", "By class", True),
        ("domains", "By domain", section.domains),
        ("calibration", "Calibration and training", True),
        ("map", "Map of the images", section.map),
        ("images", "Disagreements", section.disagreements),
        ("errors", "Surest errors", section.errors),
    ]
    return [(end, words) for end, words, there in parts if there]


def _keys(section: Section) -> list[str]:
    return list(dict.fromkeys(one.key for one in (*section.disagreements, *section.errors)))
