"""The benchmark of memory: what a process held at most, and a job at toy size."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from house import benchmark

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads what Linux counts")


@pytest.fixture(scope="module")
def memory() -> Any:
    return benchmark("memory")


def holding(mib: int) -> list[str]:
    return [sys.executable, "-c", f"b'x' * ({mib} * 2**20)"]


def test_it_is_the_most_that_a_process_held(memory: Any) -> None:
    less, more = (memory.peak_mib(holding(mib)) for mib in (50, 150))
    assert more - less == pytest.approx(100, abs=10)
    held = b"x" * (300 * 2**20)  # by whoever asks, which is not counted
    assert memory.peak_mib(holding(50)) < 200
    del held


def test_a_command_that_fails_ends_the_benchmark(memory: Any) -> None:
    with pytest.raises(click.ClickException, match="ended with 3"):
        memory.peak_mib([sys.executable, "-c", "raise SystemExit(3)"])


def test_an_export_and_a_job_are_measured_and_written(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(memory, "peak_mib", lambda command: asked.append(command[3:]) or 100.0 * len(asked))
    options = ["--preset", "toy", "--backend", "cpu", "--n", "2", "--steps", "3", "--bundles", tmp_path / "bundles"]
    memory.main.main([*map(str, options), "--results", str(tmp_path)], standalone_mode=False)
    assert [command[0] for command in asked] == ["export", "generate"]
    assert "toy, 2 images, 3 steps, batch 8, cpu: 200 MiB" in capsys.readouterr().out
    (written,) = tmp_path.glob("memory-*.json")
    assert json.loads(written.read_text())["peak_mib"] == {"export": 100.0, "cpu": 200.0}
