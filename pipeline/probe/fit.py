"""The probe: the linear classifier on a frozen teacher's features, with out-of-fold logits for the rows it learns from.

features ─► the recipe ─┬─► K fold probes, each blind to its fold's labels ─► logits of train
                        └─► one probe on all labels of train ───────────────► logits of val and test, temperature
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ...cache.errors import DataError
from ...cache.format.digest import Rows, rows_per_block
from ...cache.progress import Alert, Tell
from ..datasets.columns.dataset import Task
from ..datasets.columns.units import find_units
from ..metrics.scores import known, score
from ..metrics.temperature import Temperature, fit_temperature
from .folds import assign_folds
from .logistic import Head, gather
from .logistic import linear_logits as logits
from .recipes import RECIPES, Labelled, Learner, Problem, settle
from .selection import Trial, can_judge, choose
from .settings import ProbeSettings, Recipe

__all__ = ["Evidence", "Probe", "ProbeSettings", "Trial", "describe_probe", "fit_probe", "logits", "silent_probe"]

Evidence = Literal["val", "train hold-out", "train out-of-fold", "none"]

# Into how many parts train is dealt to hold one out, where val cannot serve and there are no folds.
_HOLD_OUT_PARTS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """The fold probes and, last, the one fitted on all of train.

    Attributes
    ----------
    weight : (K+1, C, F) float32
    bias : (K+1, C) float32
    fold : (N_train,) int8 probe that makes each row's logits, the one that has not seen it; -1 = the last
    recipe : how all of them were fitted, and `why` so
    C : inverse penalty of all of them; where labels are spread, of the plain probe
    chosen_on : the rows that C was chosen on
    tried : what was tried, in order
    temperature : the logits over its value are calibrated
    calibrated_on : the rows that the temperature was fitted on
    converged : whether every probe reached the tolerance
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    fold: npt.NDArray[np.int8]
    recipe: str
    why: str
    C: float
    chosen_on: Evidence
    tried: tuple[Trial, ...]
    temperature: Temperature
    calibrated_on: Evidence
    converged: bool
    settings: ProbeSettings

    @property
    def folds(self) -> int:
        """K, the number of fold probes: as requested, or fewer if a class is rarer."""
        return len(self.weight) - 1


class _Chosen(NamedTuple):
    C: float
    tried: tuple[Trial, ...]
    on: Evidence


def fit_probe(
    features: Mapping[str, Rows],
    labels: Mapping[str, npt.NDArray[Any]],
    *,
    keys: npt.NDArray[np.uint8],
    groups: npt.NDArray[Any],
    task: Task,
    n_classes: int,
    settings: ProbeSettings,
    val_units: npt.NDArray[np.int64] | None = None,
    tell: Tell | None = None,
) -> Probe:
    """Settle the recipe, then fit the fold probes and the full one with it.

    Every probe may know what the images of all of train look like; of labels a fold probe knows those of the other
    folds alone. The probes start from zero: a start at another fold's weights would carry what they must not have seen.

    For `grid`, C is the value with the least log-loss on val. AUROC is blind to over-sure soft targets and too coarse
    on few rows: on BUSI it would take C = 0.003 (test AUROC 0.895, log-loss 0.57), log-loss takes 0.03 (0.928, 0.47).
    The grid is walked upwards, warm-started, until the log-loss has not improved twice. If val has no rows or one class
    only, one fold of train is held out instead; if that cannot serve either, the middle of the grid is taken.

    Rows of train are fitted in order of key, so that their order changes nothing. Unlabelled rows have a fold too.

    Parameters
    ----------
    features : split → (N, F) float16, read by slice; `train` is needed, `val` is used where it is
    labels : split → (N,) class index, -1 unknown; or (N, C) of 0/1, 255 unknown
    keys : (N_train, 16) uint8
    groups : (N_train,) patient, -1 none
    val_units : (N_val,) patient of each image of val, for the interval of the temperature; None = each its own
    tell : called with a sentence after each fit

    Raises
    ------
    DataError
        The known labels of train are all of one class.
    TeacherError
        Features are not finite.
    """
    from threadpoolctl import threadpool_limits

    say = tell or (lambda _: None)
    order = np.lexsort((*labels["train"].reshape(len(keys), -1).T[::-1], *keys.T[::-1]))
    problem = Problem(Labelled(features["train"], labels["train"]), order, task, n_classes, settings)
    _check_learnable(problem)
    recipe, why = settle(settings, labels["train"], task)
    deal = partial(assign_folds, keys, groups, labels["train"], task=task, n_classes=n_classes, seed=settings.seed)
    fold = deal(folds=settings.folds) if settings.folds else np.full(len(keys), -1, np.int8)
    val = Labelled(features["val"], labels["val"]) if "val" in features and can_judge(labels["val"], task) else None
    # BLAS adds up in another order with another number of threads, so one thread makes the same bytes on any number
    # of cores. It is no slower where cores are shared: two threads on two busy cores took 20 times as long.
    with threadpool_limits(limits=1):
        part = fold if settings.folds or recipe != "grid" else deal(folds=_HOLD_OUT_PARTS)
        chosen, learn = _choose(recipe, problem, val, part, say)
        heads = _fit_heads(learn, order, fold, say)
        units = find_units(keys, groups) if val is None else val_units
        temperature, calibrated_on = _calibrate(problem, fold, heads, val, units, say)
    return Probe(
        weight=np.stack([head.weight for head in heads]),
        bias=np.stack([head.bias for head in heads]),
        fold=fold,
        recipe=recipe,
        why=why,
        C=chosen.C,
        chosen_on=chosen.on,
        tried=chosen.tried,
        temperature=temperature,
        calibrated_on=calibrated_on,
        converged=all(head.converged for head in heads),
        settings=settings,
    )


