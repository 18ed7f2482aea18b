"""Near-duplicates as findings: which stand in several splits, which inside one, and which have contrary labels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from ..datasets.dataset import SPLITS
from .confirm import CONFIRMED, correlations
from .findings import Advice, Finding, count_of
from .neighbours import Calibration, Pairs, calibrate, cosines_of_views, fit_whitening, propose, search
from .repeats import label_numbers
from .subject import Subject

__all__ = ["find_near_duplicates", "near_pairs"]

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

_FEWEST = 16
_MOST_ADVICE = 2_000
# A few milliseconds a pair.
_MOST_ASKED, _STEP = 10_000, 500
_CHECKS = ("near-duplicates across splits", "near-duplicates within a split")


def near_pairs(subject: Subject, threshold: float | None, progress: Progress) -> tuple[Pairs, Calibration] | None:
    """Find the near-duplicates among different images: pairs of rows, the first row of an image standing for it.

    Parameters
    ----------
    threshold : whitened cosine to use in place of the calibrated one

    Returns
    -------
    None where there are no features, or too few images to tell unusual likeness from usual
    """
    if subject.feature is None:
        return None
    _, first = np.unique(subject.image, return_index=True)
    if len(first) < _FEWEST:
        return None
    feature = subject.feature[first]
    whitening = fit_whitening(feature)
    whitened = whitening.apply(feature)
    of_views = None if subject.views is None else cosines_of_views(whitening, subject.views)
    calibration = calibrate(whitened, of_views)
    if threshold is not None:
        calibration = Calibration(threshold, threshold, "asked", calibration.typical)
    with progress("near-duplicates", len(first)) as advance:
        pairs = search(whitened, calibration.lowest, advance)
    pairs = Pairs(first[pairs.left], first[pairs.right], pairs.cosine, pairs.all_kept)
    return (pairs if threshold is not None else _confirm(subject, pairs, calibration, progress)), calibration


def _confirm(subject: Subject, pairs: Pairs, calibration: Calibration, progress: Progress) -> Pairs:
    """Keep the pairs that pixels confirm; where these cannot be had, those above the threshold."""
    asked = propose(pairs, _MOST_ASKED)
    kept = np.zeros(len(asked.left), np.bool_)
    with progress("pixels", len(kept)) as advance:
        for start in range(0, len(kept), _STEP):
            part = slice(start, start + _STEP)
            agree = correlations(subject, asked.left[part], asked.right[part])
            unknown = np.isnan(agree).any(1) & (asked.cosine[part] >= calibration.threshold)
            kept[part] = (agree >= CONFIRMED).all(1) | unknown
            advance(len(agree))
    return Pairs(asked.left[kept], asked.right[kept], asked.cosine[kept], asked.all_kept)


def find_near_duplicates(subject: Subject, threshold: float | None, progress: Progress) -> tuple[Finding, Finding]:
    """Find near-duplicates across splits (serious) and inside one (to look at)."""
    found = near_pairs(subject, threshold, progress)
    if found is None:
        why = "the cache keeps no features (--no-features)" if subject.feature is None else "there are too few images"
        across, within = (Finding(check=check, severity="left out", sentence=why) for check in _CHECKS)
        return across, within
    pairs, calibration = found
    apart, contrary = _apart(subject, pairs)
    figures: dict[str, Any] = {
        "threshold": calibration.threshold, "threshold_from": calibration.source,
        "typical_nearest": calibration.typical, "all_pairs_kept": pairs.all_kept,
    }  # fmt: skip
    return (
        _finding(subject, pairs, apart, contrary, figures, across=True),
        _finding(subject, pairs, ~apart, contrary, figures, across=False),
    )


def _apart(subject: Subject, pairs: Pairs) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Tell of which pairs the images stand in different splits, and of which the labels differ."""
    code = label_numbers(subject)
    apart = subject.split[pairs.left] != subject.split[pairs.right]
    return np.asarray(apart), np.asarray(code[pairs.left] != code[pairs.right])


def _finding(
    subject: Subject, pairs: Pairs, chosen: npt.NDArray[np.bool_], contrary: npt.NDArray[np.bool_],
    figures: dict[str, Any], *, across: bool,
) -> Finding:  # fmt: skip
    places = np.flatnonzero(chosen)
    unlike = int(contrary[places].sum())
    between: dict[str, int] = {}
    for place in places.tolist():
        names = sorted({int(subject.split[pairs.left[place]]), int(subject.split[pairs.right[place]])})
        pair = "-".join(SPLITS[index] for index in names)
        between[pair] = between.get(pair, 0) + 1
    where = ", ".join(f"{count:,} in {' and '.join(pair.split('-'))}" for pair, count in sorted(between.items()))
    more = f", {unlike:,} of them with different labels" if unlike else ""
    kept = "" if pairs.all_kept else " (the most alike; there are more)"
    sentence = (
        f"{count_of(len(places), 'pair')} of near-duplicates{kept}: {where}{more}" if len(places) else "none found"
    )
    return Finding(
        check=_CHECKS[0] if across else _CHECKS[1],
        severity="fine" if not len(places) else "serious" if across else "look",
        sentence=sentence,
        figures={**figures, "pairs": len(places), "between": dict(sorted(between.items())), "contrary": unlike},
        advice=tuple(
            _advice(subject, int(pairs.left[place]), int(pairs.right[place]), float(pairs.cosine[place]),
                    bool(contrary[place]))
            for place in places[:_MOST_ADVICE].tolist()
        ),
    )  # fmt: skip


def _advice(subject: Subject, left: int, right: int, cosine: float, contrary: bool) -> Advice:
    # The row that is not in train is the one to take out; inside a split either is.
    row, other = (right, left) if subject.split[right] >= subject.split[left] else (left, right)
    said = f"looks like a copy of an image in {subject.split_name(other)}"
    if contrary:
        said += f", labelled {subject.label_name(other)} there and {subject.label_name(row)} here"
    return Advice(row=row, say=f"{said}; compare the two", score=round(cosine, 4), related=(other,))
