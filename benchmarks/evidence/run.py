"""Carry out docs/PROTOCOL.md, or what is left of it: each finished unit is one line of docs/evidence/*.jsonl.

    python benchmarks/evidence/run.py caches  [--data ../shared/data] [--work DIR]
    python benchmarks/evidence/run.py choose
    python benchmarks/evidence/run.py measure [--repeats 1] [--only small|pneumonia]

`choose` scores candidates on val, and never looks at test; `measure` needs what was chosen, written down in
docs/evidence/recipe.json. Both go on where they were stopped. DIR (default: caches/evidence) holds caches and runs,
some hundred MB. The teacher is dinov2-small (recovered), the student tf_efficientnet_lite0 from ImageNet weights.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sets import FOLDS, FRACTIONS, PNEUMONIA, SETS, SmallSet, write_table

from medal.pipeline.api import cache_teacher
from medal.pipeline.metrics import Resamples, bootstrap, compare
from medal.student import run as folder
from medal.student.api import train_student

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "docs/evidence"
# Kept and compared; the lower is the better of the last two.
FIGURES = ("auroc", "accuracy", "balanced_accuracy", "brier", "calibration_error")
STUDENT = {"student": "tf_efficientnet_lite0", "batch_size": 32, "precision": "fp32", "workers": 0}
SIZE, SIZE_PNEUMONIA, EPOCHS_PNEUMONIA, SEEDS_PNEUMONIA = 64, 56, 3, 2
PILOT_SEED = 100

Settings = Mapping[str, Any]
CANDIDATES: dict[str, Settings] = {
    "labels alone": {"alpha": 0.0},
    "kd, T 2, alpha .5": {"loss": "kd", "temperature": 2.0, "alpha": 0.5},
    "kd, T 2, alpha .9": {"loss": "kd", "temperature": 2.0, "alpha": 0.9},
    "kd, T 4, alpha .9": {"loss": "kd", "temperature": 4.0, "alpha": 0.9},
    "kd+feature, T 2, alpha .5": {"loss": "kd+feature", "temperature": 2.0, "alpha": 0.5},
    "kd+feature, T 2, alpha .9": {"loss": "kd+feature", "temperature": 2.0, "alpha": 0.9},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("caches", "choose", "measure"))
    shared = Path(os.environ.get("MEDAL_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--teacher", type=Path, default=shared / "teachers/dinov2-small")
    parser.add_argument("--weights", type=Path, default=shared / "students/tf_efficientnet_lite0")
    parser.add_argument("--work", type=Path, default=ROOT / "caches/evidence")
    parser.add_argument("--repeats", type=int, default=1, help="of the five-fold cross-validation")
    parser.add_argument("--only", choices=("small", "pneumonia"), help="so that two processes can share the work")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    {"caches": make_caches, "choose": choose, "measure": measure}[asked.what](asked)


def make_caches(asked: argparse.Namespace) -> None:
    """Run the teacher once over every image; what the folds need is taken over from these."""
    teacher = {"teacher": str(asked.teacher), "folds": 5}
    for small in SETS:
        table = write_table(small, asked.data, asked.work, 1)
        out = asked.work / f"{small.name}.zarr"
        made = cache_teacher(table, out, options=small.options("r0f0"), tell=tell, augment=small.augment, **teacher)
        tell(f"{small.name}: {made.action}, {made.computed} images computed")
    made = cache_teacher(
        asked.data / PNEUMONIA, asked.work / "pneumonia.zarr", tell=tell,
        image_size="auto", views=4, augment="xray", **teacher,
    )  # fmt: skip
    tell(f"pneumonia: {made.action}, {made.computed} images computed")


# ── The choice, on val ───────────────────────────────────────────────────────────────────────────────────────────


def choose(asked: argparse.Namespace) -> None:
    """Train every candidate on all that is not val of the first fold's train, and keep its figures on val alone."""
    done = Lines("choice.jsonl")
    for small in SETS:
        table = write_table(small, asked.data, asked.work, 1)
        cache = fold_cache(small, table, "r0f0", asked)
        for name, settings in CANDIDATES.items():
            for fraction in FRACTIONS[:2]:
                unit = {"set": small.name, "candidate": name, "label_fraction": fraction}
                if unit in done:
                    continue
                own = {"seed": PILOT_SEED, "label_fraction": fraction}
                found = train(small, cache, table, "r0f0", asked, {**settings, **own})
                done.add(unit, {"val": _few(found["val"])})


# ── The figures, on test ─────────────────────────────────────────────────────────────────────────────────────────


def measure(asked: argparse.Namespace) -> None:
    """Train student and baseline of every repeat, fold and fraction, and keep what they are worth on test."""
    recipe = json.loads((EVIDENCE / "recipe.json").read_text(encoding="utf-8"))["settings"]
    done = Lines("outcomes.jsonl")
    if asked.only != "small":
        measure_pneumonia(asked, recipe, done)
    if asked.only == "pneumonia":
        return
    tables = {small.name: write_table(small, asked.data, asked.work, asked.repeats) for small in SETS}
    for repeat in range(asked.repeats):
        for fold in range(FOLDS):
            for small in SETS:
                table = tables[small.name]
                units = [{"set": small.name, "repeat": repeat, "fold": fold, "label_fraction": f} for f in FRACTIONS]
                if all(unit in done for unit in units):
                    continue
                split = f"r{repeat}f{fold}"
                cache = fold_cache(small, table, split, asked)
                for unit in units:
                    if unit in done:
                        continue
                    seed = repeat * FOLDS + fold
                    own = {"seed": seed, "label_fraction": unit["label_fraction"], "baseline": True}
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
            out = asked.work / f"runs/pneumonia-{fraction:g}-{seed}"
            if not (out / folder.RUN).exists():
                student = {**STUDENT, "weights": str(asked.weights), "image_size": SIZE_PNEUMONIA}
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

    def __init__(self, name: str) -> None:
        self.path = EVIDENCE / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self._units = [json.loads(line)["unit"] for line in lines]

    def __contains__(self, unit: Mapping[str, Any]) -> bool:
        return dict(unit) in self._units

    def add(self, unit: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"unit": unit, **found}) + "\n")
        self._units.append(dict(unit))
        tell(f"done: {unit}")


def fold_cache(small: SmallSet, table: Path, split: str, asked: argparse.Namespace) -> Path:
    """Make the cache of a fold, its features taken over and its probe fitted on its own train rows."""
    made = cache_teacher(
        table, asked.work / f"{small.name}-{split}.zarr", options=small.options(split),
        sources=[asked.work / f"{small.name}.zarr"], teacher=str(asked.teacher), augment=small.augment,
    )  # fmt: skip
    if made.computed:
        raise SystemExit(f"{small.name}, {split}: {made.computed} images went through the teacher again")
    return made.cache.path


def train(
    small: SmallSet, cache: Path, table: Path, split: str, asked: argparse.Namespace, settings: Settings
) -> Mapping[str, Any]:
    """Train in a folder that is removed afterwards, and return the run's result."""
    out = asked.work / "runs/now"
    student = {**STUDENT, "weights": str(asked.weights), "image_size": SIZE, "epochs": small.epochs}
    shutil.rmtree(out, ignore_errors=True)
    trained = train_student(cache, table, out, options=small.options(split), **{**student, **settings})
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
