"""The request of a run as canonical JSON, and checks of options that exclude each other."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...cache.errors import StudentError
from ...pipeline.datasets.columns.dataset import DatasetOptions
from ...pipeline.datasets.columns.reading import record_run
from ...pipeline.views.transforms import Policy
from ..network.model import WEIGHTS
from ..settings import StudentSettings
from ..targets.domains import HeldOut
from ..targets.load import Targets
from ..targets.unlabelled import Beside

__all__ = ["check_together", "make_request", "request_more"]


def check_together(settings: StudentSettings, *, also: bool, unlabelled: bool) -> None:
    """Refuse options that exclude each other.

    Raises
    ------
    StudentError
    """
    few, leave = "--label-fraction", "--leave-one-domain-out"
    asked = {few: settings.label_fraction < 1, leave: settings.leave_one_domain_out, "--unlabelled": unlabelled}
    reasons = {
        few: "only the first cache's probe is refitted on these labels",
        leave: "only the first cache's probe is refitted without the domain",
        "--unlabelled": "only the first cache's probe has answers for these images",
    }
    for option, reason in reasons.items():
        if also and asked[option]:
            raise StudentError(f"{option} and --also-cache exclude each other: {reason}.")
    if unlabelled and settings.leave_one_domain_out:
        raise StudentError(
            f"{leave} and --unlabelled exclude each other: images of unknown origin may belong to the domain held out."
        )
    if settings.teach == "ensemble":
        against = {leave: settings.leave_one_domain_out, "--alpha auto": settings.alpha == "auto"}
        for option in (name for name, given in against.items() if given):
            raise StudentError(f"--teach ensemble and {option} exclude each other; leave one of them out.")
        if settings.alpha == 0:
            raise StudentError(
                "--teach ensemble and --no-distill (--alpha 0) exclude each other; leave one of them out."
            )
    if unlabelled and settings.alpha == 0:
        raise StudentError(
            "--unlabelled images only have soft targets, which --no-distill (--alpha 0) does not use; leave one of "
            "the two out."
        )


def make_request(
    settings: StudentSettings, options: DatasetOptions, targets: Targets, policy: Policy, image_size: int, epochs: int
) -> dict[str, Any]:
    """Return as JSON what a run's result depends on: all settings decided, and digests of the inputs."""
    weights: dict[str, Any] = {"weights": settings.weights}
    if settings.weights not in ("random", "pretrained"):
        place = Path(settings.weights)
        with (place / WEIGHTS if place.is_dir() else place).open("rb") as file:
            # Only the last name: a path would be private.
            weights = {"weights": place.resolve().name, "weights_sha256": file_digest(file, "sha256").hexdigest()}
    return {
        "medal": version("medalmighty"),
        **settings.to_dict(),
        **weights,
        "epochs": epochs,
        "image_size": image_size,
        "intensity": options.intensity,
        "window": options.window and list(options.window),
        **({"reading": reading} if (reading := record_run(options)) else {}),
        "policy": policy.to_dict(),
        "targets_sha256": targets.digest(),
        "also": list(targets.also),
    }


def request_more(targets: Targets, held_out: Sequence[HeldOut], beside: Sequence[Beside]) -> dict[str, Any]:
    """Return the additional entries of a request with domains held out or unlabelled images."""
    found: dict[str, Any] = {}
    if beside:
        found["unlabelled"] = [one.cache.content_digest for one in beside]
        found["train_keys_sha256"] = sha256(targets.splits["train"].key.tobytes()).hexdigest()
    if held_out:
        found["epochs"] = {one.name: one.epochs for one in held_out}
    return found
