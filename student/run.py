"""The run folder: what stage two leaves, made beside its place and moved there when it is whole.

RUN/
├── config.json, model.safetensors   the student in timm's form: timm.create_model("local-dir:RUN", pretrained=True)
├── README.md                        the model card
├── run.json                         every setting, the cache's digests, versions; its existence means finished
├── metrics.json                     student and teacher on val and test, with intervals
├── history.csv                      one line an epoch
├── predictions.csv                  key, split, label, logits of every val and test image
└── *.png                            curves, confusion matrix, ROC, reliability
RUN.unfinished/                      the same, while it is being made, with plan.json and the checkpoint
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..cache.errors import CacheBusy, MedalError, StudentError
from ..cache.forms import sync_folder
from ..cache.leftovers import Kind
from ..cache.life import differences
from ..cache.lock import locked
from ..cache.writer import move_into_place, put_back, remove, write_file

__all__ = ["RUN_KIND", "Action", "Found", "Predictions", "decide", "look", "read_predictions"]

Action = Literal["create", "resume"]

RUN, PLAN, CHECKPOINT = "run.json", "plan.json", "checkpoint.safetensors"
METRICS, HISTORY, PREDICTIONS = "metrics.json", "history.csv", "predictions.csv"


def work_folder(run: Path) -> Path:
    """Return the folder beside a run in which it is made."""
    return run.with_name(f"{run.name}.unfinished")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What stands where a run shall be: nothing, a finished run or something else; and what is beside it.

    Attributes
    ----------
    working_on : the request of unfinished work in the work folder
    stranger : the work folder holds what no training of medal left there
    """

    run: Path
    holds: Literal["nothing", "run", "other"]
    working_on: Mapping[str, Any] | None = None
    stranger: bool = False


def look(run: Path) -> Found:
    """Look at a run's place."""
    holds: Literal["nothing", "run", "other"] = "other"
    if not run.exists() or (run.is_dir() and not any(run.iterdir())):
        holds = "nothing"
    elif (run / RUN).is_file():
        holds = "run"
    work = work_folder(run)
    working_on = _read_request(work / PLAN)
    # Before the plan is written, a killed training leaves at most a draft of it.
    stranger = working_on is None and work.exists() and any(item.name != f".{PLAN}.part" for item in work.iterdir())
    return Found(run=run, holds=holds, working_on=working_on, stranger=stranger)


