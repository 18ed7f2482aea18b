"""Stage one from Python: `medal.cache_teacher`, which reads like the command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from os import PathLike, fspath
from typing import Any

from ..cache.console import silent
from .caching import Made
from .caching import cache_teacher as make
from .datasets.dataset import DatasetOptions
from .planning import decide_again, prepare
from .request import CacheSettings

__all__ = ["cache_teacher"]

Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]


def cache_teacher(
    dataset: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    options: DatasetOptions | None = None,
    overwrite: bool = False,
    sources: Sequence[str | PathLike[str]] = (),
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> Made:
    """Run the frozen teacher once over a dataset and seal its features and soft targets, as `medal cache-teacher` does.

    Parameters
    ----------
    dataset : ``medmnist:NAME[@SIZE]``, a ``.npz`` file, a folder, a ``.csv`` table, or ``phantom``
    out : ends in .zarr or .h5; None = below ``caches``
    options : columns of a table, excluded classes, how deep images are shown
    sources : sealed caches to take features over from
    progress : as `medal.cache.console.progress`, to see how far it is
    tell : given what the user should know, one sentence at a time
    settings : fields of `CacheSettings`, for instance ``teacher="facebook/dinov2-small", image_size=112``

    Returns
    -------
    Made
        Its `cache` is open; `action` is create, resume, extend or reuse.

    Raises
    ------
    MedalError
        As the command says it.
    TypeError
        There is no setting of that name.
    """
    chosen = CacheSettings(**settings)
    asked = prepare(
        fspath(dataset), None if out is None else fspath(out), options or DatasetOptions(), chosen,
        overwrite=overwrite, sources=[fspath(source) for source in sources],
    )  # fmt: skip
    if chosen.tune:
        from .tuning import settle

        asked = settle(asked, progress, tell)
    asked = decide_again(asked)
    for warning in asked.warnings:
        tell(f"warning: {warning}")
    return make(asked, progress, tell=tell)
