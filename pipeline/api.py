"""Stage one from Python: `medal.cache_teacher`, with the options of the command."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from ..cache.machine.home import expand_home
from ..cache.machine.processes import refuse_worker
from ..cache.progress import Progress, Tell, silent
from ..cache.settings import make_settings
from .caching.make import Made, plan_cache
from .caching.make import cache_teacher as make
from .caching.sharing import StageOneStore
from .datasets.columns.dataset import DatasetOptions
from .planning.request import CacheSettings

__all__ = ["cache_teacher"]


def cache_teacher(
    dataset: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    options: DatasetOptions | None = None,
    overwrite: bool = False,
    sources: Sequence[str | PathLike[str]] = (),
    lab: StageOneStore | None = None,
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
    refuse_worker("cache_teacher")
    asked = plan_cache(
        expand_home(dataset),
        None if out is None else expand_home(out),
        options or DatasetOptions(),
        make_settings(CacheSettings, settings),
        overwrite=overwrite,
        sources=[expand_home(source) for source in sources],
        store=lab,
        progress=progress,
        tell=tell,
    )
    return make(asked, progress, tell=tell, store=lab)
