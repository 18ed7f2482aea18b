"""Exports a run to a checked file for other programs, as `medal export` does."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...cache.errors import DataError
from ...cache.machine.drafts import drafted
from ...pipeline.datasets.columns.dataset import Dataset, DatasetOptions
from .evaluation import choose_rows, open_for
from .exported import CHECKED, Format, Pixels, describe, export_draft, require_packages, write_export
from .quantisation import Keys, calibration_rows, pixels_of, price, quantise
from .trained import Trained, open_run

__all__ = ["export_run"]


def export_run(
    run: Path, out: Path, form: Format, *, dataset: str | None, options: DatasetOptions, int8: bool
) -> dict[str, Any]:
    """Write, check and, if requested, quantise; the file at `out` only appears after that.

    Parameters
    ----------
    dataset : where the images of the check come from, and those for int8, which needs it; None = random images

    Returns
    -------
    For JSON: run, out, format, bytes, difference (largest, of logits), checked (images), checked_on, int8 (by split)

    Raises
    ------
    StudentError
        The run cannot be used or exported, or the file gives different answers.
    DataError
        The dataset cannot be used.
    """
    require_packages(form)
    trained = open_run(run, "cpu")
    opened = None if dataset is None else open_for(trained, dataset, options)
    key = None if opened is None else opened.keys()
    pixels = None if opened is None else _sample(trained, opened, key)
    cost = None
    with drafted(out, export_draft(out)) as draft, tempfile.TemporaryDirectory(prefix="medal-") as place:
        whole = Path(place, f"whole{out.suffix}") if int8 else draft
        difference = write_export(trained, whole, form, pixels)
        if int8 and opened is not None and key is not None:
            rows = calibration_rows(trained, opened, key)
            said = describe(trained) | {"quantised": {"to": "int8", "calibrated_on": len(rows)}}
            quantise(whole, draft, list(pixels_of(trained, opened, rows)), said)
            cost = price(trained, opened, key, exact=whole, int8=draft)
        size = draft.stat().st_size
    return {
        "run": str(run),
        "out": str(out),
        "format": form,
        "bytes": size,
        "difference": difference,
        "checked": CHECKED if pixels is None else len(pixels),
        "checked_on": "random" if opened is None else opened.name,
        "int8": cost,
    }


def _sample(trained: Trained, dataset: Dataset, key: Keys | None) -> Pixels:
    """Return up to 64 images (N, 3, S, S) in 0…1: of those that the student would be measured on, if there are any."""
    try:
        rows = choose_rows(trained, dataset, None, key).rows
    except DataError:
        rows = choose_rows(trained, dataset, "all", key).rows
    return np.concatenate(list(islice(pixels_of(trained, dataset, rows[:CHECKED]), CHECKED)))
