"""The plan of stage two: everything that can be decided and checked without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...cache.errors import StudentError
from ...cache.reader import Cache
from ...pipeline.datasets.columns.dataset import Dataset, DatasetOptions, typical_side
from ...pipeline.metrics import check_grades
from ...pipeline.views.preprocessing import Preprocessing
from ...pipeline.views.transforms import Policy, policy_named
from ..network.images import choose_image_size
from ..network.model import ModelSpec, choose_weights, describe_model
from ..network.speed import pick_device
from ..run import folder
from ..settings import StudentSettings, default_epochs
from ..targets.domains import HeldOut, find_domains
from ..targets.load import Targets
from ..targets.policy import choose_policy
from ..targets.sources import open_sources
from ..targets.teaching import Taught, join_sources, teach
from ..training.imbalance import check_imbalance
from ..training.losses import check_terms, parse_terms
from .request import check_together, make_request, request_more

__all__ = ["Asked", "ask"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A training, with everything decided that does not need a model.

    Attributes
    ----------
    held_out : domains that are left out in turn, each from a training of its own, `without` it
    """

    run: Path
    cache: Cache
    dataset: Dataset
    targets: Targets
    settings: StudentSettings
    spec: ModelSpec
    image_size: int
    epochs: int
    policy: Policy
    preprocessing: Preprocessing
    device: str
    request: Mapping[str, Any]
    action: folder.Action
    overwrite: bool
    held_out: tuple[HeldOut, ...] = ()
    check_views: bool = False
    track: str | None = None

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {name: len(part) for name, part in self.targets.splits.items()}

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each student."""
        return tuple(range(self.settings.seed, self.settings.seed + self.settings.seeds))

    @property
    def images(self) -> int:
        """Images that the training of one student sees, or of one for each domain held out, repeats counted."""
        if self.held_out:
            return sum(one.epochs * one.rows["train"] for one in self.held_out)
        return self.epochs * len(self.targets.splits["train"])

    @property
    def is_part(self) -> bool:
        """Whether it is the part of a training that leaves one domain out."""
        return "held_out" in self.request

    def without(self, domain: str) -> Asked:
        """Return the training without a domain, its test set being all of that one.

        The probe is refitted on the cached features of the remaining train rows.
        """
        one = next(one for one in self.held_out if one.name == domain)
        taught = teach(self.targets, self.cache, self.dataset, self.settings, without=one.code)
        alpha = taught.settings.to_dict()["alpha"]
        return replace(
            self,
            run=self.run / one.folder,
            targets=taught.targets,
            settings=taught.settings,
            epochs=one.epochs,
            request={**self.request, "held_out": domain, "epochs": one.epochs, "alpha": alpha},
            held_out=(),
        )


def ask(
    cache_path: str,
    dataset: str,
    options: DatasetOptions,
    settings: StudentSettings,
    run: Path,
    *,
    overwrite: bool,
    also: Sequence[tuple[str, float]] = (),
    unlabelled: Sequence[tuple[str, str]] = (),
    check_views: bool = False,
    track: str | None = None,
) -> Asked:
    """Open and check everything, and decide what to do about the run folder; nothing is written.

    Parameters
    ----------
    also : further caches whose logits are averaged with the first one's, and their weights
    unlabelled : caches of images without labels that join train, each with its dataset
    check_views : check the replay of all stored views, not of a sample
    track : tracker that each epoch's figures are sent to

    Raises
    ------
    CacheError, DataError
        The cache or the dataset cannot be used, or they do not fit each other.
    StudentError
        The model, its weights or the run folder cannot be used.
    """
    found = _inspect(run, settings, overwrite=overwrite)
    terms = parse_terms(settings.loss)
    check_together(settings, also=bool(also), unlabelled=bool(unlabelled))
    spec, settings = _start(settings)
    device = pick_device(settings.device)
    sources = open_sources(cache_path, dataset, options, also, unlabelled)
    settings = replace(settings, augment=choose_policy(sources.cache, settings))
    joined = join_sources(sources, settings)
    check_terms(terms, joined.task)
    _check_measuring(settings, joined)
    if settings.leave_one_domain_out:
        held_out = find_domains(joined, sources.cache)
        settings = replace(settings, teach="probe")
        taught = Taught(joined, sources.dataset, settings)  # each student is taught `without` one of them
    else:
        held_out = ()
        taught = teach(joined, sources.cache, sources.dataset, settings, beside=sources.beside)
    settings, train_rows = taught.settings, taught.targets.splits["train"].row
    image_size = choose_image_size(typical_side(taught.dataset.images, train_rows), spec, settings.image_size)
    held_out = tuple(replace(one, epochs=_count_epochs(one.rows["train"], settings, image_size)) for one in held_out)
    epochs = max((one.epochs for one in held_out), default=_count_epochs(len(train_rows), settings, image_size))
    policy = policy_named(str(settings.augment))
    request = make_request(settings, sources.options, joined, policy, image_size, epochs)
    request |= request_more(taught.targets, held_out, sources.beside)
    return Asked(
        run=run,
        cache=sources.cache,
        dataset=taught.dataset,
        targets=taught.targets,
        settings=settings,
        spec=spec,
        image_size=image_size,
        epochs=epochs,
        policy=policy,
        preprocessing=Preprocessing.from_dict(sources.cache.manifest.preprocessing),
        device=device,
        request=request,
        action=folder.choose_action(found, request, overwrite=overwrite),
        overwrite=overwrite,
        held_out=held_out,
        check_views=check_views,
        track=track,
    )


def _check_measuring(settings: StudentSettings, joined: Targets) -> None:
    """Refuse trainings whose result could not be measured, before anything is trained."""
    check_imbalance(settings, joined.task)
    settings.patient_rule.rank(joined.classes)
    if settings.ordinal:
        check_grades(joined.task, joined.classes)


def _start(settings: StudentSettings) -> tuple[ModelSpec, StudentSettings]:
    """Return the model, and the settings with what it starts from, recipe and learning rate named."""
    settings = replace(settings, weights=choose_weights(settings.student, settings.weights)).settled()
    if settings.gentle and not settings.trained:
        raise StudentError(
            "--recipe lp-ft freezes batch normalisation, which has no statistics yet with random weights; give "
            "--student-weights, or --recipe plain."
        )
    return describe_model(settings.student, settings.weights), settings


def _count_epochs(rows: int, settings: StudentSettings, image_size: int) -> int:
    return settings.epochs or default_epochs(rows, image_size, trained=settings.trained)


def _inspect(run: Path, settings: StudentSettings, *, overwrite: bool) -> folder.RunPlace:
    """Read the run's folder, and refuse what is impossible there with any settings."""
    found = folder.inspect_run(run)
    if found.holds != "nothing":
        # If the baseline teaches, it is part of the run even without --baseline.
        teaches = settings.teach != "probe" and (found.finished or {}).get("teach", "probe") != "probe"
        more = {"seeds": settings.seeds, "baseline": settings.baseline or teaches}
        there = {**found.finished, **more} if found.finished and not overwrite else found.working_on or {}
        folder.choose_action(found, there, overwrite=overwrite)
    return found
