"""How many processors this process may really use, and how threads wait there for each other. No torch."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

__all__ = ["usable_processors", "wait_passively"]

_GROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_processors() -> int:
    """Return the least that affinity, control groups and SLURM leave of this machine's processors.

    joblib knows the affinity, the quota of a container and LOKY_MAX_CPU_COUNT. What it does not know is the quota of a
    group inside the one that is mounted, as systemd and SLURM make them, and what a SLURM job asked for.
    """
    from joblib import cpu_count  # type: ignore[import-untyped]

    limits = [int(cpu_count()), math.ceil(group_quota(_GROUPS, _OWN_GROUP))]
    asked = os.environ.get("SLURM_CPUS_PER_TASK", "").strip()
    if asked.isdecimal():
        limits.append(int(asked))
    return min(limit for limit in limits if limit)


def group_quota(groups: Path, own_group: Path) -> float:
    """Return the processors that the quotas of this process's control group, and of those around it, leave; 0 = all.

    Parameters
    ----------
    groups : where version 2 of control groups is mounted
    own_group : what says which group this process is in
    """
    try:
        lines = own_group.read_text().splitlines()
    except OSError:
        return 0
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        return 0
    quotas = [_read_quota(place / "cpu.max") for place in (groups / own, *(groups / own).parents)]
    return min((quota for quota in quotas if quota), default=0)


def _read_quota(path: Path) -> float:
    try:
        quota, period = path.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return 0


def wait_passively() -> None:
    """Have OpenMP's threads sleep while they wait for each other, unless the user says otherwise or torch is loaded.

    Else they spin, and keep the processor from the very thread that they wait for: beside one busy neighbour on two
    processors a training step took a tenth of the time (`benchmarks/busy.py`).
    """
    if "torch" not in sys.modules:  # whose OpenMP reads this while it is loaded
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
