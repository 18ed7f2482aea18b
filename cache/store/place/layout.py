"""Names of files in a store, and content of an entry. The names are a contract: docs/STORE.md.

STORE/medal-store.json                             says that the folder is a store
      index.jsonl                                  all entries, one a line, for who cannot list
      entries/CACHE_ID.CONTENT.TOKEN.json          one published cache; written last, never changed
      sets/CONTENT.TOKEN/{manifest,listing}.json   what the entry vouches for
      sets/CONTENT.TOKEN/SHA256.part               its arrays' bytes, cut into parts
      unlisted/CONTENT.TOKEN.json                  no entry has named this set since then; none will again
      computing/CACHE_ID.HOLDER.json               somebody computes this cache now
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from ...errors import CacheCorrupt, CacheMismatch
from ...format.digest import blake2b_json, canonical_json
from ...format.manifest import Manifest, parse_json

__all__ = [
    "COMPUTING",
    "ENTRIES",
    "INDEX",
    "LISTING",
    "MANIFEST",
    "MARKER",
    "PART_BYTES",
    "SETS",
    "SIGNATURE",
    "SIGNATURES",
    "UNLISTED",
    "VERSION",
    "Entry",
    "Listing",
    "features_address",
    "marker_bytes",
    "parse_entry",
    "parse_entry_name",
    "parse_listing",
    "parse_marker",
    "parse_signatures",
    "rows_address",
    "sha256_hex",
    "signature_name",
    "signatures_bytes",
    "summarize",
]

VERSION = 1
MARKER = "medal-store.json"
INDEX = "index.jsonl"
ENTRIES = "entries"
SETS = "sets"
UNLISTED = "unlisted"
COMPUTING = "computing"
MANIFEST = "manifest.json"
LISTING = "listing.json"
# Of several members; each file is named by its own SHA-256.
SIGNATURE = re.compile(r"seal\.[0-9a-f]{16}\.sig")
# Their names, for who cannot list.
SIGNATURES = "signatures.json"
# Small enough that a few fit into memory at once, large enough that the way there does not count.
PART_BYTES = 1 << 24
_MOST_PARTS = 1 << 15
_MOST_BYTES = 1 << 63
_ENTRY_NAME = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{64})\.([0-9a-f]{16})\.json")
_HEX = {length: re.compile(f"[0-9a-f]{{{length}}}") for length in (16, 32, 64)}
_FIELDS = {
    "medal_store",
    "cache_id",
    "content_digest",
    "manifest_sha256",
    "listing_sha256",
    "token",
    "published",
    "by",
    "size",
    "summary",
}
# What makes a feature what it is (as `pipeline.known` compares it); the rest makes splits and probes.
_DECISIVE = ("teacher", "preprocessing", "precision", "views")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published cache.

    Attributes
    ----------
    listing_sha256 : of the set's `listing.json`
    token : which of the sets of this content it is in
    published : milliseconds since 1970, UTC; the first published of an id is served
    by : name of who pushed it, as given with --as
    size : bytes of its arrays
    summary : what `medal list` shows; nothing is decided by it but what to look at
    """

    cache_id: str
    content_digest: str
    manifest_sha256: str
    listing_sha256: str
    token: str
    published: int
    by: str | None
    size: int
    summary: Mapping[str, Any]

    @property
    def set(self) -> str:
        """Name of its object set."""
        return f"{self.content_digest}.{self.token}"

    @property
    def name(self) -> str:
        """Name of its file in `entries/`."""
        return f"{self.cache_id}.{self.content_digest}.{self.token}.json"

    @property
    def content(self) -> tuple[str, str, str]:
        """What is the same in two entries that publish the same."""
        return self.cache_id, self.content_digest, self.manifest_sha256

    def to_bytes(self) -> bytes:
        """Return the entry as canonical JSON, one line."""
        return canonical_json({"medal_store": VERSION, **asdict(self)})


def parse_entry(data: bytes, what: str) -> Entry:
    """Parse an entry.

    Raises
    ------
    CacheCorrupt
        It is none.
    CacheMismatch
        A newer medal wrote it.
    """
    raw = parse_json(data, what)
    _check_version(raw.get("medal_store"), what)
    if set(raw) != _FIELDS:
        raise CacheCorrupt(f"The {what} should have the fields {sorted(_FIELDS)}, got {sorted(raw)[:12]}.")
    digits = {"cache_id": 32, "content_digest": 64, "manifest_sha256": 64, "listing_sha256": 64, "token": 16}
    for field, length in digits.items():
        _check_hex(raw[field], length, field, what)
    for field in ("published", "size"):
        _check_count(raw[field], _MOST_BYTES, field, what)
    by, summary = raw["by"], raw["summary"]
    if not (by is None or (isinstance(by, str) and len(by) <= 200)) or not isinstance(summary, dict):
        raise CacheCorrupt(f"The {what} should have a name or null in 'by' and an object in 'summary'.")
    return Entry(**{field: raw[field] for field in _FIELDS - {"medal_store"}})


