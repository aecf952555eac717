"""What both trainers share: the loop, randomness that depends on the step alone, learning rate, EMA, progress."""

from __future__ import annotations

import functools
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import click
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import Dataset

from sundae_rt.errors import InputError, SundaeError, one_line
from sundae_rt.training import checkpoint
from sundae_rt.training.data import StepSampler, batches
from sundae_rt.training.resuming import Start

_BAR = 48
"""Columns of a progress bar without its figures, position and time left of a long training in it."""


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seeds every random draw of one training step, so that a resumed run draws what the unbroken one would have."""
    torch.manual_seed(((seed * 1_000_003 + step) * 1_009 + rank) % 2**64)  # PyTorch's seeds have 64 bits


def make_accelerator(precision: str | None = None) -> Accelerator:
    """The devices and processes at hand.

    ``precision``: "bf16" for autocast to it, or "no"; None is what the hardware is faster in, by the first process.
    """
    # Which weights take part changes when the codes freeze, and the codebook moves by itself.
    wrapping = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Left to itself, Accelerator ignores several processes where there is no GPU: each would train alone, on all data.
    cpu = not torch.accelerator.is_available()
    if precision is None:
        PartialState(cpu=cpu)  # the processes know one another from here on
        precision = broadcast_object_list(["bf16" if _is_faster_in_bf16() else "no"])[0]
    return Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[wrapping])


@functools.cache  # a process trains all that it trains in one precision
def _is_faster_in_bf16() -> bool:
    """An NVIDIA GPU since Ampere is, other accelerators are not known to be; of a CPU it is tried, for its instructions
    do not tell.

    With AVX-512 BF16 an AMD EPYC multiplies matrices three times as fast in bf16 as in fp32, a Xeon half as fast.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():
        return False
    return _seconds_of_product(torch.bfloat16) < _seconds_of_product(torch.float32)