def _read_request(path: Path) -> Any:
    """Return the request that a plan or a finished run records; None if the file is neither."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["request"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def decide(found: Found, request: Mapping[str, Any], *, overwrite: bool) -> Action:
    """Decide what to do about a run, as a pure function of what is there and what is asked.

    Raises
    ------
    StudentError
        The place holds a finished run or unfinished work of other settings and `overwrite` is not set, or it holds
        something that is no run, which is never touched.
    """
    if found.holds == "other":
        raise StudentError(f"'{found.run}' holds something that is no run of medal; give another --out.")
    if found.stranger:
        raise StudentError(
            f"'{work_folder(found.run)}', where the run would be made, holds something else; give another --out."
        )
    if found.holds == "run" and not overwrite:
        raise StudentError(
            f"'{found.run}' holds a finished run. Give another --out, or --overwrite to replace it once the new one "
            "is finished."
        )
    if found.holds == "run" and not _is_part(found.run):
        raise StudentError(
            f"'{found.run}' holds a finished run and files that are not medal's, which --overwrite would lose; move "
            "them away, or give another --out."
        )
    if found.working_on is None:
        return "create"
    different = differences(found.working_on, request)
    if not different:
        return "resume"
    if not overwrite:
        raise StudentError(
            f"'{work_folder(found.run)}' holds an unfinished run that differs in {', '.join(different)}. "
            "Give its settings again to resume it, another --out, or --overwrite to begin anew."
        )
    return "create"


@contextmanager
def working(run: Path, tell: Callable[[str], None]) -> Iterator[Path]:
    """Hold a run against a second process and yield its work folder, made if need be.

    Raises
    ------
    StudentError
        Another process is at it.
    """
    work = work_folder(run)
    try:
        with locked(run, wait=False, tell=tell):
            # A process may have died in `finish`, between two renames: the old run comes back until the new one, whole
            # in the work folder, takes its place after all. A script may have made the empty folder again.
            _remove_empty(run)
            put_back(run)
            work.mkdir(parents=True, exist_ok=True)
            try:
                yield work
            except MedalError:
                # What failed before its first checkpoint left nothing that a second try could use.
                if _is_part(work) and not (work / CHECKPOINT).exists():
                    remove(work)
                raise
    except CacheBusy as error:
        holder = str(error).partition(";")[0]
        raise StudentError(f"{holder}; nothing was touched. Wait for it, or give another --out.") from error


def make_durable(work: Path) -> None:
    """Flush every file of a work folder to disk: what is written next says that they are there."""
    for item in work.iterdir():
        with item.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(work)


def clear(work: Path) -> None:
    """Empty a work folder."""
    for item in work.iterdir():
        remove(item)


def finish(work: Path, run: Path) -> None:
    """Move a whole folder to its place, then drop what only the making needed; an old run goes after that."""
    _remove_empty(run)
    move_into_place(work, run)
    for name in (PLAN, CHECKPOINT):
        remove(run / name)


def _remove_empty(run: Path) -> None:
    if run.is_dir() and not any(run.iterdir()):
        run.rmdir()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as JSON, durably and in one step; no NaN."""
    write_file(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write one line an epoch."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


# ── Leftovers ────────────────────────────────────────────────────────────────────────────────────────────────────

_PART = re.compile(
    r"(run|plan|config|metrics)\.json|(history|predictions)\.csv|(model|checkpoint)\.safetensors|[a-z]+\.png|README\.md"
)


def _is_part(path: Path) -> bool:
    """Tell whether a folder holds files of a run, or drafts of them, and nothing else."""
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        known = all(
            entry.is_file(follow_symlinks=False) and _PART.fullmatch(entry.name.removeprefix(".").removesuffix(".part"))
            for entry in entries
        )
    return known and (_records_request(path / RUN) or not (path / RUN).exists())


def _records_request(path: Path) -> bool:
    # A pipe would be waited for, and a link leads elsewhere.
    return path.is_file() and not path.is_symlink() and _read_request(path) is not None


RUN_KIND = Kind(
    work="unfinished run",
    suffix=work_folder(Path("x")).name.removeprefix("x"),
    drafts=("replaced",),
    last=PLAN,
    is_work=lambda path: _records_request(path / PLAN),
    is_part=_is_part,
    is_finished=lambda path: _records_request(path / RUN),
)


# ── Predictions ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Predictions:
    """A student's answers on one split, in the cache's order.

    Attributes
    ----------
    key : (N, 16) uint8
    label : (N,) int32, -1 unknown; or (N, C) uint8, 255 unknown
    logits : (N, C) float32, before temperature
    """

    key: npt.NDArray[np.uint8]
    label: npt.NDArray[Any]
    logits: npt.NDArray[np.float32]


def write_predictions(path: Path, splits: Mapping[str, Predictions], classes: Sequence[str]) -> None:
    """Write predictions as a table: ``key`` in hex, ``split``, ``label`` (or one column a label), ``logit:CLASS`` …

    Logits are written with the digits that give the same float32 back.
    """
    several = any(part.label.ndim == 2 for part in splits.values())
    labels = [f"label:{name}" for name in classes] if several else ["label"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "split", *labels, *(f"logit:{name}" for name in classes)])
        for split, part in splits.items():
            for key, label, logits in zip(part.key, np.atleast_2d(part.label.T).T, part.logits, strict=True):
                writer.writerow([key.tobytes().hex(), split, *label.tolist(), *map(str, logits)])


def read_predictions(run: Path) -> dict[str, Predictions]:
    """Read the predictions of a finished run, by split.

    Raises
    ------
    StudentError
        The folder has none, or they are damaged.
    """
    path = run / PREDICTIONS
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        logit = [index for index, name in enumerate(header) if name.startswith("logit:")]
        label = [index for index, name in enumerate(header) if name == "label" or name.startswith("label:")]
        several = header[label[0]] != "label"
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
            )
            for split, part in splits.items()
        }
    except (OSError, ValueError, IndexError, OverflowError) as error:
        raise StudentError(f"The predictions '{path}' cannot be read: {error}.") from error
