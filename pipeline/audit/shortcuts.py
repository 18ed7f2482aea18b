"""Shortcuts: probes that predict the split, the domain or the class from what they should not, compared with chance."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.progress import Progress
from ..datasets.columns.dataset import SPLITS
from ..metrics import bootstrap, score
from .findings import Finding, Severity
from .properties import read_properties
from .repeats import label_numbers
from .subject import Subject

__all__ = ["Separation", "find_domain_gap", "find_shortcut", "find_split_gap", "separate"]

Rows = npt.NDArray[np.int64]

# Rows of either side of a probe: enough for an interval of ± 0.02, and seconds of work.
_MOST_A_SIDE, _MOST_READ = 1_500, 4_000
_FOLDS = 5
_FEWEST = 20
# From here on a class is said to be predictable without looking at the image.
_SHORTCUT = 0.6
_SEED = 0


@dataclass(frozen=True)
class Separation:
    """How well a probe separates two kinds of rows: cross-validated AUROC (0.5 is chance) and its interval.

    The interval is over rows, patients and repeated images drawn whole (bootstrap, 95 %).
    """

    auroc: float
    low: float
    high: float
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {"auroc": self.auroc, "ci95": [self.low, self.high], "rows": self.rows}

    def __str__(self) -> str:
        return f"{self.auroc:.2f} [{self.low:.2f}, {self.high:.2f}]"


def separate(values: npt.NDArray[Any], side: npt.NDArray[Any], unit: Rows, *, trees: bool = False) -> Separation | None:
    """Fit a probe for `side` on `values`, in folds that keep units together; None where there are too few units.

    Parameters
    ----------
    values : (N, F)
    side : (N,) class numbers from 0, two or more
    unit : (N,) rows that are never torn apart
    trees : a boosted forest for a few properties of any scale, instead of a linear probe for features
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedGroupKFold

    sides, side = np.unique(side, return_inverse=True)
    units = [len(np.unique(unit[side == one])) for one in range(len(sides))]
    if len(sides) < 2 or min(units) < _FOLDS or len(side) < _FEWEST:
        return None
    logits = np.zeros((len(side), len(sides)))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The least populated class")
        for seen, asked in folds.split(values, side, unit):
            if len(np.unique(side[seen])) < len(sides):
                return None
            model = _model(trees).fit(values[seen], side[seen])
            logits[asked] = np.log(np.clip(model.predict_proba(values[asked]), 1e-9, 1))
    names = [str(one) for one in range(len(sides))]
    value = score(logits, side, "multiclass", names).auroc
    drawn = bootstrap(logits, side.astype(np.int32), "multiclass", groups=unit, seed=_SEED, resamples=500)
    low, high = drawn.intervals()["auroc"]
    return Separation(value, low, high, len(side))


def find_split_gap(subject: Subject) -> Finding:
    """Check whether features distinguish val and test from train, within the classes.

    As many rows of a class are drawn from either split, so that a different mixture of classes is not reported.
    """
    check = "splits told apart"
    if subject.feature is None:
        return _without_features(check)
    found = {}
    for name in ("val", "test"):
        if "train" in subject.splits and name in subject.splits:
            sides = (subject.split == 0, subject.split == SPLITS.index(name))
            found[f"train-{name}"] = _by_features(subject, *sides)
    return _gap(check, found, "is distinguished from", "the splits differ more than by chance: another source or time?")


def find_domain_gap(subject: Subject) -> Finding:
    """Check whether features distinguish each domain from the others, within the classes."""
    check = "domains told apart"
    names = [name for index, name in enumerate(subject.domains) if (subject.domain == index).any()]
    if len(names) < 2:
        return Finding(check=check, severity="left out", sentence="the cache has fewer than two domains")
    if subject.feature is None:
        return _without_features(check)
    found = {}
    for name in names:
        here = subject.domain == subject.domains.index(name)
        found[name] = _by_features(subject, here, (subject.domain >= 0) & ~here)
    return _gap(
        check,
        found,
        "is distinguished from",
        "where source and disease go together, a student can learn the source instead",
    )