def _seconds_of_product(dtype: torch.dtype, side: int = 256, tries: int = 5) -> float:
    """The least seconds that a CPU took for a product of two square matrices, the first try aside."""
    left, right = (torch.ones(side, side, dtype=dtype) for _ in range(2))
    taken = []
    for _ in range(1 + tries):
        start = time.perf_counter()
        torch.mm(left, right)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


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
    """A progress bar with figures on a terminal; elsewhere, and in ``log``, a line every ``every`` steps.

    It is a context manager, which ends the bar's line.
    """

    def __init__(self, total: int, start: int, batch: int, log: Path, every: int = 50, quiet: bool = False) -> None:
        self.bar = click.progressbar(length=total, width=12, show_pos=True, item_show_func=lambda item: item)
        self.total, self.batch, self.every, self.quiet = total, batch, every, quiet
        self.step = start
        self.terminal = sys.stdout.isatty() and not quiet
        self.log = log
        self.sums: dict[str, float] = {}
        self.count, self.since = 0, time.perf_counter()
        if self.terminal:
            self.bar.update(start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.terminal:
            self.bar.render_finish()

    def update(self, figures: dict[str, float]) -> None:
        """One step done, with its losses."""
        self.step += 1
        self.count += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if self.terminal:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            # What is longer than the terminal would leave a line behind at each step.
            room = max(shutil.get_terminal_size().columns - _BAR, 0)
            self.bar.update(1, f"images/s {self._rate():.1f}  {shown}"[:room])
        if self.step % self.every == 0 or self.step == self.total:
            self._write_line()

    def _rate(self) -> float:
        """Images per second since the last line."""
        return self.count * self.batch / (time.perf_counter() - self.since)

    def _write_line(self) -> None:
        means = "  ".join(f"{name} {value / self.count:.4f}" for name, value in self.sums.items())
        line = f"step {self.step}/{self.total}  {means}  images/s {self._rate():.1f}"
        if not self.quiet:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            if not self.terminal:
                click.echo(line)
        self.sums, self.count, self.since = {}, 0, time.perf_counter()


class Trainer(Protocol):
    """What :func:`train` drives."""

    accelerator: Accelerator

    def step(self, batch: Any, step: int) -> dict[str, float]:
        """One update on one batch; returns its figures."""

    def state(self, step: int) -> dict[str, Any]:
        """All that resuming needs, as tensors and plain values, after ``step`` steps."""

    def restore(self, state: dict[str, Any]) -> int:
        """Takes up a :meth:`state`; returns its step."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training: what it starts with, its length, and what its batches are drawn from.

    ``record``: what its state remembers of all that, see :meth:`Start.record`.
    """

    start: Start
    record: dict[str, Any]
    steps: int
    batch_size: int
    save_every: int
    turns: bool = False
    workers: int = 0


def begin(run: Run) -> Accelerator:
    """Makes the folder, and seeds what comes before the first step.

    Raises:
        InputError: batches that do not divide into equal parts, one for each process: images of the smaller parts would
            weigh more than others.
    """
    accelerator = make_accelerator(run.start.began.get("precision"))
    if run.batch_size % (processes := accelerator.num_processes):
        raise InputError(
            f"batch_size {run.batch_size} does not divide by {processes} processes: start a number of them that "
            "divides it, or give a preset of your own another batch_size"
        )
    run.start.path.parent.mkdir(parents=True, exist_ok=True)
    seed_step(run.start.seed, -1)
    return accelerator


def train(
    run: Run, trainer: Trainer, dataset: Dataset[Any], save: Callable[[int], None], say: Callable[[str], None]
) -> None:
    """Runs a trainer to its end, from the start or from where it stopped.

    ``save(step)`` writes what users see (checkpoint, sample sheet) beside the state that resuming needs, and ``say``
    takes lines for them; the first process alone calls either.
    """
    rank, ranks = trainer.accelerator.process_index, trainer.accelerator.num_processes
    path, seed = run.start.path, run.start.seed
    state = checkpoint.resume_path(path)
    first = _restored(trainer, state) if run.start.resume else 0
    if first >= run.steps:
        if rank == 0:
            if not path.exists() or checkpoint.read(path, mmap=True).get("provenance", {}).get("steps") != first:
                save(first)  # what ended the process came between the two
                say(f"wrote {path}")
            say(f"{path} has been trained for {first} steps already: a larger --steps goes on")
        return
    for line in (run.start.other_end(run.steps), run.start.other_processes(ranks)):
        if rank == 0 and line:
            say(line)
    here = {"processes": ranks, "precision": trainer.accelerator.mixed_precision}
    sampler = StepSampler(len(dataset), run.batch_size, first, run.steps, seed, run.turns, rank, ranks)
    with Progress(run.steps, first, run.batch_size, path.with_suffix(".log"), quiet=rank > 0) as progress:
        for step, batch in enumerate(batches(dataset, sampler, run.workers), first):
            seed_step(seed, step, rank)
            figures = trainer.step(batch, step)
            diverged = any(math.isnan(value) for value in figures.values())
            progress.update(figures)
            is_saved = rank == 0 and ((step + 1) % run.save_every == 0 or step + 1 == run.steps)
            values = trainer.state(step + 1) if is_saved and not diverged else {}
            if diverged or not checkpoint.is_finite(values):
                before = f"; what was saved before is in {path.parent}" if state.exists() else ""
                raise SundaeError(
                    f"step {step + 1}: the training diverged, its figures or weights are no numbers any more: begin "
                    f"anew with a lower learning_rate{before}"
                )
            if is_saved:
                checkpoint.save(state, values | {"began": run.record | here})
                save(step + 1)
    if rank == 0:
        say(f"wrote {path}")


def _restored(trainer: Trainer, path: Path) -> int:
    """The step of the state in ``path``, which the trainer takes up.

    Raises:
        InputError: it is no state of such a training.
    """
    try:
        return trainer.restore(checkpoint.read(path))
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{path} is no state of such a training ({type(error).__name__}: {one_line(error)})"
        ) from error
