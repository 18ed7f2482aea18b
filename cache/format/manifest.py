"""The manifest: a cache's description of itself, enough to decide whether it fits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from types import UnionType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import CacheCorrupt, CacheMismatch
from .digest import canonical_json, content_digest
from .layout import FORMAT, SPLITS, ArraySpec, Dimensions, Task, expected_arrays

__all__ = ["MAX_BYTES", "Manifest", "Skipped", "parse_json", "parse_manifest"]

# Class names of the largest label sets run to kilobytes; anything beyond this is no manifest.
MAX_BYTES = 1 << 22
_MAX_DEPTH = 32
_MAX_CLASSES = 1 << 16
_MAX_ROWS = 1 << 32
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,32}", re.ASCII)
_HEX = frozenset("0123456789abcdef")
# Field, kind, the kind in words.
_DESCRIPTIONS: tuple[tuple[str, type | UnionType, str], ...] = (
    ("request", dict, "an object"),
    ("dataset.name", str, "a name"),
    ("dataset.repeats", dict, "an object"),
    ("dataset.reading", dict, "an object"),
    ("teacher.name", str, "a name"),
    ("teacher.feature", str, "a name"),
    ("teacher.revision", str | None, "a name or null"),
    ("teacher.weights_sha256", str, "a digest"),
    ("views.policy", str, "a name"),
    ("probe.metrics", dict, "an object"),
)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Images that were left out of a cache because they cannot be used.

    Attributes
    ----------
    reasons : how many for each reason
    keys : (n, 16) uint8, those whose bytes can be read at least
    """

    reasons: Mapping[str, int]
    keys: npt.NDArray[np.uint8]

    @property
    def images(self) -> int:
        """All of them."""
        return sum(self.reasons.values())

    @property
    def without_key(self) -> int:
        """Those whose bytes could not be read."""
        return max(0, self.images - len(self.keys))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A parsed manifest. `raw` is the whole JSON object, unknown fields included."""

    raw: Mapping[str, Any]
    task: Task
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    rows: Mapping[str, int]
    cache_id: str
    size: Dimensions
    arrays: Mapping[str, ArraySpec]
    sha256: Mapping[str, str]

    @property
    def skipped(self) -> Skipped:
        """Images that were requested and cannot be used: the cache has no rows for them, which is not a mismatch."""
        return parse_skipped(self.dataset.get("skipped", {}))

    @property
    def key_check(self) -> str | None:
        """A check value for the secret that the keys were made with (`keys.KeySecret`); None = plain keys."""
        return self.dataset.get("key_check")

    @property
    def dataset(self) -> Mapping[str, Any]:
        """Name, task, class and domain names, counts, repeats, whether splits were given or drawn."""
        return _section(self.raw, "dataset")

    @property
    def teacher(self) -> Mapping[str, Any]:
        """Name, revision, weights SHA-256, feature recipe, precision asked and used."""
        return _section(self.raw, "teacher")

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """The full specification of how an image became the teacher's input."""
        return _section(self.raw, "preprocessing")

    @property
    def views(self) -> Mapping[str, Any]:
        """View policy, number of views, names of the parameters."""
        return _section(self.raw, "views")

    @property
    def probe(self) -> Mapping[str, Any]:
        """Probe settings, metrics on val and test, calibration temperature."""
        return _section(self.raw, "probe")

    @property
    def content_digest(self) -> str:
        """Digest of all arrays as this manifest declares them."""
        return content_digest(
            {
                path: {"shape": spec.shape, "dtype": spec.dtype, "sha256": self.sha256[path]}
                for path, spec in self.arrays.items()
            }
        )

    def to_bytes(self) -> bytes:
        """Return the manifest as canonical JSON."""
        return canonical_json(self.raw)


