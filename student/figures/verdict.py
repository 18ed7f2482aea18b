"""What a run's comparisons say in words: did distilling help, by how much, how sure; is the teacher worth heeding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...pipeline.metrics import Difference

__all__ = ["caution", "doubt", "judge_teacher", "name_figure", "write_verdict"]

# What is judged by, the first that is defined.
_OUTCOMES = ("auroc", "accuracy")
_NAMES = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "auprc": "AUPRC",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "brier": "Brier score",
}

# Below these, percentile intervals are clearly too narrow. In simulations of two classes with an AUROC of .85, those of
# 95 % held it in 57 % of cases with 4 patients, 76 % with 6, 86 % with 20, 94 % with 40; with one image of the rarer
# class in 33 %, with 2 in 61 %, with 10 in 88 %. With 6 patients one comparison in seven of equals was significant.
_FEW_UNITS, _FEW_OF_A_CLASS = 30, 10

Compared = Mapping[str, Difference]


def name_figure(name: str) -> str:
    """Return a statistic's name as people write it."""
    return _NAMES.get(name, name)


def write_verdict(
    split: str,
    *,
    baseline: Compared | None,
    teacher: Compared,
    images: int,
    by_seed: Sequence[tuple[float | None, float | None]],
    seeds: int,
    alpha: Any,
    chosen: bool,
) -> str:
    """Return the verdict of a run, one or two sentences.

    Parameters
    ----------
    baseline, teacher : the student minus either, by statistic; None without a baseline
    images : rows of known label that were compared
    by_seed : AUROC of the student and of the baseline of each seed
    alpha : weight of the soft term that the students were trained with
    chosen : it was chosen on val
    """
    basis = f"{images} {split} images" + (f", mean of {seeds} seeds" if seeds > 1 else ", one seed")
    if alpha == 0:
        # Another weight may have been ahead by less, which is luck as soon as several are tried.
        first = (
            "Distillation did not help here: on val nothing was ahead of the labels alone by more than one standard "
            "error (alpha 0). "
            if chosen
            else ""
        )
        return (
            first + "The student was trained on the labels alone: " + _beside_teacher(teacher, split) + f" ({basis})."
        )
    if baseline is None:
        return (
            "Whether distilling helped is not known: no student was trained on the labels alone. The same command with "
            f"--baseline adds it. {_capital(_beside_teacher(teacher, split))} ({basis})."
        )
    name = _outcome(baseline)
    if name is None:
        return f"Whether distilling helped cannot be said: AUROC and accuracy are undefined on {split}."
    found = baseline[name]
    said = f"{split} {_NAMES[name]} {_by(found)} against the labels alone ({basis})"
    if found.above:
        return f"Distilling helped: {said}.{_by_seeds(by_seed)}{_but(baseline, name)}"
    if found.below:
        remedy = "Give --alpha auto, --no-distill, or another teacher."
        return f"Distilling hurt: {said}.{_by_seeds(by_seed)} {remedy}"
    wide = max(abs(edge) for edge in found.interval)
    return (
        f"Distilling made no difference that could be shown: {said}. A difference of up to about {wide:.3f} remains "
        f"possible.{_but(baseline, name)}"
    )


def caution(rests_on: Mapping[str, int]) -> str:
    """Return a sentence where intervals rest on too little to be taken at their word, else nothing.

    Parameters
    ----------
    rests_on : as `pipeline.metrics.rests_on` counts
    """
    units, rarest = rests_on["units"], rests_on["rarest"]
    if units >= _FEW_UNITS and rarest >= _FEW_OF_A_CLASS:
        return ""
    return (
        f"Do not take the intervals at their word: they rest on {units} patients, or images without one, {rarest} of "
        f"them of the rarest class; below about {_FEW_UNITS}, or {_FEW_OF_A_CLASS} of a class, they are too narrow, "
        "and with few patients p-values are too small."
    )


def doubt(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a sentence to add to the verdict where students rank no better than guessing; else an empty one.

    Parameters
    ----------
    arms : figures with ``auroc`` and its ``ci95``, by arm
    """
    lost = {}
    for arm in ("student", "baseline"):
        low, _ = arms.get(arm, {}).get("ci95", {}).get("auroc", (None, None))
        if low is not None and low <= 0.5:
            lost[arm] = arms[arm]["auroc"]
    if not lost:
        return ""
    named = " and ".join(f"the {arm} (AUROC {value:.3f})" for arm, value in lost.items())
    return (
        f" Mind that {named} cannot be told from guessing on these images, so that this says little of distilling: "
        "see whether more --epochs help."
    )


def judge_teacher(compared: Compared | None, split: str) -> dict[str, Any]:
    """Return the gate: whether the teacher is significantly worse than the baseline, and what that means in words.

    Parameters
    ----------
    compared : the teacher minus the baseline, by statistic; None without a baseline
    """
    name = _outcome(compared) if compared is not None else None
    if compared is None or name is None:
        return {"fires": None, "split": split, "message": "Without a baseline the teacher cannot be judged."}
    found = compared[name]
    figure = f"{split} {_NAMES[name]} {_by(found)} against a student of the labels alone"
    if found.below:
        message = (
            f"The teacher is significantly worse than what the labels alone teach: {figure}. Distilling from it can be "
            "expected to hurt; give --alpha auto or --no-distill, or make a cache with a better teacher."
        )
    elif found.above:
        message = f"The teacher is significantly better than what the labels alone teach: {figure}."
    else:
        message = f"The teacher is neither significantly better nor worse than what the labels alone teach: {figure}."
    return {"fires": found.below, "split": split, "outcome": name, **found.to_dict(), "message": message}


def _by_seeds(pairs: Sequence[tuple[float | None, float | None]]) -> str:
    """Say how far seeds agree: the interval is over images, and another seed is another training."""
    differences = [one - other for one, other in pairs if one is not None and other is not None]
    if len(pairs) == 1:
        return " That is of these two trainings: another seed may say otherwise, and --seeds 3 asks it."
    if not differences:
        return ""
    higher = sum(one > 0 for one in differences)
    return f" The student's AUROC was the higher one with {higher} of {len(differences)} seeds."


def _but(baseline: Compared, judged: str) -> str:
    """Say what got worse beside the outcome: a better ranking with worse decisions is no plain gain."""
    found = baseline.get("accuracy")
    if judged == "accuracy" or found is None or not found.below:
        return ""
    return f" But accuracy is significantly lower: {_by(found)}."


def _beside_teacher(teacher: Compared, split: str) -> str:
    name = _outcome(teacher)
    if name is None:
        return f"its figures on {split} are undefined"
    found = teacher[name]
    verb = "significantly above" if found.above else "significantly below" if found.below else "not clearly apart from"
    return f"on {split} the student is {verb} its teacher, {_NAMES[name]} {_by(found)}"


def _outcome(compared: Compared) -> str | None:
    return next((name for name in _OUTCOMES if name in compared), None)


def _by(found: Difference) -> str:
    low, high = found.interval
    p = "p < 0.01" if found.p < 0.01 else f"p = {found.p:.2f}"
    return f"{found.value:+.4f} (95 % {low:+.4f} to {high:+.4f}, {p})"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
