"""The options of commands that take caches from stores, and how such a cache is found."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from ..terminal.console import F, progress

__all__ = ["resolve_cache", "store_options"]

_STORE_OPTIONS = (
    click.option(
        "--max-cache-size",
        default="20GB",
        metavar="SIZE",
        help="Limit of local copies of a store's caches; the least recently used are deleted first.",
    ),
    click.option(
        "--signers",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Only accept caches signed by someone in this file (ssh-keygen's format of allowed signers).",
    ),
    click.option("--revoked", type=click.Path(path_type=Path), metavar="FILE", help="Revoked keys."),
)


def store_options(function: F) -> F:
    """Add the options of a command that takes caches from stores: --max-cache-size, --signers, --revoked."""
    for option in reversed(_STORE_OPTIONS):
        function = option(function)
    return function


def resolve_cache(text: str, max_cache_size: str, signers: Path | None = None, revoked: Path | None = None) -> str:
    """Return the path for a CACHE argument: a path, or STORE#NAME, for which a verified copy is fetched.

    Parameters
    ----------
    max_cache_size, signers, revoked : as the options of `store_options`; a path is the user's own, and not asked who
        signed it
    """
    if "#" not in text:
        return text
    from .fetch import Trust
    from .local_copies import resolve

    trust = None if signers is None else Trust(signers, revoked)
    return resolve(text, partial(progress, unit="bytes"), most=max_cache_size, trust=trust)
