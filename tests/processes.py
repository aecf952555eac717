"""The command line in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parent

# The command line of a process whose backend takes its time.
SLOW = f"""
import sys, time
sys.path.insert(0, {str(_TESTS)!r})
import fakes, sundae_rt.runtime
from sundae_rt.cli import main
backend = fakes.FakeBackend()
backend.before_run = lambda graph: time.sleep(0.02)
sundae_rt.choice.open_backend = lambda name, threads: backend
main()
"""


def process(*arguments: str, cwd: Path, code: str | None = None, **options: Any) -> subprocess.Popen[str]:
    """`sundae-rt` with these arguments in a process of its own, or other code that reads them."""
    start = ["-m", "sundae_rt"] if code is None else ["-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, *start, *arguments], cwd=cwd, text=True, **pipes)