def find_shortcut(subject: Subject, progress: Progress) -> Finding:
    """Check whether sizes and other properties of files predict classes, without the pixels."""
    check = "classes by file properties"
    rows = np.flatnonzero((subject.source >= 0) & _labelled(subject))
    # Rows are sorted by key inside a split, which is a hash: an even sample is a random one.
    rows = rows[:: max(1, -(-len(rows) // _MOST_READ))]
    properties = read_properties(subject, rows, progress)
    varying = [name for column, name in enumerate(properties.names) if len(np.unique(properties.values[:, column])) > 1]
    figures: dict[str, Any] = {"varying": varying, "rows": len(rows)}
    if not varying:
        said = f"all images read ({len(rows):,}) have the same size and kind of file"
        return Finding(check=check, severity="fine", sentence=said, figures=figures)
    values = properties.values[:, [properties.names.index(name) for name in varying]]
    found = {}
    for name, side in _label_sides(subject, rows):
        given = side >= 0
        found[name] = separate(values[given], side[given], subject.unit[rows][given], trees=True)
    return _judge_shortcut(check, found, varying, figures)


def _judge_shortcut(
    check: str, found: dict[str, Separation | None], varying: list[str], figures: dict[str, Any]
) -> Finding:
    known = {name: one for name, one in found.items() if one is not None}
    if not known:
        said = "too few patients or images of a class for a probe"
        return Finding(check=check, severity="left out", sentence=said, figures=figures)
    figures |= {"classes": {name: one.to_dict() for name, one in known.items()}}
    worst = max(known, key=lambda name: known[name].low)
    severity: Severity = "serious" if known[worst].low > _SHORTCUT else "look" if known[worst].low > 0.5 else "fine"
    words = ", ".join(varying)
    if severity == "fine":
        said = f"{words} do not predict a class: AUROC {known[worst]} at most ({worst})"
    else:
        meaning = "a student can learn that instead of the disease"
        said = f"{words} alone predict {worst}: AUROC {known[worst]}; {meaning}"
    return Finding(check=check, severity=severity, sentence=said, figures=figures)


def _by_features(subject: Subject, one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> Separation | None:
    rows, side = _matched(subject, np.flatnonzero(one), np.flatnonzero(other))
    # Rows of one patient, or copies of an image, on both sides are a leak, which another check finds.
    feature = subject.feature
    return None if feature is None else separate(feature[rows].astype(np.float32), side, subject.unit[rows])


def _matched(subject: Subject, one: Rows, other: Rows) -> tuple[Rows, Rows]:
    """Return as many rows of each label from either side, and which side each is from (0, 1)."""
    code = label_numbers(subject)
    chosen: list[Rows] = []
    sides: list[Rows] = []
    draw = np.random.default_rng(_SEED)
    counts = [np.bincount(code[rows], minlength=int(code.max()) + 1) for rows in (one, other)]
    pairs = np.minimum(*counts)
    share = min(1.0, _MOST_A_SIDE / max(1, int(pairs.sum())))
    for number, count in enumerate(pairs.tolist()):
        taken = round(count * share)
        for place, rows in enumerate((one, other)):
            mine = rows[code[rows] == number]
            chosen.append(draw.permutation(mine)[:taken])
            sides.append(np.full(taken, place))
    return np.concatenate(chosen), np.concatenate(sides)


def _gap(check: str, found: dict[str, Separation | None], words: str, meaning: str) -> Finding:
    known = {name: one for name, one in found.items() if one is not None}
    if not known:
        return Finding(check=check, severity="left out", sentence="too few rows for a probe on either side")
    apart = {name: one for name, one in known.items() if one.low > 0.5}
    figures = {"pairs": {name: one.to_dict() for name, one in known.items()}}
    said = "; ".join(f"{_say_pair(name, words)} with AUROC {one}" for name, one in known.items())
    if not apart:
        return Finding(check=check, severity="fine", sentence=f"{said}, no better than chance", figures=figures)
    return Finding(check=check, severity="look", sentence=f"{said}: {meaning}", figures=figures)


def _say_pair(name: str, words: str) -> str:
    first, _, second = name.partition("-")
    return f"{second} {words} {first}" if name in ("train-val", "train-test") else f"{name} {words} the others"


def _labelled(subject: Subject) -> npt.NDArray[np.bool_]:
    return subject.label >= 0 if subject.label.ndim == 1 else np.ones(len(subject), np.bool_)


def _label_sides(subject: Subject, rows: Rows) -> list[tuple[str, Rows]]:
    """Return for each class (with two classes, for the second alone) which rows are of it: 1, 0, and -1 unknown."""
    label = subject.label[rows].astype(np.int64)
    if label.ndim == 2:
        return [(name, np.where(label[:, c] == 255, -1, label[:, c])) for c, name in enumerate(subject.classes)]
    columns = [1] if len(subject.classes) == 2 else range(len(subject.classes))
    return [(subject.classes[c], (label == c).astype(np.int64)) for c in columns]


def _without_features(check: str) -> Finding:
    return Finding(check=check, severity="left out", sentence="the cache has no features (--no-features)")


def _model(trees: bool) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if trees:
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(max_iter=50, min_samples_leaf=10, random_state=_SEED)
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
