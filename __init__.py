"""medal: teach small, fast medical-image classifiers from cached DINOv2 soft targets.

Stage one (`medal cache-teacher`) runs a frozen DINOv2 teacher once over a dataset and seals its features and
linear-probe logits in a cache. Stage two (`medal train-student`) trains a light CNN against that cache.
"""

from importlib import import_module
from typing import Any

# Looked up on first use, so that `import medal` stays as cheap as `medal --help` needs it.
_PUBLIC = {
    "MedalError": "medal.cache.errors",
    "SoftTargets": "medal.student.targets.soft_targets",
    "cache_teacher": "medal.pipeline.api",
    "open_cache": "medal.cache.reader",
    "open_lab": "medal.pipeline.caching.sharing",
    "train_student": "medal.student.api",
}

__all__ = ["MedalError", "SoftTargets", "__version__", "cache_teacher", "open_cache", "open_lab", "train_student"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("medalmighty")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'medal' has no attribute {name!r}")
