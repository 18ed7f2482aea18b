"""The run folder: the result of stage two, made in a work folder beside it and moved when complete.

RUN/
├── config.json, model.safetensors   the student in timm's form: timm.create_model("local-dir:RUN", pretrained=True)
├── README.md                        the model card
├── run.json                         every setting, the cache's digests, versions; its existence means finished
├── metrics.json                     student and teacher on val and test, with intervals
├── history.csv                      one line an epoch
├── predictions.csv                  key, split, label, logits of every val and test image
├── teacher.csv                      the same of the teacher's probe
├── likeness.safetensors             what train's embeddings are like: means of classes and their spread
├── member.json                      its seed, its α and T, its best epoch
├── *.png                            curves, confusion matrix, ROC, reliability
├── choice.json                      what `--alpha auto` tried on val, and took; or whom `--teach auto` took to teach
├── seed-K/                          of several seeds: the top level is the best one on val, these are the others,
│                                    each with its weights, history, predictions and member.json
├── baseline/                        students of the labels alone, laid out in the same way
└── domain-NAME/                     with --leave-one-domain-out: a run of its own, of all that was trained without
                                     NAME; the top level then has README.md, metrics.json and run.json alone
RUN.unfinished/                      the same, while it is being made, with plan.json and the checkpoint
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...cache.errors import CacheBusy, MedalError, StudentError
from ...cache.machine.drafts import sync_folder, write_file
from ...cache.machine.permission import require_place, share_as_parent
from ...cache.making.leftovers import Kind
from ...cache.making.life import differences
from ...cache.making.lock import locked
from ...cache.making.writer import move_into_place, put_back, remove
from ...cache.progress import Tell

__all__ = ["RUN_KIND", "Action", "RunPlace", "choose_action", "inspect_run"]

Action = Literal["create", "resume", "extend", "reuse"]

MEMBER, CHOICE, BASELINE, TRIALS = "member.json", "choice.json", "baseline", "choice"
LIKENESS = "likeness.safetensors"
RUN, PLAN, CHECKPOINT = "run.json", "plan.json", "checkpoint.safetensors"
# What can be added to a finished run.
_GROWING = ("seeds", "baseline")
METRICS, HISTORY, PREDICTIONS, TEACHER = "metrics.json", "history.csv", "predictions.csv", "teacher.csv"


def work_folder(run: Path) -> Path:
    """Return the folder beside a run in which it is made."""
    return run.with_name(f"{run.name}.unfinished")


@dataclass(frozen=True, kw_only=True)
class RunPlace:
    """What is at a run's path: nothing, a finished run or something else; and its work folder.

    Attributes
    ----------
    working_on : the request of unfinished work in the work folder
    finished : the request of a finished run
    stranger : the work folder holds files that medal did not write
    """

    run: Path
    holds: Literal["nothing", "run", "other"]
    working_on: Mapping[str, Any] | None = None
    finished: Mapping[str, Any] | None = None
    stranger: bool = False


def inspect_run(run: Path) -> RunPlace:
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
    return RunPlace(run=run, holds=holds, working_on=working_on, finished=_read_request(run / RUN), stranger=stranger)


def _read_request(path: Path) -> Any:
    """Return the request that a plan or a finished run records; None if the file is neither."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["request"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def choose_action(found: RunPlace, request: Mapping[str, Any], *, overwrite: bool) -> Action:
    """Choose what to do about a run: a pure function of what exists and what is requested.

    Raises
    ------
    StudentError
        The place holds a finished run or unfinished work of other settings and `overwrite` is not set, or it holds
        something that is no run, which is never touched.
    """
    if found.holds == "other":
        raise StudentError(f"'{found.run}' is not a run of medal; give another --out.")
    if found.stranger:
        raise StudentError(
            f"'{work_folder(found.run)}', the work folder of the new run, holds something else; give another --out."
        )
    if found.holds == "run" and not overwrite and found.finished and grows(request, found.finished):
        return "reuse"  # all that is asked for is there, and perhaps more seeds or a baseline
    added = found.finished is not None and found.finished != request and grows(found.finished, request)
    if found.holds == "run" and not overwrite and not added:
        # The message must name the settings that were not repeated.
        other = differences(_without_growth(found.finished), _without_growth(request)) if found.finished else []
        raise StudentError(
            f"'{found.run}' holds a finished run{' that differs in ' if other else ''}{', '.join(other)}. Give "
            "another --out, or --overwrite to replace it when the new one is finished. With the same settings, "
            "--baseline or more --seeds add to it."
        )
    if found.holds == "run" and not _is_part(found.run):
        raise StudentError(
            f"'{found.run}' holds a finished run and files that medal did not write, which "
            f"{'--overwrite' if overwrite else 'adding to it'} would lose; move them away, or give another --out."
        )
    if found.working_on is None:
        return "extend" if found.holds == "run" and not overwrite else "create"
    if grows(found.working_on, request):
        return "resume"
    different = differences(found.working_on, request)
    if not overwrite:
        raise StudentError(
            f"'{work_folder(found.run)}' holds an unfinished run that differs in {', '.join(different)}. Repeat its "
            "settings to resume it, give another --out, or --overwrite to start again."
        )
    return "create"


