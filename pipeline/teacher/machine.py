"""What machine and libraries computed a cache: equal bytes are only promised where these are equal.

No torch unless a device is asked about: asking again for a cache that is there must not pay for it.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

__all__ = ["describe_machine", "library_versions"]

# What a result depends on, beside medal itself.
_LIBRARIES = ("torch", "torchvision", "transformers", "scikit-learn", "scipy", "numpy", "pillow")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that features and probe come from."""
    return {name: version(name) for name in _LIBRARIES}


def describe_machine(device: str, layers: str) -> dict[str, Any]:
    """Return the kind of device, how many threads compute on it, and the libraries; nothing that names a computer.

    Parameters
    ----------
    layers : `Teacher.layers`
    """
    import torch

    from ..threads import allowed_threads
    from .teacher import pick_device

    chosen = torch.device(pick_device(device))
    names = {"cuda": torch.cuda.get_device_name, "cpu": torch.backends.cpu.get_cpu_capability}
    kind = names[chosen.type]() if chosen.type in names else chosen.type
    return {
        "device": f"{chosen.type} ({kind})",
        "threads": allowed_threads() if chosen.type == "cpu" else None,
        "layers": layers,
        "versions": library_versions(),
    }
