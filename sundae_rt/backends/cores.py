"""How many CPU cores this process may use."""

import os
from contextlib import suppress
from pathlib import Path


def available_cores(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores of this process's affinity, fewer where a cgroup's `cpu.max` (a container's limit) allows fewer.

    A share of a core beyond whole ones is not counted: a thread that is throttled keeps the others waiting.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *_quotas(proc, cgroup)]))


def _quotas(proc: Path, cgroup: Path) -> list[int]:
    """The limits of the process's own cgroup (version 2) and of all above it, in whole cores."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    folder = cgroup / own.lstrip("/")
    quotas = []
    for level in (folder, *folder.parents):
        if level.is_relative_to(cgroup):
            with suppress(OSError, ValueError):  # no such file, or "max"
                quota, period = map(int, (level / "cpu.max").read_text().split())
                quotas.append(quota // period)
    return quotas
