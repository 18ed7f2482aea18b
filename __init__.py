"""medal: teach small, fast medical-image classifiers from cached DINOv2 soft targets.

Stage one (`medal cache-teacher`) runs a frozen DINOv2 teacher once over a dataset and seals its features and
linear-probe logits in a cache. Stage two (`medal train-student`) trains a light CNN against that cache.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors, which do not follow `__getattr__`
    from medal.cache.errors import MedalError
    from medal.cache.reader import open_cache
    from medal.pipeline.api import cache_teacher
    from medal.pipeline.caching.sharing import open_lab
    from medal.student.api import evaluate, predict, train_student
    from medal.student.targets.soft_targets import SoftTargets

    __version__: str

# Looked up on first use, so that `import medal` stays as cheap as `medal --help` needs it.
_PUBLIC = {
    "MedalError": "medal.cache.errors",
    "SoftTargets": "medal.student.targets.soft_targets",
    "cache_teacher": "medal.pipeline.api",
    "evaluate": "medal.student.api",
    "open_cache": "medal.cache.reader",
    "open_lab": "medal.pipeline.caching.sharing",
    "predict": "medal.student.api",
    "train_student": "medal.student.api",
}

__all__ = [
    "MedalError",
    "SoftTargets",
    "__version__",
    "cache_teacher",
    "evaluate",
    "open_cache",
    "open_lab",
    "predict",
    "train_student",
]


if not TYPE_CHECKING:  # else every name would be one of medal's

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return import_module("importlib.metadata").version("medalmighty")
        if name in _PUBLIC:
            import_module("medal.cache.machine.processors").wait_passively()
            return getattr(import_module(_PUBLIC[name]), name)
        raise AttributeError(f"module 'medal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
