"""Carry out docs/PROTOCOL.md, or what is left of it: each finished unit is one line of docs/evidence/ROUND/*.jsonl.

    python benchmarks/evidence/run.py caches  [--data ../shared/data] [--work DIR]
    python benchmarks/evidence/run.py choose  ROUND
    python benchmarks/evidence/run.py measure ROUND [--repeats 1] [--only small|pneumonia]

ROUND is first, second or resnet18: see rounds.py. `choose` scores candidates on val, and never looks at test; `measure`
needs what was chosen, as `tables.py ROUND --choose` writes it down. All go on where they were stopped. DIR (default:
caches/evidence) holds caches and runs, some hundred MB. The teacher is dinov2-small (recovered).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import ROUNDS, Round, Settings
from sets import FOLDS, FRACTIONS, PNEUMONIA, SETS, SmallSet, write_table

from medal.pipeline.api import cache_teacher
from medal.pipeline.metrics import Resamples, bootstrap, compare
from medal.student.api import train_student
from medal.student.run import folder

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "docs/evidence"
# Kept and compared; the lower is the better of the last two.
FIGURES = ("auroc", "accuracy", "balanced_accuracy", "brier", "calibration_error")
SIZE, SIZE_PNEUMONIA, EPOCHS_PNEUMONIA, SEEDS_PNEUMONIA = 64, 56, 3, 2
VIEWS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("caches", "choose", "measure"))
    parser.add_argument("round", choices=tuple(ROUNDS), nargs="?", default="first")
    shared = Path(os.environ.get("MEDAL_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--teacher", type=Path, default=shared / "teachers/dinov2-small")
    parser.add_argument("--students", type=Path, default=shared / "students")
    parser.add_argument("--work", type=Path, default=ROOT / "caches/evidence")
    parser.add_argument("--repeats", type=int, default=1, help="of the five-fold cross-validation")
    parser.add_argument("--only", choices=("small", "pneumonia"), help="so that two processes can share the work")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    {"caches": make_caches, "choose": choose, "measure": measure}[asked.what](asked)


def make_caches(asked: argparse.Namespace) -> None:
    """Run the teacher once over every image and its views; what the folds need is taken over from these."""
    teacher = {"teacher": str(asked.teacher), "folds": 5, "tell": tell}
    for small in SETS:
        table = write_table(small, asked.data, asked.work)
        for views in (1, VIEWS):
            made = cache_teacher(
                table,
                source(small, views, asked),
                options=small.options("r0f0"),
                augment=small.augment,
                views=views,
                **teacher,
            )
            tell(f"{small.name}, {views} views: {made.action}, {made.computed} images computed")
    made = cache_teacher(
        asked.data / PNEUMONIA, asked.work / "pneumonia.zarr", image_size="auto", views=VIEWS, augment="xray", **teacher
    )
    tell(f"pneumonia: {made.action}, {made.computed} images computed")


# ── The choice, on val ───────────────────────────────────────────────────────────────────────────────────────────


def choose(asked: argparse.Namespace) -> None:
    """Train every candidate on all that is not val of the first fold's train, and keep its figures on val alone.

    The variants follow, added to the candidate that is the best by then.
    """
    this = ROUNDS[asked.round]
    done = Lines(asked.round, "choice.jsonl")
    for name, settings in this.candidates.items():
        choose_one(name, settings, this, done, asked)
    best = ranked(asked.round)[0]
    for name, more in this.variants.items():
        choose_one(f"{best}, {name}", {**this.candidates[best], **more}, this, done, asked)


def choose_one(name: str, settings: Settings, this: Round, done: Lines, asked: argparse.Namespace) -> None:
    for small in SETS:
        table = write_table(small, asked.data, asked.work)
        for fraction in FRACTIONS[:2]:
            for seed in this.pilots:
                unit = {"set": small.name, "candidate": name, "label_fraction": fraction, "seed": seed}
                if unit in done:
                    continue
                own = {"seed": seed, "label_fraction": fraction}
                cache = fold_cache(small, table, "r0f0", settings, asked)
                found = train(small, cache, table, "r0f0", asked, {**settings, **own})
                done.add(unit, {"settings": dict(settings), "val": _few(found["val"])})


def ranked(name: str) -> list[str]:
    """Return a round's candidates and variants by their mean AUROC on val, the best first; never the labels alone."""
    each: dict[str, list[float]] = {}
    for line in Lines(name, "choice.jsonl").read():
        each.setdefault(line["unit"]["candidate"], []).append(line["val"]["auroc"])
    del each[next(iter(ROUNDS[name].candidates))]
    return sorted(each, key=lambda one: -float(np.mean(each[one])))


# ── The figures, on test ─────────────────────────────────────────────────────────────────────────────────────────


def measure(asked: argparse.Namespace) -> None:
    """Train student and baseline of every repeat, fold and fraction, and keep what they are worth on test."""
    recipe = json.loads((EVIDENCE / asked.round / "recipe.json").read_text(encoding="utf-8"))["settings"]
    done = Lines(asked.round, "outcomes.jsonl")
    if asked.only != "small":
        measure_pneumonia(asked, recipe, done)
    if asked.only == "pneumonia":
        return
    first = ROUNDS[asked.round].repeat
    folds = [(repeat, fold) for repeat in range(first, first + asked.repeats) for fold in range(FOLDS)]
    for fraction, (repeat, fold), small in product(FRACTIONS, folds, SETS):
        unit = {"set": small.name, "repeat": repeat, "fold": fold, "label_fraction": fraction}
        if unit in done:
            continue
        split = f"r{repeat}f{fold}"
        table = write_table(small, asked.data, asked.work)
        cache = fold_cache(small, table, split, recipe, asked)
        own = {"seed": repeat * FOLDS + fold, "label_fraction": fraction, "baseline": True}
        done.add(unit, arms(train(small, cache, table, split, asked, {**recipe, **own}), recipe))


