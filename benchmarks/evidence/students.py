"""The fifth round of docs/PROTOCOL.md: is a student that medal teaches by default better than its labels alone?

    python benchmarks/evidence/students.py efficientnet [SET …] [--label-fraction 0.05] [--work DIR]
    python benchmarks/evidence/students.py efficientnet --seen 4800      the sixth round: the same with more steps
    python benchmarks/evidence/students.py --table         the tables of docs/RESULTS.md, from docs/evidence/fifth/

Each student, set, share of labels and fold is one line of docs/evidence/fifth/STUDENT.jsonl; what is there is not done
again. Students are efficientnet (ImageNet weights) and resnet18 (random weights). Features come from the caches of
probes.py, which the teacher makes once; DIR (default: caches/evidence) keeps them. The teacher is dinov2-small
(recovered).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t
from sets import FOLDS, FRACTIONS, MORE_SETS, PNEUMONIA, SETS, SmallSet, write_table

from medal.pipeline.api import cache_teacher
from medal.student.api import train_student

ROOT = Path(__file__).resolve().parents[2]
LINES = ROOT / "docs/evidence/fifth"
SMALL = {one.name: one for one in (*SETS, *MORE_SETS)}
NAMES = (*SMALL, "pneumonia")
FIGURES = ("auroc", "accuracy", "balanced_accuracy", "brier", "calibration_error", "log_loss")
SIZE, SIZE_PNEUMONIA, BATCH = 64, 56, 32
# Images seen by student and baseline; the other baseline takes as many steps as both together. The sixth round: 4800.
SEEN = 1600
STUDENTS = {
    "efficientnet": {"student": "tf_efficientnet_lite0", "weights": "tf_efficientnet_lite0"},
    "resnet18": {"student": "resnet18", "weights": "random"},
}
ARMS = ("student", "baseline", "longer", "teacher")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", nargs="?", choices=tuple(STUDENTS), default="efficientnet")
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"default: all of {', '.join(NAMES)}")
    shared = Path(os.environ.get("MEDAL_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--teacher", type=Path, default=shared / "teachers/dinov2-small")
    parser.add_argument("--students", type=Path, default=shared / "students")
    parser.add_argument("--work", type=Path, default=ROOT / "caches/evidence")
    parser.add_argument("--label-fraction", type=float, action="append", help="repeat; default: 0.05, 0.2 and 1")
    parser.add_argument("--seen", type=int, default=SEEN, help="images seen by each arm (default: %(default)s)")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        print("\n\n".join(tables(read(asked.student, asked.seen))))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # A fold of every set before the next one, so that what is there at any time is balanced.
    fractions = asked.label_fraction or FRACTIONS
    for fold, fraction, name in product(range(FOLDS), fractions, asked.sets or NAMES):
        unit = {"set": name, "label_fraction": fraction, "fold": fold}
        if all(line["unit"] != unit for line in read(asked.student, asked.seen)):
            write(asked, {"unit": unit, **measure(asked, name, fraction, fold)})


def measure(asked: argparse.Namespace, name: str, fraction: float, fold: int) -> dict[str, Any]:
    """Train by default, and a baseline of as many steps, and return the figures of all on test."""
    cache, data, options = fold_cache(asked, name, fold)
    rows = cache.manifest.rows["train"]
    epochs = max(1, round(asked.seen / rows))
    model = dict(STUDENTS[asked.student])
    if model["weights"] != "random":
        model["weights"] = str(asked.students / model["weights"])
    settings = {
        **model,
        "image_size": SIZE_PNEUMONIA if name == "pneumonia" else SIZE,
        "batch_size": BATCH,
        "augment": SMALL[name].augment if name in SMALL else "xray",
        "label_fraction": fraction,
        "seed": fold,
        "precision": "fp32",
    }
    taught = train(asked, cache, data, options, {**settings, "epochs": epochs, "baseline": True})
    longer = train(asked, cache, data, options, {**settings, "epochs": 2 * epochs, "alpha": 0.0})
    return {
        "rows": rows,
        "labelled": taught["labelled"],
        "epochs": epochs,
        "taught_by": taught["taught_by"],
        "gate": taught["gate"]["fires"],
        "seconds": [round(one["seconds"], 1) for one in (taught, longer)],
        **{arm: few(found["test"]) for arm, found in arms(taught, longer).items()},
    }


def arms(taught: Mapping[str, Any], longer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {"student": taught, "baseline": taught["baseline"], "longer": longer, "teacher": taught["teacher"]}


def few(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: round(figures[name], 5) for name in FIGURES}


def fold_cache(asked: argparse.Namespace, name: str, fold: int) -> tuple[Any, Path, Any]:
    """Return a fold's cache, its features taken over, its dataset and how that is read."""
    teacher = {"teacher": str(asked.teacher), "feature": "last4", "image_size": "auto", "tell": tell}
    if name == "pneumonia":
        data = asked.data / PNEUMONIA
        return cache_teacher(data, asked.work / "pneumonia-last4.zarr", **teacher).cache, data, None
    small: SmallSet = SMALL[name]
    table = write_table(small, asked.data, asked.work)
    whole = asked.work / f"{name}-last4.zarr"
    cache = cache_teacher(table, whole, options=small.options("r0f0"), **teacher).cache
    if fold:
        out = asked.work / f"{name}-last4-r0f{fold}.zarr"
        cache = cache_teacher(table, out, options=small.options(f"r0f{fold}"), sources=[whole], **teacher).cache
    return cache, table, small.options(f"r0f{fold}")


