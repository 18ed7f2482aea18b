"""Signatures with SSH keys, of a cache's seal and so of its content digest and its manifest."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import CacheError, CacheMismatch

__all__ = ["check_signature", "sign", "signature_path", "signer_of"]

# Prevents a signature of something else from being accepted for a cache.
_NAMESPACE = "medal-cache"
_SECONDS = 120


def signature_path(cache: Path) -> Path:
    """Return the path of a cache's signature: beside the cache, because a sealed cache must not change."""
    return cache.with_name(f"{cache.name}.sig")


def sign(seal: bytes, key: Path) -> bytes:
    """Return a signature of a seal by a private key, or by a public one whose private half an agent holds.

    Raises
    ------
    CacheError
        There is no such key, or `ssh-keygen` will not sign with it.
    """
    done = _run(["-Y", "sign", "-q", "-f", str(key), "-n", _NAMESPACE], seal)
    if done.returncode or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise CacheError(f"Key '{key}' cannot sign ({_said(done)}); give the file of an SSH private key with --sign.")
    return done.stdout


def signer_of(seal: bytes, signature: bytes, signers: Path, revoked: Path | None = None) -> str | None:
    """Return who of the allowed signers signed a seal, or None.

    Parameters
    ----------
    signers : a file as `ssh-keygen` has it, a line for each: principal, key type, key
    revoked : a file of revoked keys
    """
    for file in (signers, revoked):
        if file is not None and not file.is_file():
            raise CacheError(
                f"There is no file of signers '{file}'; expected a file with one line per signer: NAME KEY-TYPE KEY."
            )
    with tempfile.TemporaryDirectory(prefix="medal-") as folder:
        place = Path(folder) / "sig"
        place.write_bytes(signature)
        known = _run(["-Y", "find-principals", "-s", str(place), "-f", str(signers)], b"")
        if known.returncode:
            return None
        for principal in known.stdout.decode("utf-8", "replace").splitlines():
            words = ["-Y", "verify", "-q", "-f", str(signers), "-I", principal, "-n", _NAMESPACE, "-s", str(place)]
            words += ["-r", str(revoked)] if revoked else []
            if not _run(words, seal).returncode:
                return principal
    return None


def check_signature(
    what: str, seal: bytes, signatures: Iterable[bytes], signers: Path, revoked: Path | None = None
) -> tuple[str, bytes]:
    """Return who signed a seal, and that signature.

    Raises
    ------
    CacheMismatch
        None of the allowed signers did.
    """
    found = list(signatures)
    for signature in found:
        principal = signer_of(seal, signature, signers, revoked)
        if principal is not None:
            return principal, signature
    if not found:
        raise CacheMismatch(
            f"{what} is not signed, and '{signers}' requires a signature; it was not accepted. Ask its maker to sign "
            "it: medal push CACHE STORE --sign KEY"
        )
    raise CacheMismatch(
        f"{what} has no valid signature of anyone in '{signers}' (the key may be unknown or revoked, or the signature "
        "belongs to other content); it was not accepted."
    )


def _run(words: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise CacheError("Signatures need 'ssh-keygen', which is not installed; install OpenSSH's client.")
    return subprocess.run(  # noqa: S603 - ssh-keygen, with words of our own
        [program, *words], input=data, capture_output=True, check=False, timeout=_SECONDS
    )


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    text = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return text[-1][:160] if text else f"ssh-keygen ended with {done.returncode}"
