"""run.json: every setting of a run, what it acted on, and what computed it."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..figures.temperature import calibrate, describe_temperature
from ..members.ensemble import Teaching
from ..members.plan import Asked
from ..members.train import Member
from ..network.parallel import Ranks
from ..network.speed import name_chip
from ..run import folder
from ..run.predictions import read_predictions
from ..training.loop import Recipe

__all__ = ["describe_environment", "describe_run", "describe_whole", "name_run"]

_LAST = "the last epoch, because val has too few labels to choose by"
_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "safetensors")


def describe_environment(asked: Asked, ranks: Ranks) -> dict[str, Any]:
    """Return what equal bits depend on beside the request and the number of threads: device and libraries."""
    kind = name_chip(asked.device)
    several = {"ranks": ranks.size} if ranks.size > 1 else {}
    return {"device": f"{asked.device} ({kind})", **several, "versions": {name: version(name) for name in _LIBRARIES}}


def describe_run(
    asked: Asked, recipe: Recipe, work: Path, student: Member, teaching: Teaching | None = None
) -> dict[str, Any]:
    """Return run.json of a folder with a student in it: a run, or the part of one without a domain."""
    return {
        **_describe(asked, recipe, work.parent if asked.is_part else work),
        "target": "none" if student.alpha == 0 else f"{asked.settings.targets} view",
        # The values in use, also where the request leaves the choice to val or to the teacher's recall.
        "alpha": student.alpha,
        "temperature": student.temperature,
        "loss": student.loss,
        **({"taught_by": teaching.chosen} if teaching else {}),
        **({"began_with": "baseline"} if teaching and teaching.chosen == "ensemble" and recipe.settings.gentle else {}),
        **({} if asked.targets.splits["val"].can_choose(asked.targets.task) else {"kept": _LAST}),
        "calibration": describe_temperature(calibrate(read_predictions(work), asked.targets.task)),
    }


def describe_whole(asked: Asked, recipe: Recipe, work: Path) -> dict[str, Any]:
    """Return run.json of a run that has a student for each domain held out, each in a folder of its own."""
    return {
        **_describe(asked, recipe, work),
        "domains": {one.name: {"folder": one.folder, "rows": dict(one.rows)} for one in asked.held_out},
    }


def name_run(asked: Asked) -> str:
    """Return what a run is called, or a part of one: RUN/domain-NAME."""
    return f"{asked.run.parent.name}/{asked.run.name}" if asked.is_part else asked.run.name


def _describe(asked: Asked, recipe: Recipe, work: Path) -> dict[str, Any]:
    """Return what all of them have.

    Parameters
    ----------
    work : where the plan is
    """
    manifest = asked.cache.manifest
    plan = json.loads((work / folder.PLAN).read_text(encoding="utf-8"))
    return {
        "format": 1,
        "request": dict(asked.request),
        "task": manifest.task,
        "classes": list(manifest.classes),
        "rows": asked.rows,
        "fit": dict(asked.targets.fit),
        "cache": {
            "name": asked.cache.path.name,
            "cache_id": asked.cache.cache_id,
            "content_digest": asked.cache.content_digest,
            "dataset": manifest.dataset.get("name"),
            **({"key_check": manifest.key_check} if manifest.key_check else {}),
            "teacher": manifest.teacher.get("name"),
        },
        "resize": asked.preprocessing.resize,
        "precision": recipe.plan.to_dict()
        | {"images_per_second": plan["images_per_second"], "threads": torch.get_num_threads()},
        "device": asked.device,
        "trained_on": plan["trained_on"],
        "versions": {name: version(name) for name in _LIBRARIES},
    }
