"""Sealing: arrays and a description become a cache, verified, then moved into place in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..errors import CacheCorrupt
from ..format.digest import Rows, array_sha256, canonical_json
from ..format.forms import form_of
from ..format.seal import make_seal
from ..machine.drafts import sync_folder
from ..progress import Alert, Tell
from ..reader import Cache, open_cache
from ..verify import verify

__all__ = ["beside", "declare_arrays", "move_into_place", "put_back", "remove", "write_cache"]


def declare_arrays(arrays: Mapping[str, Rows]) -> dict[str, dict[str, Any]]:
    """Return the manifest's description of arrays: shape, dtype and SHA-256 of each."""
    return {
        path: {"shape": list(rows.shape), "dtype": rows.dtype.name, "sha256": array_sha256(rows)}
        for path, rows in arrays.items()
    }


def beside(target: Path, what: Literal["sealing", "pulling", "replaced"]) -> Path:
    """Return the hidden neighbour of a target that work on it goes through, in the same form.

    Only medal makes such names. A file with one belongs to the holder of the target's lock, or to nobody.
    """
    return target.with_name(f".{target.stem}.medal-{what}{target.suffix}")


def write_cache(
    target: Path, arrays: Mapping[str, Rows], manifest: Mapping[str, Any], tell: Tell = lambda _: None
) -> Cache:
    """Write, verify and seal a cache, then put it at `target`, replacing what is there.

    Parameters
    ----------
    manifest : all fields; `arrays` is filled in here if it is missing
    tell : gets a warning if the former content could not be removed

    Raises
    ------
    CacheCorrupt
        The written cache does not read back correctly; nothing at `target` was changed.
    """
    described = dict(manifest)
    described.setdefault("arrays", declare_arrays(arrays))
    manifest_bytes = canonical_json(described)
    draft = beside(target, "sealing")
    remove(draft)
    try:
        form_of(target).write(draft, arrays, manifest_bytes, make_seal(manifest_bytes).to_bytes())
        written = open_cache(draft)
        problems = verify(written)
        if problems:
            raise CacheCorrupt(f"The cache written for '{target}' does not read back: {problems[0]}")
        move_into_place(draft, target, tell)
    finally:
        remove(draft)
    return Cache(target, written.manifest, written.seal)


def move_into_place(draft: Path, target: Path, tell: Tell = lambda _: None) -> None:
    """Rename a finished draft to its target; the former content is removed only when the new one is in place.

    If the old content cannot be removed then, that is only a warning.
    """
    if target.is_dir():
        # A folder cannot be replaced by a rename in one step, so the old one steps aside first.
        old = beside(target, "replaced")
        remove(old)
        target.rename(old)
        try:
            draft.rename(target)
        except OSError:
            old.rename(target)
            raise
        try:
            remove(old)
        except OSError as error:
            tell(
                Alert(
                    f"'{target}' is finished, but its former content could not be removed ({error.strerror or error}) "
                    f"and is now '{old}': remove it, or ask its owner to"
                )
            )
    else:
        draft.replace(target)
    sync_folder(target.parent)


def put_back(target: Path) -> None:
    """Undo a replacement that was killed between its two renames: the former content is put back.

    If something is at the target, the old content is kept: it may be the only complete copy. The next replacement
    removes it.
    """
    old = beside(target, "replaced")
    if old.exists() and not os.path.lexists(target):
        old.rename(target)


def remove(path: Path) -> None:
    """Remove a file or folder that is ours, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
