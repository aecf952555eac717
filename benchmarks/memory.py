"""The most memory that an export and a job take, through the command line, at a preset's real size.

``python -m benchmarks.memory --preset ffhq256-2102`` exports the preset with random weights, unless it lies there
already, has each backend make pictures of it in a process of its own, and writes what they took to
`benchmarks/results/`. Peak memory is the largest resident set of a process, mapped files included, as Linux
counts it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks import machine, race

# Linux also counts what a process held that started the other one, so this starts it, which holds next to nothing.
_WATCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def peak_mib(command: Sequence[str]) -> float:
    """Runs a command and returns the most memory that it held at once, in MiB.

    Raises:
        click.ClickException: the command failed; it said why on stderr.
    """
    done = subprocess.run([sys.executable, "-c", _WATCHER, *command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} ended with {done.returncode}")
    return round(int(done.stdout) / 1024, 1)


@click.command()
@click.option("--preset", default="ffhq256-2102", show_default=True)
@click.option("--variants", default="fp32,int8", show_default=True, help="What to export.")
@click.option("--backend", "backends", multiple=True, default=("cpu", "openvino"), show_default=True)
@click.option("--n", "images", type=click.IntRange(1), default=64, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--bundles", type=click.Path(path_type=Path), default=Path("build/benchmarks"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=race.RESULTS, show_default=True)
def main(
    preset: str,
    variants: str,
    backends: Sequence[str],
    images: int,
    steps: int,
    batch_size: int,
    bundles: Path,
    results: Path,
) -> None:
    """Measure the peak memory of an export and of a job on each backend."""
    bundle, peaks = bundles / preset, {}
    sundae_rt = [sys.executable, "-m", "sundae_rt"]
    if not bundle.exists():
        options = ["--preset", preset, "--random-weights", "--variants", variants, "--out", str(bundle)]
        peaks["export"] = peak_mib([*sundae_rt, "export", *options])
        click.echo(f"{preset}, export: {peaks['export']:.0f} MiB")
    for backend in backends:
        with tempfile.TemporaryDirectory(prefix="sundae-rt-") as out:
            sizes = ["--n", str(images), "--steps", str(steps)]
            options = ["--bundle", str(bundle), "--backend", backend, "--batch-size", str(batch_size), "--out", out]
            peaks[backend] = peak_mib([*sundae_rt, "generate", *sizes, *options])
        click.echo(f"{preset}, {images} images, {steps} steps, batch {batch_size}, {backend}: {peaks[backend]:.0f} MiB")
    settings = {"preset": preset, "images": images, "steps": steps, "batch_size": batch_size}
    race.write(results, "memory", {"machine": machine.describe(), "settings": settings, "peak_mib": peaks})


if __name__ == "__main__":
    main()
