"""All checks over one cache and its dataset, and their result as plain values."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import DataError
from ...cache.machine.drafts import write_file
from ...cache.progress import Progress
from ...cache.reader import Cache
from ...cache.terminal.page import render
from ..datasets.columns.dataset import SPLITS, DatasetOptions
from ..datasets.pixels.small import draw_small
from ..metrics.embedding import Map, draw_map, right_or_wrong
from ..threads import quick_threads
from .doubtful import find_doubtful
from .findings import Finding, Severity
from .near import find_near_duplicates
from .repeats import find_absent, find_contrary, find_repeats_across, find_repeats_within, find_torn_groups
from .shortcuts import find_domain_gap, find_shortcut, find_split_gap
from .subject import Subject, load_subject

__all__ = ["Audit", "audit", "examine"]

_TEMPLATE = Path(__file__).with_name("audit.html")
_MOST_ROWS = 100
# Pictures: how many stand beside one, and px of a side.
_MOST_BESIDE, _SIDE = 3, 112
_ORDER: tuple[Severity, ...] = ("serious", "look", "fine", "left out")


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Findings for a dataset, one per check, in a fixed order."""

    subject: Subject
    findings: tuple[Finding, ...]

    @property
    def serious(self) -> tuple[Finding, ...]:
        """The findings that make figures from this dataset mislead."""
        return tuple(one for one in self.findings if one.severity == "serious")

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON: no row is named, only counted."""
        return {
            "dataset": self.subject.name,
            "rows": {name: int((self.subject.split == index).sum()) for index, name in self._splits()},
            "serious": len(self.serious),
            "notes": list(self.subject.notes),
            "checks": {
                one.check: {
                    "severity": one.severity,
                    "sentence": one.sentence,
                    "advice": len(one.advice),
                    **one.figures,
                }
                for one in self.findings
            },
        }

    def rows(self) -> list[dict[str, str]]:
        """Return the rows with advice, by check and urgency, as columns of text."""
        subject = self.subject
        return [
            {
                "check": one.check,
                "severity": one.severity,
                "key": subject.key[advice.row].tobytes().hex(),
                "split": subject.split_name(advice.row),
                "image": subject.describe(advice.row),
                "label": subject.label_name(advice.row),
                "advice": advice.say,
                "score": f"{advice.score:.4f}",
                "related": "; ".join(f"{subject.describe(row)} ({subject.split_name(row)})" for row in advice.related),
                "related_keys": " ".join(subject.key[row].tobytes().hex() for row in advice.related),
            }
            for one in self.findings
            for advice in one.advice
        ]

    def write_csv(self, path: Path) -> int:
        """Write the rows with advice as a table, and return how many there are."""
        rows = self.rows()
        names = ["check", "severity", "key", "split", "image", "label", "advice", "score", "related", "related_keys"]
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, names)
        writer.writeheader()
        writer.writerows(rows)
        write_file(path, table.getvalue().encode())
        return len(rows)

    def write_page(self, path: Path, *, with_images: bool = False) -> int:
        """Write the audit as one HTML page, without other files, scripts or network; it shows the first rows of each
        check.

        Parameters
        ----------
        with_images : show those rows, and what they are about as well, side by side

        Returns ------- Number of pictures of patients on it
        """
        rows: dict[str, list[dict[str, str]]] = {}
        for row in self.rows():
            rows.setdefault(row["check"], []).append(row)
        # Serious ones first, for readers who stop early.
        rows = dict(sorted(rows.items(), key=lambda item: _ORDER.index(item[1][0]["severity"])))
        pictures = self._draw() if with_images else {}
        page = render(
            _TEMPLATE, audit=self.to_dict(), rows=rows, most=_MOST_ROWS, map=self.draw_map(), pictures=pictures
        )
        write_file(path, page.encode())
        return len(pictures)

    def draw_map(self) -> Map | None:
        """Return the map of the images by class, split, domain and whether the teacher errs; None without features."""
        subject = self.subject
        return None if subject.feature is None else draw_map(subject.feature, self._colourings)

    def _colourings(self, rows: npt.NDArray[np.int64]) -> dict[str, list[str]]:
        subject = self.subject
        columns = {
            "class": [subject.label_name(row) for row in rows.tolist()],
            "split": [SPLITS[one] for one in subject.split[rows]],
        }
        if (subject.domain[rows] >= 0).any():
            columns["domain"] = [subject.domains[one] if one >= 0 else "none" for one in subject.domain[rows]]
        if subject.task == "multiclass":
            columns["the teacher's answer"] = right_or_wrong(subject.logits[rows], subject.label[rows])
        return columns

    def _draw(self) -> dict[str, str]:
        """Return small pictures by key, of the rows that the page shows and of what they are about."""
        shown = [advice for one in self.findings for advice in one.advice[:_MOST_ROWS]]
        wanted = dict.fromkeys(row for advice in shown for row in (advice.row, *advice.related[:_MOST_BESIDE]))
        found = {}
        for row in wanted:
            source = int(self.subject.source[row])
            if source >= 0:
                with suppress(DataError):  # what cannot be read is named, and has no picture
                    pixels = self.subject.dataset.images.read(source)
                    found[self.subject.key[row].tobytes().hex()] = draw_small(pixels, _SIDE)
        return found

    def _splits(self) -> list[tuple[int, str]]:
        return [(index, name) for index, name in enumerate(("train", "val", "test")) if name in self.subject.splits]


def audit(
    cache: Cache, spec: str, options: DatasetOptions, progress: Progress, *, threshold: float | None = None
) -> Audit:
    """Audit the dataset that a cache was made from; the teacher is not needed, and nothing is changed.

    Parameters
    ----------
    spec : the dataset
    threshold : cosine of whitened features from which on images are near-duplicates; None = calibrated

    Raises
    ------
    CacheMismatch, CacheCorrupt, DataError
        As `load_subject`.
    """
    return examine(load_subject(cache, spec, options), progress, threshold=threshold)


def examine(subject: Subject, progress: Progress, *, threshold: float | None = None) -> Audit:
    """Run every check on what has been read."""
    with quick_threads():
        findings = (
            find_repeats_across(subject),
            find_contrary(subject),
            find_torn_groups(subject),
            *find_near_duplicates(subject, threshold, progress),
            find_shortcut(subject, progress),
            find_repeats_within(subject),
            find_doubtful(subject),
            find_absent(subject),
            find_split_gap(subject),
            find_domain_gap(subject),
        )
    return Audit(subject=subject, findings=findings)
