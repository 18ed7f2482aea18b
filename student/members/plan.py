"""What is asked of stage two, with everything decided and checked that can be without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...cache.errors import CacheMismatch
from ...cache.reader import Cache, open_cache
from ...pipeline.datasets.columns.dataset import UNLABELLED, Dataset, DatasetOptions, typical_side
from ...pipeline.datasets.columns.labels import quoted
from ...pipeline.datasets.opening import open_dataset
from ...pipeline.datasets.recorded import recorded_options
from ...pipeline.views.preprocessing import Preprocessing
from ...pipeline.views.transforms import Policy, policy_named
from ..network.images import choose_image_size
from ..network.model import ModelSpec, describe_model
from ..network.speed import pick_device
from ..run import folder
from ..settings import StudentSettings, default_epochs
from ..targets.domains import HeldOut, find_domains, leave_out
from ..targets.few_labels import forget_labels
from ..targets.load import Targets, load_targets
from ..targets.per_class import require_out_of_fold, settle_per_class
from ..targets.policy import choose_policy
from ..targets.refitting import refit
from ..targets.several_teachers import average_teachers
from ..targets.teaching import _teach
from ..targets.unlabelled import open_beside
from ..training.drawing import lacks_labels
from ..training.imbalance import check_imbalance
from ..training.losses import check_terms, parse_terms
from .request import check_together, make_request, request_more

__all__ = ["Asked", "ask"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A training with everything decided that can be without a model.

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
    def warnings(self) -> tuple[str, ...]:
        """Return what the user should know before the training starts."""
        fit = self.targets.fit
        found = []
        if fit["missing"]:
            found.append(f"{fit['missing']} images of the dataset are not in the cache and are left out")
        if fit["skipped"]:
            found.append(f"{fit['skipped']} images are left out: the cache was made without them, as they were bad")
        if fit["extra"]:
            found.append(f"{fit['extra']} images of the cache are not in the dataset and are left out")
        if fit["moved"]:
            found.append(f"{fit['moved']} images stand in another split here than in the cache, whose splits count")
        if "labelled" in fit:
            known, rows = fit["labelled"], self.rows["train"]
            found.append(f"student and probe know the labels of {known} of {rows} train images and of no others there")
        if self.held_out:
            found += self._not_learned
        found += _tell_unlabelled(fit)
        if fit["disagree"]:
            found.append(f"{fit['disagree']} labels disagree; those of the {self.settings.labels} count")
        if "test" not in self.targets.splits and not self.held_out:
            found.append("there is no test split: the figures are those on val, which also chose the epoch")
        return (*found, *(() if self.held_out else self._absent))

    @property
    def _absent(self) -> list[str]:
        """Name the classes that a split lacks."""
        found = []
        for name, part in self.targets.splits.items():
            codes = np.arange(len(self.targets.classes))
            has = np.isin(codes, part.label) if part.label.ndim == 1 else (part.label == 1).any(0)
            absent = [one for one, there in zip(self.targets.classes, has, strict=True) if not there]
            if absent:
                so = "which the student cannot learn" if name == "train" else "left out of its means"
                found.append(f"{name} has no image that is known to be {quoted(absent, 5)}, {so}")
        return found

    @property
    def _not_learned(self) -> list[str]:
        """Say what is left out with a domain that is held out, or with any."""
        unknown = sum(int((self.targets.splits[name].domain < 0).sum()) for name in ("train", "val"))
        found = [
            f"without '{one.name}', {one.tied} images of its patients, or copies of its images, are left out as well"
            for one in self.held_out
            if one.tied
        ]
        if unknown:
            found.append(f"{unknown} images of no known domain are left out: they may be of the one that is held out")
        return found

    @property
    def images(self) -> int:
        """Images that the training of one student sees, or of one for each domain held out, repeats counted."""
        if self.held_out:
            return sum(one.epochs * one.rows["train"] for one in self.held_out)
        return self.epochs * len(self.targets.splits["train"])

    @property
    def passes(self) -> str:
        """Say how often one student sees how many images, or one for each domain held out."""
        if not self.held_out:
            return f"{self.epochs} epoch{'s' * (self.epochs > 1)} of {self.rows['train']} images"
        each = [f"{one.epochs} of {one.rows['train']} images without '{one.name}'" for one in self.held_out]
        return f"epochs: {', '.join(each)}"

    @property
    def is_part(self) -> bool:
        """Whether it is the part of a training that leaves one domain out."""
        return "held_out" in self.request

    def without(self, domain: str) -> Asked:
        """Return the training without a domain, its test set being all of that one.

        The probe is fitted anew on the cached features of the train rows that are left.
        """
        one = next(one for one in self.held_out if one.name == domain)
        targets, settings = leave_out(self.targets, one.code), self.settings
        if settings.label_fraction < 1:
            targets = forget_labels(targets, self.cache, settings)
        else:
            targets = refit(targets, self.cache, np.ones(len(targets.splits["train"]), np.bool_))
        settings = settle_per_class(settings, targets)
        return replace(
            self,
            run=self.run / one.folder,
            targets=targets if settings.compares_features else targets.without_features(),
            settings=settings,
            epochs=one.epochs,
            request={
                **self.request,
                "held_out": domain,
                "epochs": one.epochs,
                "alpha": list(settings.alpha) if isinstance(settings.alpha, tuple) else settings.alpha,
            },
            held_out=(),
        )


def _tell_unlabelled(fit: Mapping[str, int]) -> list[str]:
    told = {
        "unlabelled": "unlabelled images join train, where they learn from the teacher alone",
        "unlabelled_in_val_or_test": "unlabelled images are left out, as they stand in val or test too",
        "unlabelled_in_train": "unlabelled images are left out, as they stand in train already",
    }
    return [f"{fit[name]} {text}" for name, text in told.items() if fit.get(name, 0)]


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
) -> Asked:
    """Open and check everything, and decide what to do about the run folder; nothing is written.

    Parameters
    ----------
    also : further caches whose logits are averaged with the first one's, and their weights
    unlabelled : caches of images without labels that join train, each with its dataset

    Raises
    ------
    CacheError, DataError
        The cache or the dataset cannot be used, or they do not fit each other.
    StudentError
        The model, its weights or the run folder cannot be used.
    """
    found = _look(run, settings, overwrite=overwrite)
    terms = parse_terms(settings.loss)
    check_together(settings, also=bool(also), unlabelled=bool(unlabelled))
    spec = describe_model(settings.student, settings.weights)
    device = pick_device(settings.device)
    cache = open_cache(cache_path)
    _require_labels(cache, dataset)
    options = recorded_options(options, cache.manifest, dataset)
    images = open_dataset(dataset, options, cache.manifest.classes)
    settings = replace(settings, augment=choose_policy(cache, settings))
    others = [(open_cache(path), weight) for path, weight in also]
    beside = [open_beside(path, place, options.key_secret) for path, place in unlabelled]
    targets = load_targets(
        cache,
        images,
        spec=dataset,
        on_missing=settings.on_missing,
        labels=settings.labels,
        stored=settings.targets == "stored",
        features=settings.compares_features or settings.label_fraction < 1 or settings.leave_one_domain_out,
    )
    if others:
        targets = average_teachers(targets, others, cache.manifest.key_check)
    check_terms(terms, targets.task)
    check_imbalance(settings, targets.task)
    joined = targets
    if settings.alpha == "per-class":
        require_out_of_fold((cache, *(other for other, _ in others)))
    held_out = find_domains(targets, cache) if settings.leave_one_domain_out else ()
    if not held_out:
        targets, images = _teach(targets, cache, images, settings, beside)
        settings = settle_per_class(settings, targets)
        if not lacks_labels(targets.splits["train"].label, settings.labelled_share):
            settings = replace(settings, labelled_share=0.0)  # without effect, and so no part of the request
    train_rows = targets.splits["train"].row
    image_size = choose_image_size(typical_side(images.images, train_rows), spec, settings.image_size)

    def count_epochs(rows: int) -> int:
        return settings.epochs or default_epochs(rows, image_size, trained=settings.trained)

    held_out = tuple(replace(one, epochs=count_epochs(one.rows["train"])) for one in held_out)
    epochs = max((one.epochs for one in held_out), default=count_epochs(len(train_rows)))
    policy = policy_named(str(settings.augment))
    request = make_request(settings, options, joined, policy, image_size, epochs) | request_more(
        targets, held_out, beside
    )
    return Asked(
        run=run,
        cache=cache,
        dataset=images,
        targets=targets,
        settings=settings,
        spec=spec,
        image_size=image_size,
        epochs=epochs,
        policy=policy,
        preprocessing=Preprocessing.from_dict(cache.manifest.preprocessing),
        device=device,
        request=request,
        action=folder.decide(found, request, overwrite=overwrite),
        overwrite=overwrite,
        held_out=held_out,
    )


def _look(run: Path, settings: StudentSettings, *, overwrite: bool) -> folder.Found:
    """Look into the run's folder, and refuse already what no request could do there."""
    found = folder.look(run)
    if found.holds != "nothing":
        more = {"seeds": settings.seeds, "baseline": settings.baseline}
        there = {**found.finished, **more} if found.finished and not overwrite else found.working_on or {}
        folder.decide(found, there, overwrite=overwrite)
    return found


def _require_labels(cache: Cache, dataset: str) -> None:
    if cache.manifest.task == "multiclass" and cache.manifest.classes == UNLABELLED:
        raise CacheMismatch(
            f"Cache '{cache.path}' was made with --unlabelled and knows no labels, so nothing can be learned from it "
            "alone; give it beside one that has: medal train-student CACHE DATASET --out RUN --unlabelled "
            f"{cache.path} {dataset}"
        )
