"""A run's comparisons in words: did distilling help, by how much, how certain; is the teacher good enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...pipeline.metrics import FEW_OF_A_CLASS, FEW_UNITS, Difference

__all__ = ["caution", "judge_teacher", "name_figure", "write_verdict"]

# The verdict uses the first of these that is defined.
_OUTCOMES = ("auroc", "accuracy")
_NAMES = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "auprc": "AUPRC",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "brier": "Brier score",
    "kappa": "weighted kappa",
    "mae": "mean grade error",
}

Compared = Mapping[str, Difference]
Figures = Mapping[str, Any]

_NO_VERDICT = "No verdict yet"


def name_figure(name: str) -> str:
    """Return a statistic's name as people write it."""
    return _NAMES.get(name, name)


def write_verdict(
    split: str,
    *,
    arms: Mapping[str, Figures],
    baseline: Compared | None,
    teacher: Compared,
    by_seed: Sequence[tuple[float | None, float | None]],
    seeds: int,
    alpha: Any,
    unhelpful: str = "",
) -> str:
    """Return the verdict of a run: is anything better than guessing, what does the student reach, did distilling help.

    The first words stay true whatever follows. Where both arms guess, or there are too few images, they say that there
    is no verdict yet, and the difference follows as a figure.

    Parameters
    ----------
    arms : figures of student, baseline and teacher on the split
    baseline, teacher : the student minus either, by statistic; None without a baseline
    by_seed : AUROC of the student and of the baseline of each seed
    alpha : weight of the soft term that the students were trained with
    unhelpful : why val chose the labels alone, if it did
    """
    student = arms["student"]
    basis = f"{student['n']} {split} images, " + (f"mean of {seeds} seeds" if seeds > 1 else "one seed")
    guessing = [arm for arm in ("student", "baseline") if _guesses(arms.get(arm))]
    lead = _lead(arms, guessing, basis, judged=alpha != 0 and baseline is not None)
    if alpha == 0:
        # Another weight may have been ahead by less, which happens by chance when several are tried.
        why = f"Distillation did not help here: on val {unhelpful}. " if unhelpful else ""
        return f"{lead} {why}The student was trained on the labels alone: {_beside_teacher(teacher)}."
    if baseline is None:
        return (
            f"{lead} Whether distilling helped is not known: no student was trained on the labels alone. The same "
            f"command with --baseline adds it. {_capital(_beside_teacher(teacher))}."
        )
    name = _outcome(baseline)
    if name is None:
        return f"{lead} Whether distilling helped cannot be said: AUROC and accuracy are undefined on {split}."
    if lead.startswith(_NO_VERDICT):
        shown = {one: each for one, each in baseline.items() if one in _OUTCOMES or _turned(one, each)}
        return f"{lead} The student minus the labels alone: {_each(shown)}."
    return f"{lead} {_judge(baseline, name, by_seed)}"


def _lead(arms: Mapping[str, Figures], guessing: Sequence[str], basis: str, *, judged: bool) -> str:
    """Describe each arm by itself, before any comparison."""
    student = arms["student"]
    shown = f"({basis})"
    if "student" in guessing and len(guessing) == len({"student", "baseline"} & set(arms)):
        both = " nor ".join(f"the {arm} (AUROC {_figure(arms[arm], 'auroc')})" for arm in guessing)
        who = f"neither {both} can" if len(guessing) > 1 else f"{both} cannot"
        return f"{_NO_VERDICT}: {who} be distinguished from guessing {shown}; see whether more --epochs help."
    reached = " and ".join(
        f"{_NAMES[name]} {_figure(student, name)}" for name in _OUTCOMES if student[name] is not None
    )
    said = f"The student reaches {reached or 'no defined figure'} {shown}"
    for arm in guessing:
        said += f"; the {arm} (AUROC {_figure(arms[arm], 'auroc')}) cannot be distinguished from guessing"
    if judged and caution(student["rests_on"]):
        return f"{_NO_VERDICT}: there are too few images, or too few of one class. {said}."
    return f"{said}."


def _judge(baseline: Compared, name: str, by_seed: Sequence[tuple[float | None, float | None]]) -> str:
    """Say whether distilling helped, and name figures that disagree."""
    found = baseline[name]
    turned = {one: _turned(one, each) for one, each in baseline.items()}
    said = f"{_NAMES[name]} {_by(found)} against the labels alone"
    if turned[name] and -turned[name] in turned.values():
        apart = {one: baseline[one] for one in baseline if turned[one]}
        return f"Whether distilling helped depends on the figure. Against the labels alone: {_each(apart)}."
    if found.above:
        return f"Distilling helped: {said}.{_by_seeds(by_seed)}"
    if found.below:
        return f"Distilling hurt: {said}.{_by_seeds(by_seed)} Give --alpha auto, --no-distill, or another teacher."
    wide = max(abs(edge) for edge in found.interval)
    # A bound shown as 0.000 would say nothing: both arms are right, or wrong, on the same images.
    left = (
        f"A difference of up to about {wide:.3f} remains possible."
        if wide >= 0.0005
        else "These images cannot tell the two apart."
    )
    for word, sign in (("better", 1), ("worse", -1)):
        if apart := {one: baseline[one] for one in baseline if turned[one] == sign}:
            left += f" But significantly {word}: {_each(apart)}."
    return f"Distilling made no difference that could be shown: {said}. {left}"


