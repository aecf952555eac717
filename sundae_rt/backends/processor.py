"""The processor that this process runs on: its name, and the instructions that decide which precision is fast."""

import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")

# What Linux calls the instructions, on x86 and on ARM.
BF16: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Any of these multiplies bf16 numbers, fast or not."""
INT8: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Any of these multiplies 8-bit numbers and sums them up in 32 bits."""
_KNOWN: Final = BF16 | INT8 | {"avx2", "avx512f"}


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """What the processor calls itself; empty where nothing tells."""
    return next(iter(_fields("model name", cpuinfo)), "") or platform.processor()


def instructions(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Those of the processor's instructions that matter here, by Linux's names; none where it is not Linux."""
    flags = {flag for name in ("flags", "Features") for line in _fields(name, cpuinfo) for flag in line.split()}
    return frozenset(flags & _KNOWN)


def is_fast_in_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether it multiplies bf16 numbers faster than fp32 ones.

    AMX does, and so does AMD's AVX-512 BF16, three times as fast. Intel's, where AMX is hidden, took twice as long. Of
    ARM's it is taken for granted.
    """
    present = instructions(cpuinfo) & BF16
    return bool(present - {"avx512_bf16"}) or bool(present and "GenuineIntel" not in _fields("vendor_id", cpuinfo))


def _fields(name: str, cpuinfo: Path) -> Iterable[str]:
    """The values of one of the kernel's `name: value` fields, which come once for each core."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name)
