"""The predictions of a run, written and read as a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import StudentError
from .folder import PREDICTIONS

__all__ = ["Predictions", "read_predictions"]


@dataclass(frozen=True)
class Predictions:
    """A student's answers on one split, in the cache's order.

    Attributes
    ----------
    key : (N, 16) uint8
    label : (N,) int32, -1 unknown; or (N, C) uint8, 255 unknown
    logits : (N, C) float32, before temperature
    group : (N,) anonymous patient code of the cache, -1 none; None where no patient is known
    """

    key: npt.NDArray[np.uint8]
    label: npt.NDArray[Any]
    logits: npt.NDArray[np.float32]
    group: npt.NDArray[np.int64] | None = None


def write_predictions(path: Path, splits: Mapping[str, Predictions], classes: Sequence[str]) -> None:
    """Write predictions as a table: ``key`` in hex, ``split``, ``label`` (or one column a label), ``logit:CLASS`` …

    Where patients are known, ``group`` stands before the label. Logits are written with the digits that give the same
    float32 back.
    """
    several = any(part.label.ndim == 2 for part in splits.values())
    grouped = any(part.group is not None for part in splits.values())
    labels = [f"label:{name}" for name in classes] if several else ["label"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header = ["group"] if grouped else []
        writer.writerow(["key", "split", *header, *labels, *(f"logit:{name}" for name in classes)])
        for split, part in splits.items():
            group = np.full(len(part.key), -1) if part.group is None else part.group
            columns = (part.key, group, np.atleast_2d(part.label.T).T, part.logits)
            for key, one, label, logits in zip(*columns, strict=True):
                patient = [int(one)] if grouped else []
                writer.writerow([key.tobytes().hex(), split, *patient, *label.tolist(), *map(str, logits)])


def read_predictions(run: Path, name: str = PREDICTIONS) -> dict[str, Predictions]:
    """Read the predictions of a finished run, by split.

    Parameters
    ----------
    name : of the table: the student's, or the teacher's

    Raises
    ------
    StudentError
        The folder has none, or they are damaged.
    """
    path = run / name
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        logit = [index for index, name in enumerate(header) if name.startswith("logit:")]
        label = [index for index, name in enumerate(header) if name == "label" or name.startswith("label:")]
        several, group = header[label[0]] != "label", header.index("group") if "group" in header else None
        splits: dict[str, list[list[str]]] = {}
        for row in rows:
            splits.setdefault(row[1], []).append(row)
        return {
            split: Predictions(
                key=np.frombuffer(b"".join(bytes.fromhex(row[0]) for row in part), np.uint8).reshape(-1, 16),
                label=np.array([[int(row[i]) for i in label] for row in part], np.uint8)
                if several
                else np.array([int(row[label[0]]) for row in part], np.int32),
                logits=np.array([[row[i] for i in logit] for row in part], np.float32),
                group=None if group is None else np.array([int(row[group]) for row in part], np.int64),
            )
            for split, part in splits.items()
        }
    except (OSError, ValueError, IndexError, OverflowError) as error:
        raise StudentError(f"The predictions '{path}' cannot be read: {error}.") from error
