"""Print the tables of docs/RESULTS.md from the lines of docs/evidence/ROUND, and the figures as one JSON line.

    python benchmarks/evidence/tables.py ROUND [--choose]

ROUND is first, second or resnet18. `--choose` ranks the candidates by their mean AUROC on val and writes the first to
docs/evidence/ROUND/recipe.json.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rounds import ROUNDS
from run import EVIDENCE, FIGURES, Lines, ranked
from scipy import stats
from sets import FOLDS, FRACTIONS, SETS

FEW, PRIMARY = FRACTIONS[:2], "5 and 20%"
# Of the images that a fold divides: every fold tests on one part and trains on four.
TEST_OVER_TRAIN = 1 / (FOLDS - 1)
NORMAL_95 = 1.959964

Outcomes = dict[tuple[str, float], list[Mapping[str, Any]]]


@dataclass(frozen=True)
class Estimate:
    """A mean difference, the standard error of it, and the degrees of freedom of that (infinite: of a bootstrap)."""

    mean: float
    error: float
    freedom: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        reach = self.error * float(stats.t.ppf(0.5 + level / 2, self.freedom))
        return self.mean - reach, self.mean + reach

    def to_list(self) -> list[float]:
        return [self.mean] if math.isnan(self.error) else [self.mean, *self.interval()]

    def __str__(self) -> str:
        if math.isnan(self.error):
            return f"{self.mean:+.3f}"
        low, high = self.interval()
        return f"{self.mean:+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("round", choices=tuple(ROUNDS))
    parser.add_argument("--choose", action="store_true")
    asked = parser.parse_args()
    if asked.choose:
        rank(asked.round)
        return
    outcomes = read(asked.round)
    figures(outcomes)
    found = differences(outcomes)
    gains(outcomes)
    print(json.dumps(found))


# ── The choice ───────────────────────────────────────────────────────────────────────────────────────────────────


def rank(name: str) -> None:
    """Print the candidates' AUROC on val, means over pilots, and write the best one down."""
    val: dict[tuple[str, str, float], list[float]] = {}
    settings = {}
    for line in Lines(name, "choice.jsonl").read():
        unit = line["unit"]
        val.setdefault((unit["candidate"], unit["set"], unit["label_fraction"]), []).append(line["val"]["auroc"])
        settings[unit["candidate"]] = line["settings"]
    columns = [(small.name, fraction) for small in SETS for fraction in FEW]
    print("| candidate | " + " | ".join(f"{name} {fraction:.0%}" for name, fraction in columns) + " | mean |")
    print("|---" * (len(columns) + 2) + "|")
    means = {}
    for candidate in settings:
        row = [float(np.mean(val[candidate, *column])) for column in columns]
        means[candidate] = float(np.mean(row))
        print(f"| {candidate} | " + " | ".join(f"{value:.3f}" for value in row) + f" | {means[candidate]:.4f} |")
    best = ranked(name)[0]
    recipe = {"candidate": best, "mean_val_auroc": means[best], "settings": settings[best]}
    (EVIDENCE / name / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    print(f"\nchosen: {best}")


# ── What it came to ──────────────────────────────────────────────────────────────────────────────────────────────


def read(name: str) -> Outcomes:
    """Return a round's outcomes of each set and label fraction, of its whole repeats alone."""
    found: Outcomes = {}
    for line in Lines(name, "outcomes.jsonl").read():
        found.setdefault((line["unit"]["set"], line["unit"]["label_fraction"]), []).append(line)
    for fraction in FRACTIONS:
        each = [found.get((small.name, fraction), ()) for small in SETS]
        whole = min(len(rows) for rows in each) // FOLDS
        if not whole and fraction in FEW:
            raise SystemExit(f"no repeat is whole yet at {fraction:.0%}; run.py measure {name} goes on with it")
        for small in SETS:
            rows = found.pop((small.name, fraction), [])
            rows = sorted(rows, key=lambda row: (row["unit"]["repeat"], row["unit"]["fold"]))
            found[small.name, fraction] = rows[: whole * FOLDS]
        print(f"{fraction:.0%}: {whole} x {FOLDS} folds of each small set")
    print()
    return {key: rows for key, rows in found.items() if rows}


def names(outcomes: Outcomes) -> list[str]:
    return [small.name for small in SETS] + (["pneumonia"] if ("pneumonia", FRACTIONS[0]) in outcomes else [])


def measured(outcomes: Outcomes) -> list[float]:
    """Return the fractions at which every set has its outcomes."""
    return [fraction for fraction in FRACTIONS if all((name, fraction) in outcomes for name in names(outcomes))]


def figures(outcomes: Outcomes) -> None:
    """Print the means of each arm on test."""
    print("| set | labels | teacher | baseline | student | gate fired | ECE: teacher | baseline | student |")
    print("|---" * 9 + "|")
    for name in names(outcomes):
        for fraction in measured(outcomes):
            rows = outcomes[name, fraction]

            def mean(arm: str, figure: str, rows: Sequence[Mapping[str, Any]] = rows) -> str:
                return f"{np.mean([row[arm][figure] for row in rows]):.3f}"

            runs = [run for row in rows for run in row.get("seeds", [row])]
            arms = ("teacher", "baseline", "student")
            cells = [mean(arm, "auroc") for arm in arms]
            gate = f"{sum(run['gate'] for run in runs)} of {len(runs)}"
            errors = [mean(arm, "calibration_error") for arm in arms]
            print("| " + " | ".join([name, f"{fraction:.0%}", *cells, gate, *errors]) + " |")
    print()


def differences(outcomes: Outcomes) -> dict[str, Any]:
    """Print student minus baseline, per set and pooled, at each fraction and over the primary outcome's."""
    found: dict[str, Any] = {}
    asked: list[tuple[str, Sequence[float]]] = [(PRIMARY, FEW), *((f"{one:.0%}", [one]) for one in measured(outcomes))]
    for figure in FIGURES:
        print(f"{figure}, student minus baseline\n")
        print("| labels | " + " | ".join([*names(outcomes), "pooled"]) + " |")
        print("|---" * (len(names(outcomes)) + 2) + "|")
        for title, fractions in asked:
            each = {name: difference(outcomes, name, fractions, figure) for name in names(outcomes)}
            whole = {**each, "pooled": pool(list(each.values()))}
            print(f"| {title} | " + " | ".join(str(one) for one in whole.values()) + " |")
            found.setdefault(figure, {})[title] = {name: one.to_list() for name, one in whole.items()}
            if title == PRIMARY and figure == "auroc":
                low, high = whole["pooled"].interval(0.975)
                print(f"| | {' | ' * len(each)}at 97.5 %: {low:+.3f} to {high:+.3f} |")
        print()
    return found


def gains(outcomes: Outcomes) -> None:
    """Print how the student's gain in AUROC goes with the teacher's lead, both over the baseline: an afterthought.

    Within one training they share the baseline's luck, which alone makes them go together. So of each set and fraction
    the lead is taken from one half of the folds and the gain from the other.
    """
    cells = [[run for row in rows for run in row.get("seeds", [row])] for rows in outcomes.values()]
    found = []
    for one, other in ((0, 1), (1, 0)):
        lead = [np.mean([_minus(run, "auroc", "teacher") for run in runs[one::2]]) for runs in cells]
        gain = [np.mean([_minus(run, "auroc") for run in runs[other::2]]) for runs in cells]
        found.append(float(np.corrcoef(lead, gain)[0, 1]))
    print(f"{len(cells)} sets and fractions; lead in one half of the folds, gain in the other: Pearson {found[0]:.2f} ")
    print(f"and, halves swapped, {found[1]:.2f}")
    runs = [run for cell in cells for run in cell]
    print(f"the gate fired in {sum(run['gate'] for run in runs)} of {len(runs)} trainings\n")


def difference(outcomes: Outcomes, name: str, fractions: Sequence[float], figure: str) -> Estimate:
    """Return student minus baseline of a set, the mean over fractions."""
    if name == "pneumonia":
        parts = [outcomes[name, fraction][0] for fraction in fractions]
        return by_bootstrap(parts, figure)
    rows = np.array([[_minus(row, figure) for row in outcomes[name, fraction]] for fraction in fractions])
    return by_folds(rows.mean(0).tolist())


def by_folds(each: Sequence[float]) -> Estimate:
    """Return the mean over folds with the corrected variance of Nadeau and Bengio (2003)."""
    count = len(each)
    variance = float(np.var(each, ddof=1)) * (1 / count + TEST_OVER_TRAIN)
    return Estimate(float(np.mean(each)), math.sqrt(variance), count - 1)


def by_bootstrap(parts: Sequence[Mapping[str, Any]], figure: str) -> Estimate:
    """Return the mean over fractions; their errors, of the same test images, are added up as if they went together."""
    if figure == "calibration_error":  # not resampled by medal
        return Estimate(float(np.mean([_minus(part, figure) for part in parts])), math.nan, math.inf)
    found = [part["student_minus_baseline"][figure] for part in parts]
    errors = [(one["ci95"][1] - one["ci95"][0]) / (2 * NORMAL_95) for one in found]
    return Estimate(float(np.mean([one["difference"] for one in found])), float(np.mean(errors)), math.inf)


def pool(each: Sequence[Estimate]) -> Estimate:
    """Return the unweighted mean over the sets that have an interval, degrees of freedom by Satterthwaite."""
    each = [one for one in each if not math.isnan(one.error)]
    variances = [one.error**2 for one in each]
    total = sum(variances)
    below = sum(value**2 / one.freedom for value, one in zip(variances, each, strict=True))
    freedom = total**2 / below if below else math.inf
    return Estimate(float(np.mean([one.mean for one in each])), math.sqrt(total) / len(each), freedom)


def _minus(row: Mapping[str, Any], figure: str, arm: str = "student") -> float:
    return float(row[arm][figure] - row["baseline"][figure])


if __name__ == "__main__":
    main()
