"""What /proc/cpuinfo tells, on x86 and on ARM, and where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from sundae_rt.backends.processor import BF16, INT8, instructions, is_fast_in_bf16, processor_name

X86 = """processor\t: 0
model name\t: Some Processor 9
flags\t\t: fpu avx2 avx512f avx512_vnni

processor\t: 1
model name\t: Some Processor 9
flags\t\t: fpu avx2 avx512f avx512_vnni
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n"


def test_x86(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(X86)
    assert processor_name(tmp_path / "cpuinfo") == "Some Processor 9"
    assert instructions(tmp_path / "cpuinfo") == {"avx2", "avx512f", "avx512_vnni"}
    assert instructions(tmp_path / "cpuinfo") & INT8
    assert not instructions(tmp_path / "cpuinfo") & BF16


def test_arm(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(ARM)
    assert instructions(tmp_path / "cpuinfo") == {"asimddp", "i8mm", "bf16"}
    assert is_fast_in_bf16(tmp_path / "cpuinfo")


@pytest.mark.parametrize(
    ("vendor", "flags", "fast"),
    [
        ("AuthenticAMD", "avx512_bf16", True),
        ("GenuineIntel", "avx512_bf16", False),
        ("GenuineIntel", "avx512_bf16 amx_bf16", True),
        ("AuthenticAMD", "avx512_vnni", False),
    ],
)
def test_bf16_is_fast_with_amx_and_on_amd(tmp_path: Path, vendor: str, flags: str, fast: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"vendor_id\t: {vendor}\nflags\t\t: {flags}\n")
    assert is_fast_in_bf16(tmp_path / "cpuinfo") is fast


def test_elsewhere_nothing_is_known(tmp_path: Path) -> None:
    assert instructions(tmp_path / "cpuinfo") == frozenset()
    assert not is_fast_in_bf16(tmp_path / "cpuinfo")
    assert isinstance(processor_name(tmp_path / "cpuinfo"), str)
