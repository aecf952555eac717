"""Images per second on a CPU, of the whole job: this runtime beside what people would use instead.

``python -m benchmarks.cpu`` exports the presets with random weights (`earth` and the paper's `ffhq256-2102`), lets the
contenders take turns, prints a table for each, and writes it to `benchmarks/results/`. Ratios hold within one run on
one machine. Needs the extras train and export, and for two of the contenders the extra openvino and a C++ compiler;
what is missing is said, and left out. What `sundae-rt bench` remembers of these bundles counts for `runtime`; the table
says what it ran on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import machine
from benchmarks.contenders import CONTENDERS
from sundae_rt.backends.cores import available_cores
from sundae_rt.export import export_checkpoint
from sundae_rt.export.graphs import Decoder
from sundae_rt.export.sources import from_preset

RESULTS = Path(__file__).parent / "results"
_ROOT = Path(__file__).parent.parent  # from where contenders are found
_BASE = "eager"  # what ratios are to
_QUICK_IMAGES, _ROUNDS = 8, 2


@dataclass
class Row:
    """What one contender took: seconds of each of its turns, and its peak memory in MiB; or why it took no part."""

    name: str
    how: str = ""
    images: int = 0
    seconds: list[float] = field(default_factory=list)
    peak_memory_mib: float = 0.0
    missing: str | None = None

    @property
    def seconds_per_image(self) -> float:
        """Over all turns."""
        return sum(self.seconds) / self.images


class Turns:
    """A contender in its own process."""

    def __init__(self, name: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "benchmarks.contenders", name, *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=_ROOT
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
            raise RuntimeError((error.strip().splitlines() or ["no reason given"])[-1])
        return json.loads(answer)

    def end(self) -> None:
        """Let it go."""
        self._process.terminate()
        self._process.communicate()


@click.command()
@click.option("--preset", "presets", multiple=True, default=("earth", "ffhq256-2102"), show_default=True)
@click.option("--contender", "names", multiple=True, type=click.Choice(list(CONTENDERS)), default=tuple(CONTENDERS))
@click.option("--n", "images", type=click.IntRange(1), default=64, show_default=True, help="Images of each contender.")
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; by default the cores that may be used.")
@click.option("--quick", is_flag=True, help=f"{_QUICK_IMAGES} images of each contender in one turn.")
@click.option("--bundles", type=click.Path(path_type=Path), default=Path("build/benchmarks"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(
    presets: Sequence[str],
    names: Sequence[str],
    images: int,
    steps: int,
    batch_size: int,
    threads: int | None,
    quick: bool,
    bundles: Path,
    results: Path,
) -> None:
    """Time the contenders beside one another."""
    threads = threads or available_cores()
    images, rounds = (min(images, _QUICK_IMAGES), 1) if quick else (images, min(_ROUNDS, images))
    about = machine.describe()
    click.echo(f"{about['processor']}, {about['cores']} cores ({', '.join(about['instructions'])}), {threads} threads")
    limits = machine.gemm_limits(threads)
    click.echo(f"GEMM: {', '.join(f'{kind} {value:.0f}' for kind, value in limits.items())} GFLOP/s")
    tables = {}
    for preset in presets:
        bundle = bundles / preset
        if not bundle.exists():
            export_checkpoint(out=bundle, preset=preset, random_weights=True, say=click.echo)
        work = _gflop_per_image(preset, steps)
        rows = _race(names, [preset, bundle.resolve(), batch_size, threads], images, steps, rounds)
        lines = _table(rows, work, limits["fp32"])
        click.echo(f"\n{preset}: {images} images, {steps} steps, batch {batch_size}, {work:.0f} GFLOP an image")
        click.echo("\n".join(lines))
        tables[preset] = {"gflop_per_image": work, "rows": [asdict(row) for row in rows], "table": lines}
    how = {"images": images, "steps": steps, "batch_size": batch_size, "threads": threads, "rounds": rounds}
    _write(results, {"machine": about, "gemm_gflops": limits, "settings": how, "presets": tables})


def _race(names: Sequence[str], job: list[object], images: int, steps: int, rounds: int) -> list[Row]:
    """Every contender's turns, in a new order each round; a short first one of each, which compiles, does not count."""
    rows = {name: Row(name) for name in names}
    turns = {name: Turns(name, *job) for name in names}
    batch = int(str(job[2]))
    try:
        for count in (0, *(images * (at + 1) // rounds - images * at // rounds for at in range(rounds))):
            for name in list(turns):
                try:
                    told = turns[name].take(count or min(batch, images), steps if count else 1)
                except RuntimeError as error:
                    rows[name].missing = str(error)
                    turns.pop(name).end()
                    continue
                if count:
                    rows[name].how = told["how"]
                    rows[name].images += told["images"]
                    rows[name].seconds.append(told["seconds"])
                    rows[name].peak_memory_mib = told["peak_memory_mib"]
            turns = dict(reversed(turns.items()))
    finally:
        for contender in turns.values():
            contender.end()
    return list(rows.values())


def _gflop_per_image(preset: str, steps: int) -> float:
    """What the multiplications of the prior's steps and of the decoder come to, counted by PyTorch."""
    sources = from_preset(preset)
    assert sources.prior is not None and sources.vqgan is not None
    codes = torch.zeros(1, sources.latent_grid[0] * sources.latent_grid[1], dtype=torch.int32)
    label = (torch.zeros(1, dtype=torch.int32),) if sources.prior.labels else ()
    step = _gflop(sources.prior.model, codes, *label)
    return steps * step + _gflop(Decoder(sources.vqgan.model, sources.latent_grid), codes)


def _gflop(module: torch.nn.Module, *inputs: torch.Tensor) -> float:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() / 1e9


def _table(rows: Sequence[Row], work: float, limit: float) -> list[str]:
    """Markdown. The share of the GEMM limit is the fp32 one: what runs in bf16 or int8 may pass 100 %."""
    base = next((row.seconds_per_image for row in rows if row.name == _BASE and not row.missing), None)
    lines = [
        f"| contender | runs | seconds an image | times {_BASE} | peak memory, MiB | of the fp32 GEMM limit |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.missing:
            lines.append(f"| {row.name} | not run: {row.missing} | | | | |")
            continue
        ratio = f"{base / row.seconds_per_image:.2f}" if base else ""
        share = work / row.seconds_per_image / limit
        figures = (f"{row.seconds_per_image:.3f}", ratio, f"{row.peak_memory_mib:.0f}", f"{100 * share:.0f} %")
        lines.append(f"| {' | '.join((row.name, row.how, *figures))} |")
    return lines


def _write(folder: Path, values: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"cpu-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    click.echo(f"\nwrote {path}")


if __name__ == "__main__":
    main()
