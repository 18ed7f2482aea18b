"""Stage two from Python: `medal.train_student`, which reads like the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

from ..cache.errors import StudentError
from ..cache.home import expand_home
from ..cache.processes import refuse_worker
from ..cache.progress import Progress, Tell, silent
from ..cache.reader import Cache
from ..pipeline.datasets.columns.dataset import DatasetOptions
from .distill import distill
from .members.plan import ask
from .network.parallel import join_ranks
from .settings import StudentSettings
from .training.tracking import require_tracker

__all__ = ["Trained", "train_student"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Trained:
    """What stage two did.

    Attributes
    ----------
    run : the run's folder, which timm loads
    test, val : AUROC, accuracy and their intervals; None where there are no rows
    teacher : the same of the teacher, by split
    result : all that the command prints as JSON
    """

    run: Path
    test: Mapping[str, Any] | None
    val: Mapping[str, Any] | None
    teacher: Mapping[str, Any]
    seconds: float
    result: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<Trained '{self.run}': {self.result['verdict']}>"

    def _repr_html_(self) -> str:
        """Show figures and verdict in notebooks."""
        from .figures.tables import show_result

        return f"<pre>{escape(show_result(self.result))}\n{escape(self.result['verdict'])}</pre>"

    def load(self, domain: str | None = None) -> Any:
        """Return the trained student, a timm model in evaluation mode; with domains held out, the one without `domain`.

        Raises
        ------
        StudentError
            There is a student for each domain held out, and it is not said which.
        """
        import timm

        parts = self.result.get("domains", {})
        if (domain in parts) != bool(parts) or (domain is not None and not parts):
            raise StudentError(
                f"There is no student without the domain {domain!r} in '{self.run}'; those held out are "
                f"{', '.join(parts) or 'none'}: give load() one of them, or nothing where there are none."
            )
        place = self.run / parts[domain]["folder"] if parts else self.run
        return timm.create_model(f"local-dir:{place}", pretrained=True).eval()


def train_student(
    cache: Cache | str | PathLike[str],
    dataset: str | PathLike[str],
    out: str | PathLike[str],
    *,
    options: DatasetOptions | None = None,
    overwrite: bool = False,
    check_views: bool = False,
    also: Sequence[tuple[str | PathLike[str], float]] = (),
    unlabelled: Sequence[tuple[str | PathLike[str], str | PathLike[str]]] = (),
    track: str | None = None,
    progress: Progress = silent,
    tell: Tell = lambda _: None,
    **settings: Any,
) -> Trained:
    """Train a light CNN on a dataset's images and a cache's soft targets, as `medal train-student` does.

    Parameters
    ----------
    cache : open, or its path
    dataset : what the cache was made from
    out : folder of the run
    check_views : check the replay of all stored views, not of a sample
    also : further caches whose logits are averaged with the first one's, and their weights
    unlabelled : caches of images without labels that join train, each with its dataset
    track : ``tensorboard``, ``mlflow``, ``wandb`` or ``trackio``, to which each epoch's figures are sent too
    progress : as `medal.cache.terminal.console.progress`, to see how far it is
    tell : given one sentence at a time: warnings, what was chosen, how each epoch went
    settings : fields of `StudentSettings`, for instance ``student="mobilenetv3_small_100", epochs=5``

    Raises
    ------
    MedalError
        As the command says it.
    TypeError
        There is no setting of that name.
    """
    refuse_worker("train_student")
    require_tracker(track)
    chosen = StudentSettings(**settings)
    asking = partial(
        ask,
        expand_home(cache.path if isinstance(cache, Cache) else cache),
        expand_home(dataset),
        options or DatasetOptions(),
        chosen,
        Path(expand_home(out)),
        overwrite=overwrite,
        also=[(expand_home(one), weight) for one, weight in also],
        unlabelled=[(expand_home(one), expand_home(images)) for one, images in unlabelled],
        check_views=check_views,
        track=track,
    )
    with join_ranks(chosen.device) as ranks:
        result = distill(asking, ranks, progress, tell)
    if result is None:
        raise StudentError(f"Rank {ranks.rank} stops, as rank 0 came to no result; see what that one said.")
    return Trained(
        run=Path(result["run"]),
        test=result["test"],
        val=result["val"],
        teacher=result["teacher"],
        seconds=float(result["seconds"]),
        result=result,
    )
