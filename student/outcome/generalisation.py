"""How good students are on domains they have not seen: each domain held out, and the mean of all of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...cache.progress import Alert, Tell
from ...pipeline.metrics import GRADE_FIGURES, Resamples
from ..figures.score import Scored, compare_arms, intervals_as_json
from ..figures.verdict import judge_teacher
from ..members.plan import Asked
from ..run import folder
from .write import NOTHING_AHEAD, Outcome, conclude

__all__ = ["mean_over_domains", "write_summary"]


_OF_A_DOMAIN = (
    "n",
    "auroc",
    "accuracy",
    "auprc",
    "balanced_accuracy",
    "macro_f1",
    "brier",
    "calibration_error",
    "absent",
)


def write_summary(asked: Asked, work: Path, outcomes: Mapping[str, Outcome], report: Tell) -> dict[str, Any]:
    """Put the domains beside each other, write metrics.json, and return the metrics.

    The mean gives every domain the same weight, however many images it has. Its intervals come from resamples of the
    images of each domain, drawn independently: they cover other images of the same domains, not another domain: two or
    three domains are too few to say that.

    Parameters
    ----------
    outcomes : domain → results of the students that were trained without it
    """
    scored = {arm: [one.scored[arm] for one in outcomes.values()] for arm in next(iter(outcomes.values())).scored}
    means = {arm: mean_over_domains(each) for arm, each in scored.items()}
    compared = compare_arms(means, asked.targets.task)
    judged = {name: one.differences for name, one in compared.items()}
    each = {arm: _each_seed(outcomes, arm) if arm in means else [] for arm in ("student", "baseline")}
    gate = judge_teacher(judged.get("teacher_minus_baseline"), "test")
    if gate["fires"]:
        report(Alert(gate["message"]))
    alphas = [one.metrics["alpha"] for one in outcomes.values()]
    verdict = conclude(
        "test",
        means,
        judged,
        each,
        0.0 if all(one == 0 for one in alphas) else None,
        unhelpful=NOTHING_AHEAD if asked.settings.alpha == "auto" else "",
        more=f" These are means over the domains held out: {', '.join(outcomes)}.",
    )
    figures = {arm: _with_domains(means[arm], outcomes, arm, each.get(arm, ())) for arm in means}
    metrics = {
        "test": figures["student"],
        "val": None,
        "teacher": {"test": figures["teacher"], "val": None},
        "baseline": {"test": figures["baseline"], "val": None, "seeds": each["baseline"]}
        if "baseline" in figures
        else None,
        "seeds": each["student"],
        "comparison": {"test": {name: one.to_dict() for name, one in compared.items()}},
        "gate": gate,
        "verdict": verdict,
        "domains": {
            one.name: {"folder": one.folder, "rows": dict(one.rows), **outcomes[one.name].metrics}
            for one in asked.held_out
        },
    }
    folder.write_json(work / folder.METRICS, metrics)
    return metrics


def mean_over_domains(scored: Sequence[Scored]) -> Scored:
    """Return the mean of an arm over domains, statistic by statistic, and of its resamples.

    A domain where a statistic is undefined is left out of its mean, and counted in ``domains_left_out``.
    """
    figures: dict[str, Any] = {"n": sum(one.figures["n"] for one in scored)}
    # The smallest domain counts: its interval is the least reliable.
    figures["rests_on"] = {
        name: min(one.figures["rests_on"][name] for one in scored) for name in scored[0].figures["rests_on"]
    }
    draws = {}
    names = tuple(scored[0].resamples.values)
    for name in names:
        defined = [one for one in scored if one.figures[name] is not None]
        figures[name] = statistics.fmean(one.figures[name] for one in defined) if defined else None
        values = [one.resamples.values[name] for one in defined or scored]
        draws[name] = np.mean(values, axis=0)
    resamples = Resamples(draws)
    figures["ci95"] = intervals_as_json(resamples)
    figures["domains_left_out"] = {
        name: count for name in names if (count := sum(one.figures[name] is None for one in scored))
    }
    seeds = range(len(scored[0].logits))
    # For figures that count images: all domains' images together, seed by seed.
    logits = [np.concatenate([one.logits[seed] for one in scored]) for seed in seeds]
    return Scored(logits, np.concatenate([one.label for one in scored]), figures, resamples)


def _each_seed(outcomes: Mapping[str, Outcome], arm: str) -> list[dict[str, Any]]:
    """Return the means over domains of each seed's test figures."""
    by_domain = [
        one.metrics["seeds"] if arm == "student" else one.metrics["baseline"]["seeds"] for one in outcomes.values()
    ]
    return [
        {
            "seed": rows[0]["seed"],
            "test": {name: _mean([row["test"][name] for row in rows]) for name in ("auroc", "accuracy")},
        }
        for rows in zip(*by_domain, strict=True)
    ]


def _with_domains(
    mean: Scored, outcomes: Mapping[str, Outcome], arm: str, seeds: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return an arm's means with each domain's figures, and their spread over seeds, as a run has them."""
    found = dict(mean.figures)
    found["domains"] = {
        domain: {name: figures[name] for name in (*_OF_A_DOMAIN, *GRADE_FIGURES) if name in figures}
        for domain, figures in ((domain, one.scored[arm].figures) for domain, one in outcomes.items())
    }
    if len(seeds) > 1:
        values = {name: [one["test"][name] for one in seeds] for name in ("auroc", "accuracy")}
        found["spread"] = {name: None if None in each else statistics.stdev(each) for name, each in values.items()}
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return statistics.fmean(given) if given else None
