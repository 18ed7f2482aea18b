"""The fourth round of docs/PROTOCOL.md: what a probe on the teacher's features is worth, by the old recipe and the new.

    python benchmarks/evidence/probes.py busi ham10000 …  [--label-fraction 0.05] [--split test|val] [--work DIR]
    python benchmarks/evidence/probes.py --table          the tables of docs/PROBES.md, from docs/evidence/probes/

Each set, share of labels and fold is one line of docs/evidence/probes/SPLIT.jsonl. The teacher runs once over a set
that is new here, and DIR (default: caches/evidence) keeps what it says. The teacher is dinov2-small (recovered).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t
from sets import FOLDS, FRACTIONS, MORE_SETS, PNEUMONIA, SETS, write_table

from medal.cache.reader import Cache
from medal.pipeline.api import cache_teacher
from medal.pipeline.datasets.columns.dataset import SPLITS
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.metrics import log_loss, score
from medal.pipeline.probe.fit import fit_probe, logits
from medal.pipeline.probe.settings import ProbeSettings
from medal.student.targets.few_labels import choose_labelled
from medal.student.targets.refitting import hide_labels

ROOT = Path(__file__).resolve().parents[2]
LINES = ROOT / "docs/evidence/probes"
NAMES = (*(one.name for one in (*SETS, *MORE_SETS)), "pneumonia")
# Of last4: CLS of the last block, then its mean patch, which is what cls+mean is.
CLS_AND_MEAN = 2 / 5
# Name → share of the feature, and recipe of the probe.
RECIPES = {
    "old": (CLS_AND_MEAN, "grid"),
    "new": (1.0, "auto"),
    "new on cls+mean": (CLS_AND_MEAN, "auto"),
    "grid on last4": (1.0, "grid"),
}


class Rows(NamedTuple):
    """All rows of a set, whatever their split: features (N, F), labels, keys, patients."""

    feature: npt.NDArray[np.float16]
    label: npt.NDArray[Any]
    key: npt.NDArray[np.uint8]
    group: npt.NDArray[Any]
    task: Any
    classes: Sequence[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=", ".join(NAMES))
    shared = Path(os.environ.get("MEDAL_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--teacher", type=Path, default=shared / "teachers/dinov2-small")
    parser.add_argument("--work", type=Path, default=ROOT / "caches/evidence")
    parser.add_argument("--label-fraction", type=float, action="append", help="repeat; default: 0.05, 0.2 and 1")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="what is scored")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        print("\n\n".join(tables(asked.split)))
        return
    path = LINES / f"{asked.split}.jsonl"
    done = [line["unit"] for line in read(path)]
    for name in asked.sets:
        rows, splits = load(name, asked)
        for fraction, fold in product(asked.label_fraction or FRACTIONS, range(FOLDS)):
            if name == "pneumonia" and fraction == 1 and fold:
                continue  # its splits are given, so that all draws of all labels are one
            unit = {"set": name, "label_fraction": fraction, "fold": fold}
            if unit not in done:
                line = {"unit": unit, **measure(rows, splits[fold], fraction, fold, asked.split)}
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(unit, {one: round(line[one]["auroc"], 4) for one in RECIPES}, flush=True)


def load(name: str, asked: argparse.Namespace) -> tuple[Rows, list[npt.NDArray[np.str_]]]:
    """Return all rows of a set and, for each fold, the split of each."""
    teacher = {"teacher": str(asked.teacher), "feature": "last4", "image_size": "auto"}
    if name == "pneumonia":
        cache = cache_teacher(asked.data / PNEUMONIA, asked.work / "pneumonia-last4.zarr", **teacher).cache
        return gather(cache), [split_names(cache)] * FOLDS
    small = next(one for one in (*SETS, *MORE_SETS) if one.name == name)
    table = write_table(small, asked.data, asked.work)
    whole = asked.work / f"{name}-last4.zarr"
    rows = gather(cache_teacher(table, whole, options=small.options("r0f0"), **teacher).cache)
    splits = []
    for fold in range(FOLDS):
        dataset = open_dataset(str(table), small.options(f"r0f{fold}"))
        splits.append(np.array(SPLITS)[dataset.split][same_rows(dataset.keys(), dataset.label, rows)])
    return rows, splits


def gather(cache: Cache) -> Rows:
    column = {
        name: np.concatenate([cache.read(split, name) for split in cache.splits])
        for name in ("feature", "label", "key", "group")
    }
    return Rows(
        column["feature"][:, 0],
        column["label"],
        column["key"],
        column["group"],
        cache.manifest.task,
        cache.manifest.classes,
    )


def split_names(cache: Cache) -> npt.NDArray[np.str_]:
    return np.repeat(np.array(cache.splits), list(cache.manifest.rows.values()))


def same_rows(key: npt.NDArray[np.uint8], label: npt.NDArray[Any], rows: Rows) -> npt.NDArray[np.int64]:
    """Return where each of the rows is among others in whatever order, by key and label."""
    theirs, ours = (
        np.lexsort((*labels.reshape(len(labels), -1).T, *keys.T))
        for keys, labels in ((key, label), (rows.key, rows.label))
    )
    place = np.empty(len(ours), np.int64)
    place[ours] = theirs
    return place


def measure(rows: Rows, split: npt.NDArray[np.str_], fraction: float, seed: int, scored: str) -> dict[str, Any]:
    train, val, tested = (np.flatnonzero(split == name) for name in ("train", "val", scored))
    labelled = choose_labelled(
        rows.key[train], rows.group[train], rows.label[train], rows.task, fraction=fraction, seed=seed
    )
    found: dict[str, Any] = {"labelled": int(labelled.sum()), "train": len(train), "tested": len(tested)}
    for name, (share, recipe) in RECIPES.items():
        if name == "grid on last4" and found["new"]["recipe"] == "grid":
            found[name] = found["new"]
            continue
        feature = rows.feature[:, -round(share * rows.feature.shape[1]) :]
        probe = fit_probe(
            {"train": feature[train], "val": feature[val]},
            {"train": hide_labels(rows.label[train], ~labelled, rows.task), "val": rows.label[val]},
            keys=rows.key[train],
            groups=rows.group[train],
            task=rows.task,
            n_classes=len(rows.classes),
            settings=ProbeSettings(recipe=recipe, folds=0),
        )
        given = logits(feature[tested], probe.weight[-1], probe.bias[-1])
        figures = score(given, rows.label[tested], rows.task, rows.classes)
        found[name] = {
            "recipe": probe.recipe,
            "auroc": figures.auroc,
            "accuracy": figures.accuracy,
            "log_loss": log_loss(given / np.float32(probe.temperature.value), rows.label[tested], rows.task),
            "temperature": probe.temperature.value,
        }
    return found


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────────────────────


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def tables(split: str) -> Iterator[str]:
    lines = read(LINES / f"{split}.jsonl")
    for fraction in FRACTIONS:
        here = [line for line in lines if line["unit"]["label_fraction"] == fraction]
        by_set = {name: [line for line in here if line["unit"]["set"] == name] for name in NAMES}
        by_set = {name: found for name, found in by_set.items() if found}
        if by_set:
            yield table(fraction, by_set)


def table(fraction: float, by_set: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    text = [
        f"**{fraction:.0%} of the labels**, AUROC",
        "",
        "| set | labelled images | old | new | new minus old | new, `cls+mean` | `grid`, `last4` |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in by_set.items():
        mean = {one: float(np.mean([line[one]["auroc"] for line in found])) for one in RECIPES}
        low, high = interval(found, official=name == "pneumonia")
        count = (
            f"{np.mean([line['labelled'] for line in found]):.0f} of {np.mean([line['train'] for line in found]):.0f}"
        )
        text.append(
            f"| {name} | {count} | {mean['old']:.3f} | {mean['new']:.3f} | {mean['new'] - mean['old']:+.3f} "
            f"({low:+.3f} to {high:+.3f}) | {mean['new on cls+mean']:.3f} | {mean['grid on last4']:.3f} |"
        )
    each = {one: [np.mean([line[one]["auroc"] for line in found]) for found in by_set.values()] for one in RECIPES}
    gain = np.subtract(each["new"], each["old"])
    reach = student_t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
    text.append(
        f"| **mean of {len(gain)} sets** | | {np.mean(each['old']):.3f} | {np.mean(each['new']):.3f} | "
        f"{gain.mean():+.3f} ({gain.mean() - reach:+.3f} to {gain.mean() + reach:+.3f}) | "
        f"{np.mean(each['new on cls+mean']):.3f} | {np.mean(each['grid on last4']):.3f} |"
    )
    return "\n".join(text)


def interval(found: Sequence[Mapping[str, Any]], *, official: bool) -> tuple[float, float]:
    """Return the 95 % interval of new minus old over folds, by Nadeau and Bengio (2003) where train sets overlap."""
    gain = np.array([line["new"]["auroc"] - line["old"]["auroc"] for line in found])
    if len(gain) < 2:
        return float("nan"), float("nan")
    overlap = 0.0 if official else float(np.mean([line["tested"] / line["train"] for line in found]))
    reach = student_t.ppf(0.975, len(gain) - 1) * np.sqrt(gain.var(ddof=1) * (1 / len(gain) + overlap))
    return float(gain.mean() - reach), float(gain.mean() + reach)


if __name__ == "__main__":
    main()
