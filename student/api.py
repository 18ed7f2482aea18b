"""Stage two from Python: `medal.train_student`, which reads like the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..cache.errors import DataError, StudentError
from ..cache.machine.home import expand_home
from ..cache.machine.processes import refuse_worker
from ..cache.progress import Alert, Progress, Tell, silent
from ..cache.reader import Cache
from ..cache.settings import make_settings
from ..pipeline.datasets.columns.dataset import DatasetOptions
from .distill import distill
from .members.plan import ask
from .network.parallel import join_ranks
from .settings import StudentSettings
from .training.tracking import require_tracker

if TYPE_CHECKING:
    from .using.results import Evaluated, Predicted

__all__ = ["Trained", "evaluate", "predict", "train_student"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Trained:
    """Result of a training.

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
            There is a student for each domain held out, and no domain was given.
        """
        import timm

        parts = self.result.get("domains", {})
        if (domain in parts) != bool(parts) or (domain is not None and not parts):
            raise StudentError(
                f"'{self.run}' has no student trained without the domain {domain!r}; domains held out: "
                f"{', '.join(parts) or 'none'}. Give load() one of them, or no domain if there are none."
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
    chosen = make_settings(StudentSettings, settings)
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
        raise StudentError(f"Rank {ranks.rank} stops because rank 0 failed; see its message.")
    return Trained(
        run=Path(result["run"]),
        test=result["test"],
        val=result["val"],
        teacher=result["teacher"],
        seconds=float(result["seconds"]),
        result=result,
    )


def predict(
    run: str | PathLike[str],
    images: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    on_bad_image: Literal["fail", "skip"] = "fail",
    device: str = "auto",
    progress: Progress = silent,
    tell: Tell = lambda _: None,
) -> Predicted:
    """Predict images with the student of a run, as `medal predict` does.

    Parameters
    ----------
    run : its folder, or that of a member in it
    images : files or folders, one or several
    on_bad_image : ``skip`` lists in `bad` what cannot be read, and answers the others

    Raises
    ------
    MedalError
        As the command says it.
    """
    from .using.prediction import list_frames, predict_images
    from .using.results import Predicted
    from .using.trained import open_run

    trained = open_run(Path(expand_home(run)), device)
    asked = [images] if isinstance(images, str | PathLike) else images
    listing, said = list_frames(trained, [Path(expand_home(image)) for image in asked])
    for sentence in said:
        tell(sentence)
    frames = listing.images
    with progress("predict", len(frames)) as advance:
        found = predict_images(trained, frames, advance)
    if found.bad and on_bad_image == "fail":
        listed = "\n  ".join(found.bad)
        raise DataError(
            f"{len(found.bad)} of {len(frames)} images cannot be used. Fix them, or give on_bad_image='skip':\n  "
            f"{listed}"
        )
    own = {field.name: getattr(found, field.name) for field in fields(found)}
    return Predicted(**own, run=trained.run, temperature=trained.temperature.value)


def evaluate(
    run: str | PathLike[str],
    dataset: str | PathLike[str],
    *,
    split: Literal["train", "val", "test", "all"] | None = None,
    options: DatasetOptions | None = None,
    workers: int | None = None,
    device: str = "auto",
    tell: Tell = lambda _: None,
) -> Evaluated:
    """Measure the student of a run on a dataset, as `medal evaluate` does.

    Parameters
    ----------
    split : rows to measure on; None = test, or all where there are no splits
    options : columns of a table, excluded classes, how deep images are shown
    workers : processes that decode images; None = all are decoded at once, if they fit

    Raises
    ------
    MedalError
        As the command says it.
    """
    refuse_worker("evaluate")
    from .using.evaluation import choose_rows, open_for
    from .using.evaluation import evaluate as measure
    from .using.results import Evaluated
    from .using.trained import open_run, own_rule

    trained = open_run(Path(expand_home(run)), device)
    opened = open_for(trained, expand_home(dataset), options or DatasetOptions())
    rows = choose_rows(trained, opened, split)
    result = measure(trained, opened, rows, rule=own_rule(trained), workers=workers)
    for warning in result["warnings"]:
        tell(Alert(warning))
    return Evaluated(
        run=trained.run,
        dataset=opened.name,
        split=result["split"],
        images=result["images"],
        figures=result["student"],
        domains=result["domains"],
        warnings=tuple(result["warnings"]),
        result=result,
    )
