"""What both trainers share: randomness that depends on the step alone, learning rate, EMA, progress, precision."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
import torch
from accelerate import Accelerator
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seeds every random draw of one training step, so that a resumed run draws what the unbroken one would have."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


def make_accelerator() -> Accelerator:
    """The devices and processes at hand, with bf16 autocast where the hardware multiplies it.

    That is a GPU since Ampere, or a CPU with AVX-512 BF16 or AMX: without these instructions bf16 on a CPU is several
    times slower than fp32.
    """
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return Accelerator(mixed_precision="bf16" if fast else "no")


def learning_rate(step: int, start: int, end: int, peak: float, warmup: int, anneal: bool) -> float:
    """Linear warm-up from ``start``, then constant or, with ``anneal``, a cosine to a 50th of the peak at ``end``."""
    since = step - start
    if since < warmup:
        return peak * (since + 1) / warmup
    if not anneal:
        return peak
    progress = min((since - warmup) / max(end - start - warmup, 1), 1.0)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


class EMA:
    """Exponential moving average of some of a module's tensors, with a faster decay in the first steps."""

    def __init__(self, named_tensors: Iterable[tuple[str, Tensor]], decay: float) -> None:
        self.decay = decay
        self.average = {name: tensor.detach().clone() for name, tensor in named_tensors}

    @torch.no_grad()
    def update(self, module: nn.Module, updates: int) -> None:
        """Moves towards the module's present values; ``updates`` counts earlier calls."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        state = dict(module.named_parameters())
        names = list(self.average)
        torch._foreach_lerp_(
            [self.average[name] for name in names], [state[name].detach() for name in names], 1 - decay
        )

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """The module's whole state dict with averaged tensors in place of the live ones."""
        return {name: self.average.get(name, tensor).detach().clone() for name, tensor in module.state_dict().items()}


class Progress:
    """A progress bar with figures on a terminal; elsewhere, and in ``log``, a line every ``every`` steps."""

    def __init__(self, total: int, start: int, batch: int, log: Path, every: int = 50, quiet: bool = False) -> None:
        self.bar = click.progressbar(length=total, label="training", show_pos=True, item_show_func=lambda item: item)
        self.total, self.batch, self.every, self.quiet = total, batch, every, quiet
        self.step = start
        self.terminal = os.isatty(1) and not quiet
        self.log = log
        self.sums: dict[str, float] = {}
        self.count, self.since = 0, time.perf_counter()
        if self.terminal:
            self.bar.update(start)

    def update(self, figures: dict[str, float]) -> None:
        """One step done, with its losses."""
        self.step += 1
        self.count += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if self.terminal:
            self.bar.update(1, "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        if self.step % self.every == 0 or self.step == self.total:
            self._write_line()

    def _write_line(self) -> None:
        elapsed = time.perf_counter() - self.since
        means = "  ".join(f"{name} {value / self.count:.4f}" for name, value in self.sums.items())
        line = f"step {self.step}/{self.total}  {means}  images/s {self.count * self.batch / elapsed:.1f}"
        if not self.quiet:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            if not self.terminal:
                click.echo(line)
        self.sums, self.count, self.since = {}, 0, time.perf_counter()
