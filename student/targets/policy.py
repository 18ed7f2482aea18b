"""The student's views: transforms that the cache's policy allows because they do not change a label."""

from __future__ import annotations

from ...cache.errors import CacheMismatch, StudentError
from ...cache.reader import Cache
from ...pipeline.views.transforms import POLICIES, VIEW_PARAMETERS, Policy, policy_named
from ..settings import StudentSettings

__all__ = ["choose_policy"]

# Where neither the user nor the cache names a policy: legal for any modality.
_DEFAULT = "small"


def choose_policy(cache: Cache, settings: StudentSettings) -> str:
    """Return the name of the policy for the student's views.

    Raises
    ------
    StudentError
        The one asked for may do what the cache's does not allow, or stored views are asked for with views of one's own.
    CacheMismatch
        Stored views are asked for of a cache that has none, or whose views this medal cannot replay.
    """
    views = cache.manifest.views
    declared = str(views.get("policy", "none"))
    if settings.targets == "stored":
        _check_stored(cache, settings)
        return declared
    asked = settings.augment or (declared if declared != "none" else _DEFAULT)
    allowed = _declared(cache)
    if allowed is not None and not allowed.allows(policy_named(asked)):
        raise StudentError(
            f"--augment {asked} allows transforms that may change a label by the policy '{declared}' of cache "
            f"'{cache.path}'; leave --augment out, or make a cache with --augment {asked}."
        )
    return asked


def _declared(cache: Cache) -> Policy | None:
    """Return the cache's policy as this medal knows it; None if the cache has none."""
    name = str(cache.manifest.views.get("policy", "none"))
    return POLICIES[name] if name != "none" and name in POLICIES else None


def _check_stored(cache: Cache, settings: StudentSettings) -> None:
    views = cache.manifest.views
    if cache.manifest.size.views == 1:
        raise CacheMismatch(
            f"Cache '{cache.path}' has no stored views for --targets stored; make one with them, for instance "
            "medal cache-teacher DATASET OUT --views 4 --augment xray, or leave --targets out."
        )
    if tuple(views["parameters"]) != VIEW_PARAMETERS:
        raise CacheMismatch(
            f"The views of cache '{cache.path}' are described by {', '.join(map(str, views['parameters']))}; expected "
            f"{', '.join(VIEW_PARAMETERS)}. Train with --targets canonical."
        )
    if settings.augment not in (None, views.get("policy")):
        raise StudentError(
            "With --targets stored the student only sees the views in the cache; leave --augment out, or train with "
            "--targets canonical."
        )