def measure_pneumonia(asked: argparse.Namespace, recipe: Settings, done: Lines) -> None:
    """Train on the official splits; each seed knows labels of its own, and their mean is resampled by image."""
    for fraction in FRACTIONS:
        unit = {"set": "pneumonia", "label_fraction": fraction}
        if unit in done:
            continue
        runs = []
        for seed in range(SEEDS_PNEUMONIA):
            own = {"seed": seed, "label_fraction": fraction, "baseline": True, "epochs": EPOCHS_PNEUMONIA}
            out = asked.work / f"runs/{asked.round}-pneumonia-{fraction:g}-{seed}"
            if not (out / folder.RUN).exists():
                student = {**ROUNDS[asked.round].settings(asked.students), "image_size": SIZE_PNEUMONIA}
                cache, dataset = asked.work / "pneumonia.zarr", asked.data / PNEUMONIA
                train_student(cache, dataset, out, tell=tell, **{**student, **recipe, **own})
            runs.append(out)
        metrics = [json.loads((out / folder.METRICS).read_text(encoding="utf-8")) for out in runs]
        found = {arm: _mean([_figures(one, arm) for one in metrics]) for arm in ("student", "baseline", "teacher")}
        done.add(unit, {**found, "seeds": [arms(one, recipe) for one in metrics], **paired(runs, metrics)})
        for out in runs:
            shutil.rmtree(out)


def paired(runs: Sequence[Path], metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return student minus baseline on test, seeds averaged inside each resample of the images."""
    drawn, values = {}, {}
    for arm, place in (("student", ""), ("baseline", folder.BASELINE)):
        parts = [folder.read_predictions(out / place)["test"] for out in runs]
        drawn[arm] = Resamples.mean([bootstrap(part.logits, part.label, "multiclass") for part in parts])
        values[arm] = _mean([_figures(one, arm) for one in metrics])
    found = compare(drawn["student"], drawn["baseline"], (values["student"], values["baseline"]))
    return {"student_minus_baseline": {name: one.to_dict() for name, one in found.items()}}


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Lines:
    """Finished units and their figures, one JSON object a line; added to, never rewritten."""

    def __init__(self, of: str, name: str) -> None:
        self.path = EVIDENCE / of / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._units = [line["unit"] for line in self.read()]

    def read(self) -> list[dict[str, Any]]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]

    def __contains__(self, unit: Mapping[str, Any]) -> bool:
        return dict(unit) in self._units

    def add(self, unit: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"unit": unit, **found}) + "\n")
        self._units.append(dict(unit))
        tell(f"done: {unit}")


def source(small: SmallSet, views: int, asked: argparse.Namespace) -> Path:
    return asked.work / (f"{small.name}.zarr" if views == 1 else f"{small.name}-{views}-views.zarr")


def fold_cache(small: SmallSet, table: Path, split: str, settings: Settings, asked: argparse.Namespace) -> Path:
    """Make the cache of a fold, its features taken over and its probe fitted on its own train rows."""
    views = VIEWS if settings.get("targets") == "stored" else 1
    whole = source(small, views, asked)
    made = cache_teacher(
        table,
        whole.with_name(f"{whole.stem}-{split}.zarr"),
        options=small.options(split),
        views=views,
        sources=[whole],
        teacher=str(asked.teacher),
        augment=small.augment,
    )
    if made.computed:
        raise SystemExit(f"{small.name}, {split}: {made.computed} images went through the teacher again")
    return made.cache.path


def train(
    small: SmallSet, cache: Path, table: Path, split: str, asked: argparse.Namespace, settings: Settings
) -> Mapping[str, Any]:
    """Train in a folder that is removed afterwards, and return the run's result."""
    out = asked.work / f"runs/{asked.round}-{os.getpid()}"
    student = {**ROUNDS[asked.round].settings(asked.students), "image_size": SIZE, "epochs": small.epochs}
    shutil.rmtree(out, ignore_errors=True)
    trained = train_student(cache, table, out, options=small.options(split), **{**student, **settings})
    shutil.rmtree(out)
    return trained.result


def arms(metrics: Mapping[str, Any], recipe: Settings) -> dict[str, Any]:
    """Return the figures of student, baseline and teacher on test, and whether the gate fired."""
    found = {arm: _figures(metrics, arm) for arm in ("student", "baseline", "teacher")}
    return {**found, "gate": bool(metrics["gate"]["fires"]), "alpha": metrics["alpha"], "recipe": dict(recipe)}


def _figures(metrics: Mapping[str, Any], arm: str) -> dict[str, Any]:
    return _few((metrics if arm == "student" else metrics[arm])["test"])


def _few(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in FIGURES}


def _mean(each: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    rows = list(each)
    return {name: sum(row[name] for row in rows) / len(rows) for name in FIGURES}


def tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
