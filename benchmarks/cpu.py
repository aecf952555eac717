"""Images per second on a CPU, of the whole job: this runtime beside what people would use instead.

``python -m benchmarks.cpu`` exports the presets with random weights (`earth` and the paper's `ffhq256-2102`), lets the
contenders take turns, prints a table for each, and writes it to `benchmarks/results/`. Ratios hold within one run on
one machine. Needs the extras train and export, and for two of the contenders the extra openvino and a C++ compiler;
what is missing is said, and left out. What `sundae-rt bench` remembers of these bundles counts for `runtime`; the table
says what it ran on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from benchmarks import machine, race
from benchmarks.contenders import CPU
from sundae_rt.backends.cores import available_cores

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


@click.command()
@click.option("--preset", "presets", multiple=True, default=("earth", "ffhq256-2102"), show_default=True)
@click.option("--contender", "names", multiple=True, type=click.Choice(CPU), default=CPU)
@click.option("--n", "images", type=click.IntRange(1), default=64, show_default=True, help="Images of each contender.")
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; by default the cores that may be used.")
@click.option("--quick", is_flag=True, help=f"{_QUICK_IMAGES} images of each contender in one turn.")
@click.option("--bundles", type=click.Path(path_type=Path), default=Path("build/benchmarks"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=race.RESULTS, show_default=True)
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
        bundle = race.bundle_of(preset, bundles, ("fp32", "int8"))
        work = race.gflop_per_image(preset, steps)
        rows = _race(names, [preset, bundle, batch_size, threads], images, steps, rounds)
        lines = _table(rows, work, limits["fp32"])
        click.echo(f"\n{preset}: {images} images, {steps} steps, batch {batch_size}, {work:.0f} GFLOP an image")
        click.echo("\n".join(lines))
        tables[preset] = {"gflop_per_image": work, "rows": [asdict(row) for row in rows], "table": lines}
    how = {"images": images, "steps": steps, "batch_size": batch_size, "threads": threads, "rounds": rounds}
    race.write(results, "cpu", {"machine": about, "gemm_gflops": limits, "settings": how, "presets": tables})


def _race(names: Sequence[str], job: list[object], images: int, steps: int, rounds: int) -> list[Row]:
    """Every contender's turns, in a new order each round; a short first one of each, which compiles, does not count."""
    rows = {name: Row(name) for name in names}
    turns = {name: race.Turns(name, *job) for name in names}
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


if __name__ == "__main__":
    main()
