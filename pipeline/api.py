"""Stage one from Python: `medal.cache_teacher`, which reads like the command."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from ..cache.errors import TeacherError
from ..cache.progress import Progress, Tell, silent
from .caching.make import Made
from .caching.make import cache_teacher as make
from .caching.named import ask_by_name, obtain_named
from .caching.sharing import Lab
from .datasets.columns.dataset import DatasetOptions
from .planning.plan import decide_again, prepare
from .planning.request import CacheSettings
from .teacher.files import locate_teacher

__all__ = ["cache_teacher"]


def cache_teacher(
    dataset: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    options: DatasetOptions | None = None,
    overwrite: bool = False,
    sources: Sequence[str | PathLike[str]] = (),
    lab: Lab | None = None,
    progress: Progress = silent,
    tell: Tell = lambda _: None,
    **settings: Any,
) -> Made:
    """Run the frozen teacher once over a dataset and seal its features and soft targets, as `medal cache-teacher` does.

    Parameters
    ----------
    dataset : ``medmnist:NAME[@SIZE]``, a ``.npz`` file, a folder, a ``.csv`` table, or ``phantom``
    out : ends in .zarr or .h5; None = below ``caches``
    options : columns of a table, excluded classes, how deep images are shown
    sources : sealed caches to take features over from
    lab : a store to look into first, as `medal.open_lab` returns it
    progress : as `medal.cache.terminal.console.progress`, to see how far it is
    tell : given what the user should know, one sentence at a time
    settings : fields of `CacheSettings`, for instance ``teacher="facebook/dinov2-small", image_size=112``

    Returns
    -------
    Made
        Its `cache` is open; `action` is create, resume, extend, reuse or pulled.

    Raises
    ------
    MedalError
        As the command says it.
    TypeError
        There is no setting of that name.
    """
    chosen = CacheSettings(**settings)
    spec, place, options = fspath(dataset), None if out is None else fspath(out), options or DatasetOptions()
    files = None
    if lab is not None:
        try:
            files = locate_teacher(chosen.teacher, chosen.revision)
        except TeacherError as error:
            named = ask_by_name(spec, place, options, chosen, error)
            return obtain_named(named, lab, error, overwrite=overwrite, tell=tell)
    asked = prepare(
        spec, place, options, chosen, overwrite=overwrite, sources=[fspath(source) for source in sources], files=files
    )
    if chosen.tune:
        from .caching.tuning import settle

        asked = settle(asked, progress, tell)
    asked = decide_again(asked)
    for warning in asked.warnings:
        tell(f"warning: {warning}")
    return make(asked, progress, tell=tell, lab=lab)