def _turned(name: str, found: Difference) -> int:
    """Return 1 where the student is significantly better by a figure, -1 where it is worse, else 0."""
    sign = int(found.above) - int(found.below)
    return -sign if name in ("brier", "mae") else sign


def _guesses(figures: Figures | None) -> bool:
    """Say whether an arm ranks no better than guessing: its interval of the AUROC holds a half."""
    low, _ = (figures or {}).get("ci95", {}).get("auroc", (None, None))
    return low is not None and low <= 0.5


def _figure(figures: Figures, name: str) -> str:
    low, high = figures["ci95"].get(name, (None, None))
    value = f"{figures[name]:.3f}"
    if low is not None and low == high:
        return f"{value} (the same in every resample, but that is not certainty)"
    return value if low is None else f"{value} (95 % {low:.3f} to {high:.3f})"


def _each(compared: Compared) -> str:
    return "; ".join(f"{_NAMES[name]} {_by(found)}" for name, found in compared.items())


def caution(rests_on: Mapping[str, int]) -> str:
    """Return a warning where intervals are based on too few units to be reliable, else nothing.

    Parameters
    ----------
    rests_on : as `pipeline.metrics.rests_on` counts
    """
    units, rarest = rests_on["units"], rests_on["rarest"]
    if units >= FEW_UNITS and rarest >= FEW_OF_A_CLASS:
        return ""
    return (
        f"Do not rely on the intervals: they are based on {units} patients (or images without a known patient), "
        f"{rarest} of them in the rarest class. Below about {FEW_UNITS}, or {FEW_OF_A_CLASS} of a class, they are too "
        "narrow, and with few patients p-values are too small."
    )


def judge_teacher(compared: Compared | None, split: str, *, alone: bool = True) -> dict[str, Any]:
    """Return the gate: whether the teacher is significantly worse than the baseline, and what that means in words.

    Parameters
    ----------
    compared : the teacher minus the baseline, by statistic; None without a baseline
    alone : the student learned from the teacher's answers, not from their mean with the baseline's
    """
    name = _outcome(compared) if compared is not None else None
    if compared is None or name is None:
        return {"fires": None, "split": split, "message": "Without a baseline the teacher cannot be judged."}
    found = compared[name]
    figure = f"{split} {_NAMES[name]} {_by(found)}"
    if found.below:
        advice = (
            "Distilling from it will probably hurt. Use --alpha auto or --no-distill, or make a cache with a better "
            "teacher."
            if alone
            else "The student also learned from the baseline (--teach)."
        )
        message = f"The teacher is significantly worse than a student trained on the labels alone: {figure}. {advice}"
    elif found.above:
        message = f"The teacher is significantly better than a student trained on the labels alone: {figure}."
    else:
        message = (
            "The teacher is neither significantly better nor worse than a student trained on the labels alone: "
            f"{figure}."
        )
    return {"fires": found.below, "split": split, "outcome": name, **found.to_dict(), "message": message}


def _by_seeds(pairs: Sequence[tuple[float | None, float | None]]) -> str:
    """Say how far seeds agree: the interval is over images and does not include training variance."""
    differences = [one - other for one, other in pairs if one is not None and other is not None]
    if len(pairs) == 1:
        return " This compares two trainings only. Another seed may give another result: check with --seeds 3."
    if not differences:
        return ""
    higher = sum(one > 0 for one in differences)
    return f" The student's AUROC was higher in {higher} of {len(differences)} seeds."


def _beside_teacher(teacher: Compared) -> str:
    name = _outcome(teacher)
    if name is None:
        return "it cannot be compared with its teacher"
    found = teacher[name]
    verb = (
        "significantly above" if found.above else "significantly below" if found.below else "not clearly different from"
    )
    return f"the student is {verb} its teacher, {_NAMES[name]} {_by(found)}"


def _outcome(compared: Compared) -> str | None:
    return next((name for name in _OUTCOMES if name in compared), None)


def _by(found: Difference) -> str:
    low, high = found.interval
    if low == high:
        return f"{found.value:+.4f} (the same in every resample, but that is not certainty)"
    p = "p < 0.01" if found.p < 0.01 else f"p = {found.p:.2f}"
    return f"{found.value:+.4f} (95 % {low:+.4f} to {high:+.4f}, {p})"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