def train(asked: argparse.Namespace, cache: Any, data: Path, options: Any, settings: Mapping[str, Any]) -> Any:
    """Train in a folder that is removed afterwards, and return the run's result."""
    out = asked.work / f"runs/fifth-{os.getpid()}"
    shutil.rmtree(out, ignore_errors=True)
    result = dict(train_student(cache, data, out, options=options, **settings).result)
    result["labelled"] = json.loads((out / "run.json").read_text(encoding="utf-8"))["fit"].get("labelled")
    shutil.rmtree(out)
    return result


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────────────────────


def tables(lines: list[dict[str, Any]]) -> list[str]:
    """Return a table of figures for each share of labels, and one of the differences."""
    shares = sorted({line["unit"]["label_fraction"] for line in lines})
    found = []
    for share in shares:
        mine = [line for line in lines if line["unit"]["label_fraction"] == share]
        rows = [
            f"**{100 * share:g}% of the labels**, AUROC\n",
            "| set | folds | teacher | baseline | longer | student |",
        ]
        rows.append("|---|---|---|---|---|---|")
        means = []
        for name in [name for name in NAMES if any(line["unit"]["set"] == name for line in mine)]:
            each = [line for line in mine if line["unit"]["set"] == name]
            means.append([mean(each, arm) for arm in ("teacher", "baseline", "longer", "student")])
            rows.append(f"| {name} | {len(each)} | " + " | ".join(f"{value:.3f}" for value in means[-1]) + " |")
        rows.append("| **mean** | | " + " | ".join(f"{value:.3f}" for value in np.mean(means, 0)) + " |")
        found.append("\n".join(rows))
    return [*found, differences(lines, shares)]


def mean(lines: list[dict[str, Any]], arm: str, figure: str = "auroc") -> float:
    return float(np.mean([line[arm][figure] for line in lines]))


def differences(lines: list[dict[str, Any]], shares: list[float]) -> str:
    """Return student minus either baseline, the mean over sets of means over folds, with 95 % intervals over sets."""
    rows = ["**Student minus baseline**, means over sets, 95 % intervals over sets\n"]
    rows += ["| labels | figure | minus baseline | minus longer | sets above |", "|---|---|---|---|---|"]
    for share, figure in product(shares, FIGURES):
        mine = [line for line in lines if line["unit"]["label_fraction"] == share]
        names = [name for name in NAMES if any(line["unit"]["set"] == name for line in mine)]
        cells, above = [], []
        for other in ("baseline", "longer"):
            gains = [
                np.mean([line["student"][figure] - line[other][figure] for line in mine if line["unit"]["set"] == name])
                for name in names
            ]
            cells.append(interval(np.array(gains)))
            above.append(sum(gain > 0 for gain in gains))
        rows.append(f"| {100 * share:g}% | {figure} | {cells[0]} | {cells[1]} | {above[0]} of {len(names)} |")
    return "\n".join(rows)


def interval(values: Any) -> str:
    half = (
        student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    )
    return f"{values.mean():+.3f} ({values.mean() - half:+.3f} to {values.mean() + half:+.3f})"


# ── Lines ────────────────────────────────────────────────────────────────────────────────────────────────────────


def path_of(student: str, seen: int) -> Path:
    return LINES / (f"{student}.jsonl" if seen == SEEN else f"{student}-{seen}.jsonl")


def read(student: str, seen: int = SEEN) -> list[dict[str, Any]]:
    path = path_of(student, seen)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write(asked: argparse.Namespace, line: Mapping[str, Any]) -> None:
    LINES.mkdir(parents=True, exist_ok=True)
    with path_of(asked.student, asked.seen).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    tell(f"{line['unit']}: " + ", ".join(f"{arm} {line[arm]['auroc']:.3f}" for arm in ARMS))


def tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
