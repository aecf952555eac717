"""How many CPU cores this process may use, and how a backend's graphs share them."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Cores:
    """The cores of a backend, of which whatever computes holds as many as it uses: no two graphs ever want the same.

    First come, first served, so that what wants all of them is not kept waiting by what wants one. Thread-safe.

    Attributes:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def held(self, wanted: int) -> Iterator[None]:
        """Hold `wanted` cores, 1 .. `count`, while the block runs; waits until they are free."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._free >= wanted)
                self._free -= wanted
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()  # whoever comes next may find enough, too
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


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
