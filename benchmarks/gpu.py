"""Correctness and speed on a GPU: this runtime's backends beside PyTorch, in fp16.

``python -m benchmarks.gpu`` exports the presets with random weights (`earth`, and the paper's `ffhq256-2102` and
`ffhq1024-2122`), first checks every backend by the same seeds on the CPU in fp32, then times the contenders at each
size of batch, one after the other, so that each has the GPU's memory to itself. It prints a short table of each last,
and writes all to `benchmarks/results/`. What is missing or fails has its reason in the table; a check that fails makes
the exit code 1. Needs the extras train and export, and for the contenders PyTorch with CUDA, `cuda` and `tensorrt` or
`tensorrt-rtx`. ``--device cpu`` does the same with what runs on a CPU, which is how the script itself is tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click

from benchmarks import machine, race
from benchmarks.checks import Findings
from benchmarks.contenders import CONTENDERS
from sundae_rt.backends.cores import available_cores

PRESETS: Final = ("earth", "ffhq256-2102", "ffhq1024-2122")
BATCHES: Final = (1, 16, 64)


@dataclass(frozen=True, slots=True)
class Device:
    """What a device has: contenders, backends to check, variants of the bundles, and the precision of its limit."""

    contenders: tuple[str, ...]
    backends: tuple[str, ...]
    variants: tuple[str, ...]
    limit: str


DEVICES: Final = {
    "cuda": Device(
        ("eager", "compile", "runtime-cuda", "runtime-tensorrt"), ("cuda", "tensorrt"), ("fp32", "fp16"), "fp16"
    ),
    "cpu": Device(
        ("eager", "compile", "runtime-onnxruntime", "runtime-openvino"), ("cpu", "openvino"), ("fp32", "int8"), "fp32"
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """What one contender took at one size of batch; or why it took no part."""

    name: str
    batch: int
    how: str = ""
    ms_per_step: float = 0.0
    images_per_second: float = 0.0
    memory_mib: float = 0.0
    missing: str | None = None


@click.command()
@click.option("--device", type=click.Choice(list(DEVICES)), default="cuda", show_default=True)
@click.option("--preset", "presets", multiple=True, default=PRESETS, show_default=True)
@click.option("--contender", "names", multiple=True, type=click.Choice(list(CONTENDERS)), help="By default all.")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=BATCHES, show_default=True)
@click.option("--steps", type=click.IntRange(2), default=20, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns, of which the best counts.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; by default the cores that may be used.")
@click.option("--bundles", type=click.Path(path_type=Path), default=Path("build/benchmarks-gpu"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=race.RESULTS, show_default=True)
def main(
    device: str,
    presets: Sequence[str],
    names: Sequence[str],
    batches: Sequence[int],
    steps: int,
    rounds: int,
    threads: int | None,
    bundles: Path,
    results: Path,
) -> None:
    """Check the backends, then time the contenders."""
    threads = threads or available_cores()
    kind, about = DEVICES[device], machine.describe()
    click.echo("; ".join([about["processor"], *(about["gpus"] or ["no GPU"])]))
    limit = machine.gpu_gemm_limit() if device == "cuda" else machine.gemm_limits(threads)["fp32"]
    click.echo(
        f"GEMM in {kind.limit}: " + ("not measured: PyTorch sees no GPU" if limit is None else f"{limit:.0f} GFLOP/s")
    )
    found: dict[str, list[Findings]] = {}
    rows: dict[str, list[Row]] = {}
    work = {}
    for preset in presets:
        bundle = race.bundle_of(preset, bundles, kind.variants)
        work[preset] = race.gflop_per_image(preset, steps)
        click.echo(f"{preset}: checking")
        found[preset] = list(_checked(kind.backends, bundle, steps, threads))
        click.echo(f"{preset}: timing")
        job = [preset, bundle]
        rows[preset] = [
            _timed(name, batch, [*job, batch, threads, device], steps, rounds)
            for batch in batches
            for name in names or kind.contenders
        ]
    lines = [*_checks_table(found), "", *_times_table(rows, work, limit, kind.limit)]
    settings = {"device": device, "steps": steps, "rounds": rounds, "threads": threads}
    values = {
        "machine": about,
        "gemm_gflops": {kind.limit: limit},
        "settings": settings,
        "presets": {
            preset: {
                "gflop_per_image": work[preset],
                "checks": [asdict(one) for one in found[preset]],
                "rows": [asdict(row) for row in rows[preset]],
            }
            for preset in presets
        },
        "table": lines,
    }
    race.write(results, device, values)
    click.echo("\n" + "\n".join(lines))
    everything = [one for each in found.values() for one in each]
    if all(one.is_absent for one in everything):
        raise click.ClickException(f"no backend for {device} is here: nothing was checked")
    if faults := [f"{one.backend} {one.variant}: {fault}" for one in everything for fault in one.faults]:
        raise click.ClickException(f"{len(faults)} checks failed: {'; '.join(faults)}")


def _checked(backends: Sequence[str], bundle: Path, steps: int, threads: int) -> Iterator[Findings]:
    """What is found of each backend, in a process of its own."""
    reference = bundle.with_name(f"{bundle.name}-{steps}.npz")
    rest = [str(bundle), str(reference), str(steps), str(threads)]
    if not reference.exists():
        _run("reference", *rest).check_returncode()
    for name in backends:
        done = _run(name, *rest)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        yield from (Findings(**line) for line in lines)
        if done.returncode != 0:
            fault = f"ended with {done.returncode}: {race.last_line(done.stderr)}"
            yield Findings(name, missing=fault, faults=(fault,))


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.checks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=race.ROOT, check=False)


def _timed(name: str, batch: int, job: list[object], steps: int, rounds: int) -> Row:
    """A contender's turns at one size of batch; the first, which loads and compiles, does not count."""
    turns = race.Turns(name, *job)
    try:
        turns.take(batch, 2)
        one = min(turns.take(batch, 1)["seconds"] for _ in range(rounds))
        told = [turns.take(batch, steps) for _ in range(rounds)]
    except RuntimeError as error:
        return Row(name, batch, missing=str(error))
    finally:
        turns.end()
    all_steps = min(turn["seconds"] for turn in told)
    per_step = 1e3 * (all_steps - one) / (steps - 1)
    return Row(name, batch, told[-1]["how"], per_step, batch / all_steps, told[-1]["peak_memory_mib"])


