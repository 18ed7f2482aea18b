"""Images that cannot be used: refused with a list, or left out of the cache and declared there.

The cache says how many were left out and why, and the content keys of those that have one, so that stage two can
distinguish them from unknown images. Their names stay out of the cache, in a table beside it.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...cache.errors import DataError
from ...cache.machine.drafts import write_file
from ..datasets import check_rare
from ..datasets.columns.dataset import SPLITS, Dataset, Place
from .rows import SplitRows

__all__ = [
    "Skipped",
    "check_skippable",
    "describe_skipped",
    "list_path",
    "reason_counts",
    "refuse_bad",
    "without_bad",
    "write_list",
]

_COLUMNS = (*Place._fields, "split", "reason", "message")
# Their keys go into the manifest, which is limited in size; and that many bad files are not an accident.
_MOST_SKIPPED = 50_000


@dataclass(frozen=True)
class Skipped:
    """An image that was left out; without a key if not even its bytes can be read."""

    place: Place
    split: str
    error: DataError
    key: bytes | None = None


def refuse_bad(bad: Mapping[tuple[str, int], DataError], images: int, kept: int, work: Path) -> DataError:
    """Return the refusal that lists every bad image."""
    listed = "\n  ".join(sorted(map(str, bad.values())))
    return DataError(
        f"{len(bad)} of {images} images cannot be used. The {kept} others are computed and kept in '{work}': the same "
        "command with --on-bad-image skip continues without the bad ones. Or fix them, and start again with "
        f"--overwrite:\n  {listed}"
    )


def check_skippable(bad: Collection[DataError]) -> None:
    """Refuse to leave out more images than an accident would explain.

    Raises
    ------
    DataError
    """
    if len(bad) > _MOST_SKIPPED:
        raise DataError(
            f"{len(bad)} images cannot be used, more than the {_MOST_SKIPPED} that --on-bad-image skip leaves out; "
            f"{next(iter(bad))} for example. Look for what they have in common."
        )


def without_bad(
    dataset: Dataset, rows: Mapping[str, SplitRows], bad: Mapping[tuple[str, int], DataError]
) -> tuple[dict[str, SplitRows], list[Skipped], tuple[str, ...]]:
    """Return the rows without the bad ones, the bad ones described, and warnings of what is rare now.

    Splits that are left with no row are dropped.

    Raises
    ------
    DataError
        Too few images are left to fit a probe on, or too many are missing.
    """
    check_skippable(bad.values())
    skipped = [
        Skipped(dataset.images.locate(int(rows[split].source[row])), split, error, rows[split].key[row].tobytes())
        for (split, row), error in sorted(bad.items(), key=lambda item: item[0])
    ]
    left = {}
    for split, part in rows.items():
        keep = np.array([(split, row) not in bad for row in range(len(part))], bool)
        if keep.any():
            left[split] = part.take(keep)
    split_of = np.full(len(dataset), -1, np.int8)
    for split, part in left.items():
        split_of[part.source] = SPLITS.index(split)
    try:
        warnings = check_rare(dataset, split_of)
    except DataError as error:
        raise DataError(f"After {len(bad)} images that cannot be used: {error}") from error
    return left, skipped, warnings


def reason_counts(skipped: Sequence[Skipped]) -> dict[str, int]:
    """Count images by reason, the most frequent first."""
    return dict(Counter(item.error.reason for item in skipped).most_common())


def describe_skipped(skipped: Sequence[Skipped]) -> dict[str, Any]:
    """Return the manifest's account: counts by reason, and the keys by split; no names."""
    keys: dict[str, list[str]] = {}
    for item in skipped:
        if item.key is not None:
            keys.setdefault(item.split, []).append(item.key.hex())
    return {"reasons": reason_counts(skipped), "keys": {split: sorted(part) for split, part in keys.items()}}


def list_path(target: Path) -> Path:
    """Return the table beside a cache that names the images it lacks."""
    return target.with_name(f"{target.name}.skipped.csv")


def write_list(target: Path, skipped: Sequence[Skipped]) -> None:
    """Write the table of left-out images beside a cache, or remove the one of an earlier cache."""
    path = list_path(target)
    if not skipped:
        path.unlink(missing_ok=True)
        return
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(_COLUMNS)
    writer.writerows((*item.place, item.split, item.error.reason, str(item.error)) for item in skipped)
    # Names of files need not be UTF-8.
    write_file(path, table.getvalue().encode(errors="backslashreplace"))
