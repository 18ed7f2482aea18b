"""Checks a manifest before it leaves the machine: known fields of known kinds, and no trace of a person or place.

Names of dataset, classes, columns, domains and teacher are the only free text. They are shown to the user who pushes;
everything else must be numbers, digests and single words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import CacheMismatch
from ..format.manifest import Manifest

__all__ = ["check_private", "check_text", "free_names", "texts_of"]

_ANY = "numbers and words"
_NAME, _NAMES = "a name", "names"
# Field → what may stand in it; of a section in which names stand, each field.
_ALLOWED: dict[str, Any] = {
    "format": _ANY,
    "medal": _ANY,
    "cache_id": _ANY,
    "features_kept": _ANY,
    "seed": _ANY,
    "request": _ANY,
    "preprocessing": _ANY,
    "views": _ANY,
    "probe": _ANY,
    "taken_over": _ANY,
    "tuned": _ANY,
    "versions": _ANY,
    "arrays": _ANY,
    "reprobed_from": _ANY,
    "dataset": {
        "name": _NAME,
        "classes": _NAMES,
        "domains": _NAMES,
        "excluded_classes": _NAMES,
        "label_columns": _NAMES,
        "task": _ANY,
        "rows": _ANY,
        "repeats": _ANY,
        "splits": _ANY,
        "limit": _ANY,
        "skipped": _ANY,
        "key_check": _ANY,
        "reading": _NAMES,
        "contrast": _ANY,
    },
    "teacher": {
        "name": _NAME,
        "revision": _ANY,
        "weights_sha256": _ANY,
        "model_type": _ANY,
        "feature": _ANY,
        "feature_dim": _ANY,
        "precision_asked": _ANY,
        "precision_used": _ANY,
        "min_cosine_to_fp32": _ANY,
        "batch_size": _ANY,
        "smallest_forward": _ANY,
        "computed_on": _ANY,
    },
}
# Versions, devices, settings, paths of arrays such as train/logits, reasons of skipped images.
_WORD = re.compile(r"(?!/)[\w.+()<>=@, /-]{0,120}", re.ASCII)
_TRACES = (
    (re.compile(r"(?:^|[\s'\"=:(])(?:/[\w.~-]+/|~/|[A-Za-z]:[\\/]|\\\\)|^/|file://", re.ASCII), "an absolute path"),
    (re.compile(r"(?<![\d.])[0-2](?:\.\d+){4,}(?![\d.])", re.ASCII), "a DICOM UID"),
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+", re.ASCII), "an e-mail address"),
)


def check_private(manifest: Manifest) -> None:
    """Refuse to publish a manifest that says more than it must.

    Raises
    ------
    CacheMismatch
        A field is unknown, of another kind, or holds an absolute path, a DICOM UID or an e-mail address.
    """
    names = set(_listed_names(manifest.raw))
    for field, value in manifest.raw.items():
        allowed = _ALLOWED.get(field)
        if isinstance(allowed, dict):
            for inner, part in (value if isinstance(value, dict) else {}).items():
                _check(f"{field}.{inner}", part, allowed.get(inner), names)
        else:
            _check(field, value, allowed, names)


def _check(field: str, value: Any, allowed: str | None, names: set[str]) -> None:
    if allowed is None:
        raise CacheMismatch(
            f"The manifest's field '{field[:60]}' is not written by medal and could contain anything; the cache was "
            "not pushed. Make it again, or leave that field out."
        )
    for place, text in texts_of(field, value):
        check_text(place, text)
        if allowed == _ANY and text not in names and not _WORD.fullmatch(text):
            raise CacheMismatch(
                f"The manifest's field '{place[:60]}' holds free text ('{text[:40]}') where {allowed} belong; the "
                "cache was not pushed."
            )


def check_text(place: str, text: str) -> None:
    """Refuse a text that may identify a person or a machine."""
    for pattern, what in _TRACES:
        if pattern.search(text):
            raise CacheMismatch(
                f"The field '{place[:60]}' holds {what} ('{text[:40]}'), which may identify a person or a place; "
                "nothing was pushed. Rename it in the dataset or the teacher, and make the cache again."
            )


def texts_of(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield all texts in a value, the names of its fields included, with where they stand."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield field, name
            yield from texts_of(f"{field}.{name}", part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts_of(field, part)


def _listed_names(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names that a manifest declares: they may also occur elsewhere in it, as classes do among metrics."""
    for section in ("dataset", "teacher"):
        for field, value in raw[section].items():
            if _ALLOWED[section].get(field) in (_NAME, _NAMES):
                yield from (text for _, text in texts_of(field, value))


def free_names(manifest: Manifest) -> dict[str, list[str]]:
    """Return the free text of a manifest, to be shown before it is published."""
    dataset = manifest.dataset
    found = {
        "dataset": [str(dataset.get("name"))],
        "classes": list(manifest.classes),
        "domains": list(manifest.domains),
        "excluded classes": list(dataset.get("excluded_classes", [])),
        "columns": list(dataset.get("label_columns", [])),
        "reading": [text for _, text in texts_of("reading", list(dataset.get("reading", {}).values()))],
        "teacher": [str(manifest.teacher.get("name"))],
    }
    return {what: names for what, names in found.items() if names}
