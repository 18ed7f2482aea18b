"""The seal: the digests, written last. Without it a cache is incomplete, and readers refuse it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256

from ..errors import CacheCorrupt
from .digest import canonical_json
from .layout import FORMAT
from .manifest import Manifest, parse_format, parse_hex, parse_json, parse_manifest

__all__ = ["Seal", "check_seal", "make_seal", "parse_seal"]


@dataclass(frozen=True, kw_only=True)
class Seal:
    """The digests of a finished cache: of its arrays and its whole manifest."""

    format: int
    content_digest: str
    manifest_sha256: str

    def to_bytes(self) -> bytes:
        """Return the seal as canonical JSON."""
        return canonical_json(asdict(self))


def make_seal(manifest_bytes: bytes) -> Seal:
    """Seal a manifest and, through its digests, the arrays."""
    digest = parse_manifest(manifest_bytes).content_digest
    return Seal(format=FORMAT, content_digest=digest, manifest_sha256=sha256(manifest_bytes).hexdigest())


def parse_seal(data: bytes) -> Seal:
    """Parse a seal; it has its three fields and nothing else."""
    raw = parse_json(data, "seal")
    number = parse_format(raw.get("format"), raw.get("medal"))
    if set(raw) != {"format", "content_digest", "manifest_sha256"}:
        raise CacheCorrupt(f"The seal should hold format, content_digest and manifest_sha256, got {sorted(raw)}.")
    return Seal(
        format=number,
        content_digest=parse_hex(raw["content_digest"], "content_digest", 64),
        manifest_sha256=parse_hex(raw["manifest_sha256"], "manifest_sha256", 64),
    )


def check_seal(seal: Seal, manifest_bytes: bytes) -> Manifest:
    """Return the manifest if it is the sealed one.

    Raises
    ------
    CacheCorrupt
        The manifest was changed after sealing, or declares other arrays than the seal.
    CacheMismatch
        The manifest has a newer format.
    """
    if sha256(manifest_bytes).hexdigest() != seal.manifest_sha256:
        raise CacheCorrupt("The manifest is not the one that was sealed: its SHA-256 differs.")
    manifest = parse_manifest(manifest_bytes)
    if manifest.content_digest != seal.content_digest:
        raise CacheCorrupt("The manifest's arrays do not add up to the sealed content digest.")
    return manifest
