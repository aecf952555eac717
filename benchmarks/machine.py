"""The machine that a benchmark runs on: what it is, and how fast it multiplies matrices at best."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from sundae_rt.backends import driver
from sundae_rt.backends.cores import available_cores
from sundae_rt.backends.processor import instructions, processor_name

_SIDES = (256, 512, 1024, 2048)  # of the matrices: the largest that does not take too long
_SECONDS = 0.5  # too long
_LIBRARIES = ("numpy", "sundae-rt", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
_GPU_SIDE = 8192


def describe() -> dict[str, Any]:
    """Processor, instructions that matter here, cores that may be used, memory, GPUs, and the libraries' versions."""
    return {
        "processor": processor_name(),
        "instructions": sorted(instructions()),
        "cores": available_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": driver.seen(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _LIBRARIES if (version := _version(name))},
    }


def gemm_limits(threads: int) -> dict[str, float]:
    """GFLOP/s of one product of square matrices, best of several, for fp32, bf16 and int8.

    The sides are 2048, less for a type that the processor has no instructions for, whose products are slow.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return {
            "fp32": _limit(torch.randn, lambda matrix: matrix @ matrix),
            "bf16": _limit(lambda *shape: torch.randn(shape).bfloat16(), lambda matrix: matrix @ matrix),
            "int8": _limit(
                lambda *shape: torch.randint(-100, 100, shape, dtype=torch.int8),
                lambda matrix: torch._int_mm(matrix, matrix),
            ),
        }
    finally:
        torch.set_num_threads(before)


def gpu_gemm_limit() -> float | None:
    """GFLOP/s of one product of fp16 matrices of side 8192 on the first GPU, best of several; None without one."""
    if not torch.cuda.is_available():
        return None
    matrix = torch.randn(_GPU_SIDE, _GPU_SIDE, device="cuda", dtype=torch.float16)
    best = float("inf")
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        matrix @ matrix
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return round(2 * _GPU_SIDE**3 / best / 1e9, 1)


def _limit(matrix: Callable[[int, int], Tensor], square: Callable[[Tensor], Tensor]) -> float:
    speed = 0.0
    for side in _SIDES:
        values = matrix(side, side)
        start = time.perf_counter()
        square(values)
        taken = time.perf_counter() - start
        end = time.perf_counter() + _SECONDS
        while time.perf_counter() < end:
            start = time.perf_counter()
            square(values)
            taken = min(taken, time.perf_counter() - start)
        speed = 2 * side**3 / taken / 1e9
        if 8 * taken > _SECONDS:  # as long as the next side would take
            break
    return round(speed, 1)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
