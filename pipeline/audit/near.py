"""Near-duplicates as findings: across splits, inside a split, and with contrary labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...cache.progress import Progress
from ..datasets.columns.dataset import SPLITS
from .findings import Advice, Finding, count_of
from .neighbours import Calibration, Pairs, calibrate, cosines_of_views, fit_whitening, propose, search
from .registration import agreement, calibrate_on_copies
from .repeats import label_numbers
from .subject import Subject
from .thumbnails import fit_likeness, propose_by_pixels, read_images

__all__ = ["find_near_duplicates", "near_pairs"]

Rows = npt.NDArray[np.int64]

_FEWEST = 16
_MOST_ADVICE = 2_000
# A millisecond a pair.
_MOST_ASKED, _STEP = 10_000, 500
# Of more images features propose: thumbnails would all be read, and each compared with nineteen crops of all others.
_MOST_THUMBNAILS = 20_000
# What is usual in a set shows in so many of its images.
_FITTED = 5_000
_NONE = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), all_kept=True)
_CHECKS = ("near-duplicates across splits", "near-duplicates within a split")


def near_pairs(subject: Subject, threshold: float | None, progress: Progress) -> tuple[Pairs, Calibration] | None:
    """Find the near-duplicates among different images: pairs of rows, each image represented by its first row.

    Parameters
    ----------
    threshold : whitened cosine to use in place of the calibrated one

    Returns ------- None if there are no features, or too few images to know which similarity is unusual
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

    def alike(lowest: float) -> Pairs:
        with progress("near-duplicates", len(first)) as advance:
            found = search(whitened, lowest, advance)
        return Pairs(first[found.left], first[found.right], found.cosine, found.all_kept)

    if threshold is not None:
        return alike(threshold), Calibration(threshold, threshold, "asked", calibration.typical)
    return _confirm(subject, first, alike, calibration, progress)


def _confirm(
    subject: Subject, first: Rows, alike: Callable[[float], Pairs], calibration: Calibration, progress: Progress
) -> tuple[Pairs, Calibration]:
    """Lay images on each other that thumbnails, or of very many images features, propose.

    If images are not available, the pairs above the threshold of features are used unchanged.

    Parameters
    ----------
    alike : the pairs of rows whose features have at least this cosine
    """
    few = len(first) <= _MOST_THUMBNAILS
    pairs = _NONE if few else alike(calibration.lowest)
    asked = propose(pairs, _MOST_ASKED)
    rows = first if few else np.unique(np.concatenate([asked.left, asked.right]))
    images, there = _read(subject, rows, progress)
    if few and not there.all():
        # Thumbnails propose what stands in them; features have a say of images that are not at hand alone. Of BUSI,
        # as it is and with planted copies, the audit finds the same pairs whether features are searched too or not.
        pairs = alike(calibration.lowest)
    at_hand = np.zeros(len(subject), np.bool_)
    at_hand[rows[there]] = True
    alone = (pairs.cosine >= calibration.threshold) & ~(at_hand[pairs.left] & at_hand[pairs.right])
    if there.sum() < _FEWEST:
        alone = pairs.cosine >= calibration.threshold
        return Pairs(pairs.left[alone], pairs.right[alone], pairs.cosine[alone], pairs.all_kept), calibration
    rows, images = rows[there], images[torch.from_numpy(there)]
    likeness = fit_likeness(images[:: max(1, -(-len(images) // _FITTED))])
    if few:
        with progress("crops", len(images)) as advance:
            asked = propose_by_pixels(likeness, images, _MOST_ASKED, advance)
    else:
        seen = at_hand[asked.left] & at_hand[asked.right]
        left, right = (np.searchsorted(rows, side[seen]) for side in (asked.left, asked.right))
        asked = Pairs(left, right, asked.cosine[seen], asked.all_kept)
    limits = calibrate_on_copies(likeness, subject, rows)
    agree = np.zeros((len(asked.left), 2))
    with progress("pixels", len(agree)) as advance:
        for start in range(0, len(agree), _STEP):
            part = slice(start, start + _STEP)
            agree[part] = agreement(likeness, images[asked.left[part]], images[asked.right[part]])
            advance(len(agree[part]))
    kept = np.asarray((agree >= limits).all(1))
    left, right = (
        np.concatenate([rows[side[kept]], other[alone]])
        for side, other in ((asked.left, pairs.left), (asked.right, pairs.right))
    )
    score = np.concatenate([agree[kept, 0].astype(np.float32), pairs.cosine[alone]])
    order = np.lexsort((right, left, -score))
    # Proposals come the most alike first: where the last tenth has none, those beyond it have none either.
    all_kept = asked.all_kept or not kept[-len(kept) // 10 :].any()
    found = Pairs(left[order], right[order], score[order], all_kept)
    return found, replace(calibration, threshold=limits[0], source="copies")


def _read(subject: Subject, rows: Rows, progress: Progress) -> tuple[torch.Tensor, npt.NDArray[np.bool_]]:
    parts = []
    with progress("thumbnails", len(rows)) as advance:
        for start in range(0, len(rows), _STEP):
            parts.append(read_images(subject, rows[start : start + _STEP]))
            advance(len(parts[-1][1]))
    return torch.cat([images for images, _ in parts]), np.concatenate([there for _, there in parts])


def find_near_duplicates(subject: Subject, threshold: float | None, progress: Progress) -> tuple[Finding, Finding]:
    """Find near-duplicates across splits (serious) and inside one (to look at)."""
    found = near_pairs(subject, threshold, progress)
    if found is None:
        why = "the cache has no features (--no-features)" if subject.feature is None else "there are too few images"
        across, within = (Finding(check=check, severity="left out", sentence=why) for check in _CHECKS)
        return across, within
    pairs, calibration = found
    apart, contrary = _apart(subject, pairs)
    figures: dict[str, Any] = {
        "threshold": calibration.threshold,
        "threshold_from": calibration.source,
        "typical_nearest": calibration.typical,
        "all_pairs_kept": pairs.all_kept,
    }
    return (
        _finding(subject, pairs, apart, contrary, figures, across=True),
        _finding(subject, pairs, ~apart, contrary, figures, across=False),
    )


def _apart(subject: Subject, pairs: Pairs) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which pairs have images in different splits, and which have different labels."""
    code = label_numbers(subject)
    apart = subject.split[pairs.left] != subject.split[pairs.right]
    return np.asarray(apart), np.asarray(code[pairs.left] != code[pairs.right])


def _finding(
    subject: Subject,
    pairs: Pairs,
    chosen: npt.NDArray[np.bool_],
    contrary: npt.NDArray[np.bool_],
    figures: dict[str, Any],
    *,
    across: bool,
) -> Finding:
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
            _advice(
                subject,
                int(pairs.left[place]),
                int(pairs.right[place]),
                float(pairs.cosine[place]),
                bool(contrary[place]),
            )
            for place in places[:_MOST_ADVICE].tolist()
        ),
    )


def _advice(subject: Subject, left: int, right: int, cosine: float, contrary: bool) -> Advice:
    # The row that is not in train should be removed; inside a split, either one.
    row, other = (right, left) if subject.split[right] >= subject.split[left] else (left, right)
    said = f"looks like a copy of an image in {subject.split_name(other)}"
    if contrary:
        said += f", labelled {subject.label_name(other)} there and {subject.label_name(row)} here"
    return Advice(row=row, say=f"{said}; compare the two", score=round(cosine, 4), related=(other,))