def parse_manifest(data: bytes) -> Manifest:
    """Parse and check a manifest.

    Raises
    ------
    CacheMismatch
        The format is newer than this medal reads.
    CacheCorrupt
        Anything else that is not a valid manifest.
    """
    raw = parse_json(data, "manifest")
    parse_format(raw.get("format"), raw.get("medal"))
    dataset = _section(raw, "dataset")
    task = parse_task(dataset.get("task"))
    classes = parse_names(dataset.get("classes"), "dataset.classes")
    if not classes:
        _bad("dataset.classes", "at least one class name", [])
    size = Dimensions(
        task=task,
        rows=parse_rows(dataset.get("rows")),
        classes=len(classes),
        feature=parse_count(_section(raw, "teacher").get("feature_dim"), "teacher.feature_dim", 1, 1 << 20),
        views=parse_count(_section(raw, "views").get("count"), "views.count", 1, 1 << 12),
        view_parameters=len(parse_names(_section(raw, "views").get("parameters"), "views.parameters")),
        probes=parse_count(_section(raw, "probe").get("probes"), "probe.probes", 1, 1 << 7),
        features_kept=parse_bool(raw.get("features_kept"), "features_kept"),
    )
    arrays, digests = parse_arrays(_section(raw, "arrays"), size)
    for name in ("preprocessing", "versions"):
        _section(raw, name)
    parse_descriptions(raw)
    return Manifest(
        raw=raw,
        task=task,
        classes=classes,
        domains=parse_names(dataset.get("domains"), "dataset.domains"),
        rows=size.rows,
        cache_id=parse_hex(raw.get("cache_id"), "cache_id", 32),
        size=size,
        arrays=arrays,
        sha256=digests,
    )


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Parse untrusted JSON into an object: bounded in size and depth, no NaN, no key twice."""
    if len(data) > MAX_BYTES:
        raise CacheCorrupt(f"The {what} is {len(data)} bytes long; expected at most {MAX_BYTES}.")
    _check_depth(data, what)
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite_number
        )
        # JSON can escape half a surrogate pair, but it cannot be written as UTF-8.
        if b"\\u" in data:
            canonical_json(value)
    # ValueError covers undecodable bytes, bad JSON, and numbers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise CacheCorrupt(f"The {what} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CacheCorrupt(f"The {what} should be a JSON object, got {type(value).__name__}.")
    return value


def _check_depth(data: bytes, what: str) -> None:
    # An upper bound that needs no parser: brackets inside strings only ever make it stricter.
    depth = 0
    for byte in data.translate(None, delete=_NO_BRACKETS):
        if byte in b"[{":
            depth += 1
            if depth > _MAX_DEPTH:
                raise CacheCorrupt(f"The {what} is nested deeper than {_MAX_DEPTH} levels.")
        elif byte in b"]}":
            depth -= 1


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _finite_number(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _section(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = raw.get(name)
    if not isinstance(value, dict):
        _bad(name, "an object", value)
    return value


def _bad(field: str, expected: str, got: object) -> NoReturn:
    text = repr(got)
    shown = text if len(text) <= 60 else text[:57] + "…"
    raise CacheCorrupt(f"The manifest's field '{field}' should be {expected}, got {shown}.")


def parse_format(value: object, writer: object) -> int:
    """Check the format number; a newer one names the medal that wrote it."""
    number = parse_count(value, "format", 1, 1 << 31)
    if number > FORMAT:
        # The writer's version comes from the file: shown only where it looks like a version.
        plain = isinstance(writer, str) and _VERSION.fullmatch(writer)
        version = f"medal {writer} or newer" if plain else "a newer medal"
        raise CacheMismatch(
            f"The cache has format {number}; this medal reads format {FORMAT}. Read it with {version}: "
            "pip install --upgrade medalmighty"
        )
    return number


def parse_task(value: object) -> Task:
    """Check the task."""
    if value == "multiclass":
        return "multiclass"
    if value == "multilabel":
        return "multilabel"
    _bad("dataset.task", "'multiclass' or 'multilabel'", value)


def parse_names(value: object, field: str) -> tuple[str, ...]:
    """Check a list of distinct names."""
    if not isinstance(value, list) or len(value) > _MAX_CLASSES:
        _bad(field, "a list of names", value)
    if not all(isinstance(name, str) for name in value) or len(set(value)) != len(value):
        _bad(field, "a list of distinct names", value)
    return tuple(value)


def parse_count(value: object, field: str, low: int, high: int) -> int:
    """Check a whole number within bounds."""
    if type(value) is not int or not low <= value <= high:
        _bad(field, f"a whole number from {low} to {high}", value)
    return value


def parse_bool(value: object, field: str) -> bool:
    """Check a truth value."""
    if type(value) is not bool:
        _bad(field, "true or false", value)
    return value


def parse_hex(value: object, field: str, digits: int) -> str:
    """Check a digest in lower-case hexadecimal."""
    if not isinstance(value, str) or len(value) != digits or not _HEX.issuperset(value):
        _bad(field, f"{digits} hexadecimal digits", value)
    return value


def parse_descriptions(raw: Mapping[str, Any]) -> None:
    """Check the kinds of optional fields, so that code that shows or compares them can rely on them."""
    for path, kind, expected in _DESCRIPTIONS:
        section, _, name = path.rpartition(".")
        holder = _section(raw, section) if section else raw
        value = holder.get(name)
        if name in holder and not isinstance(value, kind):
            _bad(path, expected, value)
    for name in ("excluded_classes", "label_columns"):
        parse_names(_section(raw, "dataset").get(name, []), f"dataset.{name}")
    parse_skipped(_section(raw, "dataset").get("skipped", {}))
    if "key_check" in raw["dataset"]:
        parse_hex(raw["dataset"]["key_check"], "dataset.key_check", 32)
    for split, figures in raw["probe"].get("metrics", {}).items():
        if not isinstance(figures, dict):
            _bad(f"probe.metrics.{split[:20]}", "an object", figures)


def parse_skipped(value: object) -> Skipped:
    """Check the account of left-out images: ``reasons``, counts by reason, and ``keys``, in hexadecimal by split."""
    reasons, keys = (value.get(name, {}) if isinstance(value, dict) else None for name in ("reasons", "keys"))
    if not isinstance(reasons, dict) or not isinstance(keys, dict):
        _bad("dataset.skipped", "reasons with counts and splits with keys", value)
    for count in reasons.values():
        parse_count(count, "dataset.skipped.reasons", 0, _MAX_ROWS)
    listed = [key for part in keys.values() for key in (part if isinstance(part, list) else [part])]
    joined = "".join(parse_hex(key, "dataset.skipped.keys", 32) for key in listed)
    return Skipped(reasons=reasons, keys=np.frombuffer(bytes.fromhex(joined), np.uint8).reshape(-1, 16))


def parse_rows(value: object) -> dict[str, int]:
    """Check the row counts per split, in the order train, val, test."""
    if not isinstance(value, dict) or not value or not set(value) <= set(SPLITS):
        _bad("dataset.rows", "counts of train, val and test", value)
    return {
        split: parse_count(value[split], f"dataset.rows.{split}", 1, _MAX_ROWS) for split in SPLITS if split in value
    }


def parse_arrays(value: Mapping[str, Any], size: Dimensions) -> tuple[dict[str, ArraySpec], dict[str, str]]:
    """Check that the declared arrays are exactly those that the sizes imply."""
    expected = expected_arrays(size)
    if set(value) != set(expected):
        wrong = sorted(set(value) ^ set(expected))
        _bad("arrays", f"the {len(expected)} arrays of format {FORMAT}", wrong)
    digests = {}
    for path, spec in expected.items():
        entry = value[path]
        # As text, since 1, 1.0 and true are equal to Python.
        if not isinstance(entry, dict) or [repr(entry.get(name)) for name in ("shape", "dtype")] != [
            repr(list(spec.shape)),
            repr(spec.dtype),
        ]:
            _bad(f"arrays.{path}", f"shape {list(spec.shape)} and dtype {spec.dtype}", entry)
        digests[path] = parse_hex(entry.get("sha256"), f"arrays.{path}.sha256", 64)
    return expected, digests