def _checks_table(found: dict[str, list[Findings]]) -> list[str]:
    """Markdown; equal codes after the first step, the middle one and the last."""
    lines = ["| preset | backend | equal codes after steps | pictures, dB | any batch | single steps | right |"]
    lines.append("|---|---|---|---|---|---|---|")
    for preset, findings in found.items():
        for one in findings:
            who = f"{preset} | {one.backend} {one.variant}".rstrip()
            if one.missing is not None:
                lines.append(f"| {who} | not checked: {one.missing} | | | | {'' if one.is_absent else 'NO'} |")
                continue
            at = sorted({0, len(one.equal) // 2, len(one.equal) - 1})
            shares = ", ".join(f"{at_step + 1}: {100 * one.equal[at_step]:.1f} %" for at_step in at)
            same = " | ".join("same" if is_same else "DIFFERENT" for is_same in (one.batches, one.loop))
            psnr = "equal" if one.psnr is None else f"{one.psnr:.1f}"
            lines.append(f"| {who} | {shares} | {psnr} | {same} | {'NO' if one.faults else 'yes'} |")
    return lines


def _times_table(rows: dict[str, list[Row]], work: dict[str, float], limit: float | None, kind: str) -> list[str]:
    """Markdown; the share is of the whole job's multiplications."""
    lines = [f"| preset | batch | contender | runs | ms a step | images/s | of the {kind} GEMM limit | memory, MiB |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for preset, timed in rows.items():
        for row in timed:
            who = f"{preset} | {row.batch} | {row.name}"
            if row.missing is not None:
                lines.append(f"| {who} | not run: {row.missing} | | | | |")
                continue
            share = "" if limit is None else f"{100 * row.images_per_second * work[preset] / limit:.1f} %"
            figures = f"{row.ms_per_step:.2f} | {row.images_per_second:.3f} | {share} | {row.memory_mib:.0f}"
            lines.append(f"| {who} | {row.how} | {figures} |")
    return lines


if __name__ == "__main__":
    main()