def parse_entry_name(name: str) -> tuple[str, str, str] | None:
    """Return cache_id, content digest and token that a file's name stands for; None if it is no entry's."""
    match = _ENTRY_NAME.fullmatch(name)
    return (match[1], match[2], match[3]) if match else None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The parts of a set in order: SHA-256 and bytes of each. One after the other they are all arrays' bytes."""

    parts: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(count for _, count in self.parts)

    def to_bytes(self) -> bytes:
        """Return the listing as canonical JSON."""
        return canonical_json({"medal_store": VERSION, "parts": [list(part) for part in self.parts]})


def parse_listing(data: bytes, what: str) -> Listing:
    """Parse a listing whose digest has been checked: it may still be nonsense."""
    raw = parse_json(data, what)
    _check_version(raw.get("medal_store"), what)
    parts = raw.get("parts")
    if not isinstance(parts, list) or len(parts) > _MOST_PARTS or set(raw) != {"medal_store", "parts"}:
        raise CacheCorrupt(f"The {what} should hold at most {_MOST_PARTS} parts and nothing else.")
    for part in parts:
        if not isinstance(part, list) or len(part) != 2:
            raise CacheCorrupt(f"The {what} should hold a digest and a length for each part.")
        _check_hex(part[0], 64, "parts", what)
        _check_count(part[1], PART_BYTES, "parts", what)
    return Listing(parts=tuple((part[0], part[1]) for part in parts))


def marker_bytes() -> bytes:
    """Return what stands in a store's marker."""
    return canonical_json({"medal_store": VERSION})


def parse_marker(data: bytes, what: str) -> None:
    """Check a store's marker."""
    _check_version(parse_json(data, what).get("medal_store"), what)


def _check_version(value: object, what: str) -> None:
    if type(value) is int and value > VERSION:
        raise CacheMismatch(
            f"The {what} has version {value}; this medal reads version {VERSION}: pip install --upgrade medalmighty"
        )
    if type(value) is not int or value != VERSION:
        raise CacheCorrupt(f"The {what} should say medal_store {VERSION}, got {str(value)[:20]!r}.")


def _check_hex(value: object, length: int, field: str, what: str) -> None:
    if not isinstance(value, str) or not _HEX[length].fullmatch(value):
        raise CacheCorrupt(f"The {what} should have {length} hexadecimal digits in '{field}', got {str(value)[:20]!r}.")


def _check_count(value: object, most: int, field: str, what: str) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise CacheCorrupt(f"The {what} should have a number up to {most} in '{field}', got {str(value)[:20]!r}.")


def features_address(request: Mapping[str, Any]) -> str:
    """Return the address of what features are asked for: equal where only splits and probe differ."""
    return blake2b_json({name: request.get(name) for name in _DECISIVE})


def rows_address(request: Mapping[str, Any]) -> str:
    """Return the address of a dataset: its images, labels, splits, domains and groups."""
    return blake2b_json(request.get("rows"))


def summarize(manifest: Manifest) -> dict[str, Any]:
    """Return what an entry says of a cache, so that it can be listed and found without reading the manifest."""
    metrics = manifest.probe.get("metrics", {})
    auroc = {split: value for split in manifest.rows if isinstance(value := metrics.get(split, {}).get("auroc"), float)}
    request = manifest.raw.get("request", {})
    return {
        "dataset": manifest.dataset.get("name"),
        "task": manifest.task,
        "classes": len(manifest.classes),
        "rows": dict(manifest.rows),
        "teacher": manifest.teacher.get("name"),
        "revision": manifest.teacher.get("revision"),
        "weights_sha256": manifest.teacher.get("weights_sha256"),
        "feature": manifest.teacher.get("feature"),
        "image_size": manifest.preprocessing.get("image_size"),
        "auroc": auroc,
        "views": manifest.size.views,
        "features_kept": manifest.size.features_kept,
        "key_check": manifest.key_check,
        "features_address": features_address(request),
        "rows_address": rows_address(request),
    }


def signature_name(signature: bytes) -> str:
    """Return the name of a signature in its set."""
    return f"seal.{sha256_hex(signature)[:16]}.sig"


def signatures_bytes(names: Iterable[str]) -> bytes:
    """Return the list of a set's signatures, by their names."""
    return canonical_json({"medal_store": VERSION, "signatures": sorted(names)})


def parse_signatures(data: bytes, what: str) -> list[str]:
    """Parse a list of signatures; names that are none of a signature count as absent."""
    raw = parse_json(data, what)
    _check_version(raw.get("medal_store"), what)
    names = raw.get("signatures")
    given = names if isinstance(names, list) else []
    return [name for name in given if isinstance(name, str) and SIGNATURE.fullmatch(name)]


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of an object."""
    return sha256(data).hexdigest()
