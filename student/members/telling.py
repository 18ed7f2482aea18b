"""Messages before a training starts: what is left out or unknown, how long it takes, how many trainings there are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...cache.text import plural, quoted
from .plan import Asked

__all__ = ["describe_passes", "describe_times", "list_warnings"]


def list_warnings(asked: Asked) -> tuple[str, ...]:
    """Return what the user should know before the training starts."""
    fit = asked.targets.fit
    found = []
    if fit["missing"]:
        found.append(f"{fit['missing']} images of the dataset are not in the cache and are left out")
    if fit["skipped"]:
        found.append(
            f"{fit['skipped']} images are left out: the cache was made without them, because they could not be used"
        )
    if fit["extra"]:
        found.append(f"{fit['extra']} images of the cache are not in the dataset and are left out")
    if fit["moved"]:
        found.append(f"{fit['moved']} images are in another split here than in the cache; the cache's splits are used")
    if "labelled" in fit:
        known, rows = fit["labelled"], asked.rows["train"]
        found.append(f"student and probe use the labels of only {known} of {rows} train images")
    if asked.held_out:
        found += _not_learned(asked)
    found += _tell_unlabelled(fit)
    if fit["disagree"]:
        found.append(
            f"{fit['disagree']} labels differ between dataset and cache; those of the {asked.settings.labels} are used"
        )
    if asked.cache.manifest.dataset.get("contrast"):
        found.append(
            "the cache records that its images are almost one shade of grey: the teacher's answers may mean little"
        )
    if "test" not in asked.targets.splits and not asked.held_out:
        found.append("there is no test split: the figures are on val, which also chose the epoch")
    return (*found, *(() if asked.held_out else _absent(asked)))


def _absent(asked: Asked) -> list[str]:
    """Name the classes that a split lacks."""
    found = []
    for name, part in asked.targets.splits.items():
        codes = np.arange(len(asked.targets.classes))
        has = np.isin(codes, part.label) if part.label.ndim == 1 else (part.label == 1).any(0)
        absent = [one for one, there in zip(asked.targets.classes, has, strict=True) if not there]
        if absent:
            them = plural(len(absent), "this class", "these classes")
            so = f"the student cannot learn {them}" if name == "train" else f"its means leave {them} out"
            found.append(f"no image in {name} is known to be {quoted(absent, 5)}: {so}")
    return found


def _not_learned(asked: Asked) -> list[str]:
    """Say which images of other domains are left out together with a domain held out."""
    unknown = sum(int((asked.targets.splits[name].domain < 0).sum()) for name in ("train", "val"))
    found = [
        (
            f"with '{one.name}' held out, {one.tied} other images are left out too: they show its patients, or are "
            "copies of its images"
        )
        for one in asked.held_out
        if one.tied
    ]
    if unknown:
        found.append(f"{unknown} images without a known domain are left out: they may belong to the domain held out")
    return found


def describe_passes(asked: Asked) -> str:
    """Say how many epochs of how many images there are, for one student or for each domain held out."""
    if not asked.held_out:
        return f"{asked.epochs} {plural(asked.epochs, 'epoch')} of {asked.rows['train']} images"
    each = [f"{one.epochs} of {one.rows['train']} images without '{one.name}'" for one in asked.held_out]
    return f"epochs: {', '.join(each)}"


def describe_times(asked: Asked) -> str:
    """Say how many trainings there are: for each of several students, for each domain, for the choice of alpha."""
    settings = asked.settings
    members = settings.seeds * (1 + settings.baseline)
    return (
        (f" each of {members} students" if members > 1 else "")
        + (f", the {len(asked.held_out)} domains held out together" if asked.held_out else "")
        + (", and once more for the choice of alpha" if settings.alpha == "auto" else "")
    )


def _tell_unlabelled(fit: Mapping[str, int]) -> list[str]:
    told = {
        "unlabelled": "unlabelled images are added to train, with the teacher's soft targets only",
        "unlabelled_in_val_or_test": "unlabelled images are left out because they are also in val or test",
        "unlabelled_in_train": "unlabelled images are left out because they are already in train",
    }
    return [f"{fit[name]} {text}" for name, text in told.items() if fit.get(name, 0)]
