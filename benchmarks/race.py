"""What the benchmarks share: bundles of presets, contenders in processes of their own, an image's work, results."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from sundae_rt.export import export_checkpoint
from sundae_rt.export.graphs import Decoder
from sundae_rt.export.sources import from_preset

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
"""From where the benchmarks' modules are found."""


class Turns:
    """A contender in its own process."""

    def __init__(self, name: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "benchmarks.contenders", name, *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )

    def take(self, images: int, steps: int) -> dict[str, Any]:
        """One turn.

        Raises:
            RuntimeError: the contender ended; the last line that it wrote.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(images, steps, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            _, error = self._process.communicate()
            raise RuntimeError(last_line(error))
        return json.loads(answer)

    def end(self) -> None:
        """Let it go."""
        self._process.terminate()
        self._process.communicate()


def last_line(text: str) -> str:
    """The last line of what a process wrote to stderr, which names the error."""
    return (text.strip().splitlines() or ["no reason given"])[-1]


def bundle_of(preset: str, folder: Path, variants: Sequence[str], say: Callable[[str], None] = click.echo) -> Path:
    """The bundle of a preset with random weights in `folder`, exported unless it is there; its absolute path."""
    bundle = folder / preset
    if not bundle.exists():
        export_checkpoint(out=bundle, preset=preset, random_weights=True, variants=tuple(variants), say=say)
    return bundle.resolve()


def gflop_per_image(preset: str, steps: int) -> float:
    """What the multiplications of the prior's steps and of the decoder come to, counted by PyTorch."""
    sources = from_preset(preset)
    assert sources.prior is not None and sources.vqgan is not None
    codes = torch.zeros(1, sources.latent_grid[0] * sources.latent_grid[1], dtype=torch.int32)
    label = (torch.zeros(1, dtype=torch.int32),) if sources.prior.labels else ()
    step = _gflop(sources.prior.model, codes, *label)
    return steps * step + _gflop(Decoder(sources.vqgan.model, sources.latent_grid), codes)


def write(folder: Path, name: str, values: dict[str, Any]) -> None:
    """Write a result to a new file, and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    click.echo(f"\nwrote {path}")


def _gflop(module: torch.nn.Module, *inputs: torch.Tensor) -> float:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() / 1e9