def silent_probe(rows: int, feature_dim: int, settings: ProbeSettings) -> Probe:
    """Return the probe of images that have no labels: one class, nothing fitted, its logits are 0."""
    return Probe(
        weight=np.zeros((1, 1, feature_dim), np.float32),
        bias=np.zeros((1, 1), np.float32),
        fold=np.full(rows, -1, np.int8),
        recipe="none",
        why="no image has a label",
        C=settings.grid[len(settings.grid) // 2],
        chosen_on="none",
        tried=(),
        temperature=Temperature(1.0),
        calibrated_on="none",
        converged=True,
        settings=settings,
    )


def describe_probe(
    probe: Probe,
    logits: Mapping[str, npt.NDArray[np.float32]],
    labels: Mapping[str, npt.NDArray[Any]],
    task: Task,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Return what the manifest says of a probe, as JSON without NaN.

    Parameters
    ----------
    logits, labels : split → (N, C) and labels; each split's scores stand under `metrics`, those of train being out
        of fold wherever there are folds
    """
    return {
        "settings": probe.settings.to_dict(),
        "recipe": probe.recipe,
        "why": probe.why,
        "folds": probe.folds,
        "C": probe.C,
        "chosen_on": probe.chosen_on,
        "tried": [trial.to_dict() for trial in probe.tried],
        "temperature": probe.temperature.value,
        "calibrated_on": probe.calibrated_on,
        "calibration": probe.temperature.to_dict(),
        "converged": probe.converged,
        "metrics": {split: score(logits[split], labels[split], task, classes).to_dict() for split in logits},
    }


def _check_learnable(problem: Problem) -> None:
    labels = problem.train.labels
    given = known(labels, problem.task)
    if not given.any():
        raise DataError("No image of train has a known label, so no probe can be fitted; label some images.")
    if problem.task == "multiclass" and len(np.unique(labels[given])) < 2:
        raise DataError(
            f"All {int(given.sum())} labelled images of train are of class number {int(labels[given][0])}; a probe "
            "needs two classes: add images of another class, or check the label column."
        )


def _choose(
    recipe: Recipe, problem: Problem, val: Labelled | None, part: npt.NDArray[np.int8], say: Tell
) -> tuple[_Chosen, Learner]:
    """Return C and a function that fits a head with it; only `grid` chooses C."""
    if recipe != "grid":
        return _Chosen(problem.settings.C, (), "none"), RECIPES[recipe](problem)
    chosen = _choose_on_val(problem, val, say) if val is not None else _choose_within(problem, part, say)
    return chosen, partial(_fit_chosen, problem, chosen.C)


def _choose_on_val(problem: Problem, val: Labelled, say: Tell) -> _Chosen:
    settings = problem.settings
    first = slice(settings.choice_rows)
    fit = problem.fit(problem.order[first])
    best, tried = choose(fit, settings.grid, val.features[first], val.labels[first], problem.task, say)
    return _Chosen(best, tried, "val")


def _choose_within(problem: Problem, part: npt.NDArray[np.int8], say: Tell) -> _Chosen:
    """Choose C inside train, part 0 held out."""
    settings, (features, labels), order = problem.settings, problem.train, problem.order
    inside = order[part[order] == 0][: settings.choice_rows]
    if not can_judge(labels[inside], problem.task):
        return _Chosen(settings.grid[len(settings.grid) // 2], (), "none")
    fit = problem.fit(order[part[order] != 0][: settings.choice_rows])
    best, tried = choose(fit, settings.grid, gather(features, inside), labels[inside], problem.task, say)
    return _Chosen(best, tried, "train hold-out")


def _fit_chosen(problem: Problem, C: float, rows: npt.NDArray[np.int64]) -> Head:  # noqa: N803
    return problem.fit(rows).fit(C)


def _fit_heads(learn: Learner, order: npt.NDArray[np.int64], fold: npt.NDArray[np.int8], say: Tell) -> list[Head]:
    """Fit the fold probes, each without its fold, and the full one last."""
    folds = int(fold.max()) + 1
    heads = []
    for index in range(folds):
        heads.append(learn(order[fold[order] != index]))
        say(f"probe: fold {index + 1} of {folds} fitted")
    heads.append(learn(order))
    say("probe: fitted on all of train")
    return heads


def _calibrate(
    problem: Problem,
    fold: npt.NDArray[np.int8],
    heads: Sequence[Head],
    val: Labelled | None,
    units: npt.NDArray[np.int64] | None,
    say: Tell,
) -> tuple[Temperature, Evidence]:
    """Fit the temperature on val, else on train's out-of-fold logits; in-sample logits would be too optimistic.

    Parameters
    ----------
    units : of the split that it is fitted on, (N,)
    """
    if val is None and fold.max() < 0:
        return Temperature(1.0), "none"
    if val is not None:
        found = fit_temperature(_split_logits(val.features, heads[-1]), val.labels, problem.task, units)
    else:
        given = np.empty((len(fold), problem.n_classes), np.float32)
        for index, head in enumerate(heads[:-1]):
            mine = fold == index
            given[mine] = _split_logits(problem.train.features, head)[mine]
        found = fit_temperature(given, problem.train.labels, problem.task, units)
    if found.warning:
        say(Alert(f"the teacher's probe: {found.warning}"))
    return found, "val" if val is not None else "train out-of-fold"


def _split_logits(features: Rows, head: Head) -> npt.NDArray[np.float32]:
    """Return the logits of every row of features (N, F), read by slice: (N, C)."""
    step = rows_per_block(features)
    starts = range(0, features.shape[0], step)
    return np.concatenate([logits(features[start : start + step], head.weight, head.bias) for start in starts])