def grows(there: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Tell whether a request equals the existing one, except perhaps for more seeds or a baseline."""
    more = all(int(asked.get(name, 0)) >= int(there.get(name, 0)) for name in _GROWING)
    return more and _without_growth(there) == _without_growth(asked)


def _without_growth(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in _GROWING}


@contextmanager
def working(run: Path, tell: Tell) -> Iterator[Path]:
    """Hold a run against a second process and yield its work folder, made if need be.

    Raises
    ------
    StudentError
        Another process is making it.
    """
    work = work_folder(run)
    for place in (run, work):
        require_place(place)
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
                # A failure before the first checkpoint leaves nothing to resume.
                if _is_part(work) and not any(path.name in (CHECKPOINT, MEMBER) for path in work.rglob("*")):
                    remove(work)
                raise
    except CacheBusy as error:
        holder = str(error).partition(";")[0]
        raise StudentError(f"{holder}; nothing was touched. Wait for it, or give another --out.") from error


def make_durable(work: Path) -> None:
    """Flush every file in a work folder to disk, before a file is written that declares them complete."""
    for item in work.iterdir():
        if item.is_dir():
            make_durable(item)
            continue
        with item.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(work)


def clear(work: Path) -> None:
    """Empty a work folder."""
    for item in work.iterdir():
        remove(item)


def finish(work: Path, run: Path, tell: Tell) -> None:
    """Move a complete folder to its place, then delete temporary files, then the old run."""
    _remove_empty(run)
    share_as_parent(work)
    move_into_place(work, run, tell)
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
    r"(run|plan|config|metrics|member|choice)\.json|(history|predictions|teacher)\.csv|(model|checkpoint|likeness)\.safetensors"
    r"|[a-z]+\.png|README\.md"
)


def find_description(place: Path) -> Path | None:
    """Return the run.json for a folder: its own, or that of the run that it is a member of; None if there is none.

    A member is RUN/baseline, RUN/seed-K or RUN/baseline/seed-K.
    """
    found = place.absolute()
    for _ in range(3):
        if (found / RUN).is_file():
            return found / RUN
        if not _MEMBER_FOLDER.fullmatch(found.name):
            return None
        found = found.parent
    return None


_MEMBER_FOLDER = re.compile(rf"seed-\d+|{BASELINE}")
_PART_FOLDER = re.compile(rf"seed-\d+|{BASELINE}|{TRIALS}|alpha-[\d.]+-t-[\d.]+|domain-[A-Za-z0-9._-]+")


def _holds_parts(path: Path) -> bool:
    with os.scandir(path) as entries:
        return all(
            _PART_FOLDER.fullmatch(entry.name) is not None and _holds_parts(Path(entry.path))
            if entry.is_dir(follow_symlinks=False)
            else entry.is_file(follow_symlinks=False)
            and _PART.fullmatch(entry.name.removeprefix(".").removesuffix(".part")) is not None
            for entry in entries
        )


def _is_part(path: Path) -> bool:
    """Tell whether a folder holds files of a run, or drafts of them, and nothing else."""
    if not path.is_dir():
        return False
    known = _holds_parts(path)
    return known and (_records_request(path / RUN) or not (path / RUN).exists())


def _records_request(path: Path) -> bool:
    # Opening a pipe would block, and a link may lead elsewhere.
    return path.is_file() and not path.is_symlink() and _read_request(path) is not None


RUN_KIND = Kind(
    work="unfinished run",
    suffix=work_folder(Path("x")).name.removeprefix("x"),
    last=PLAN,
    is_work=lambda path: _records_request(path / PLAN),
    is_part=_is_part,
    is_finished=lambda path: _records_request(path / RUN),
)


# ── Predictions ──────────────────────────────────────────────────────────────────────────────────────────────────
