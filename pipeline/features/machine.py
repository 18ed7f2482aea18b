"""What this machine has, and what stage one would take of it by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...cache.machine.processors import usable_processors
from ..planning.request import CacheSettings

__all__ = ["Choice", "choose", "find_devices"]


@dataclass(frozen=True)
class Choice:
    """What would be chosen, and why."""

    value: Any
    why: str


_FOUND = {"cuda": "CUDA", "mps": "Apple's GPU", "cpu": "no GPU"}


def find_devices(torch: Any) -> list[dict[str, Any]]:
    """Return the processor and each GPU: kind, name, memory in bytes, and threads or capability."""
    import psutil

    from ..threads import allowed_threads

    memory = psutil.virtual_memory()
    found = [
        {
            "kind": "cpu",
            "name": torch.backends.cpu.get_cpu_capability(),
            "processors": usable_processors(),
            "threads": allowed_threads(),
            "memory_bytes": memory.total,
            "available_bytes": memory.available,
        }
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            {
                "kind": "cuda",
                "name": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "memory_bytes": properties.total_memory,
                "available_bytes": torch.cuda.mem_get_info(index)[0],
            }
        )
    return found


def choose(torch: Any, settings: CacheSettings) -> dict[str, Choice]:
    """Return what stage one would take, by the functions that it takes it by."""
    from ..teacher.teacher import pick_device, precision_for
    from ..threads import allowed_threads, threads_said
    from .precision import default_batch_size

    device = pick_device(settings.device)
    kind = torch.device(device).type
    precision = precision_for(settings.precision, device)
    asked = "asked for"
    fast = (
        "fast in this hardware; a run makes sure that it says what fp32 says"
        if precision == "bf16"
        else ("bf16 is not fast in this hardware")
    )
    batch_why = "as many as fit, halved from here where memory runs out" if kind == "cuda" else "what its caches like"
    gpus = torch.cuda.device_count()
    engine_why = (
        f"for all {gpus} GPUs: torchrun --nproc-per-node {gpus} -m medal cache-teacher …"
        if gpus > 1
        else ("one process fills this machine; --engine ray is for several")
    )
    return {
        "device": Choice(device, asked if settings.device != "auto" else _FOUND.get(kind, kind)),
        "precision": Choice(precision, asked if settings.precision != "auto" else fast),
        "batch_size": Choice(
            settings.batch_size or default_batch_size(device), asked if settings.batch_size else batch_why
        ),
        "threads": Choice(
            allowed_threads(),
            f"{threads_said()} says so" if threads_said() else "one for each processor that this process may use",
        ),
        "engine": Choice(settings.engine, engine_why),
    }
