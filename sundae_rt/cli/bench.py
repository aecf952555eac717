"""`sundae-rt bench`: which backend and variant is the fastest for a bundle here, which `auto` then takes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import click

from sundae_rt.cli.interrupts import held_back
from sundae_rt.engines import DEFAULT

if TYPE_CHECKING:
    from sundae_rt.bundle import Bundle
    from sundae_rt.runtime import Runtime


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the table: seconds for loading, for a step of one image, and for decoding it; or why there are none."""

    backend: str
    variant: str = ""
    load: float = 0.0
    step: float = 0.0
    decoding: float = 0.0
    image: float = 0.0
    fault: str | None = None

    def __str__(self) -> str:
        name = f"{self.backend:<9} {self.variant:<10}"
        if self.fault is not None:
            return f"{name} not run: {self.fault.removeprefix(f'{self.backend}: ')}"
        return f"{name} {self.load:8.2f} {1e3 * self.step:10.2f} {1e3 * self.decoding:10.2f} {1 / self.image:10.3f}"


def _finite(ctx: click.Context, option: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds.", ctx, option)
    return value


@click.command("bench", short_help="Find the fastest backend and variant for a bundle here.")
@click.option("--bundle", metavar="NAME|PATH", help=f"Bundle to time.  [{DEFAULT}]")
@click.option("--batch-size", type=click.IntRange(1, 2**16), default=8, metavar="N", show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=3.0,
    callback=_finite,
    metavar="S",
    show_default=True,
    help="How long to time each, roughly, after it has loaded.",
)
@click.option("--forget", is_flag=True, help="Forget what was timed for the bundle, and stop.")
def command(bundle: str | None, batch_size: int, seconds: float, forget: bool) -> None:
    """Time every backend and variant that is present, print a table, and have `auto` take the fastest from now on.

    TensorRT is timed with the engines that are built already.

    An image's time is that of its steps, by the bundle's own schedule, and of its decoding, in full batches. Run it on
    a quiet machine. What is kept holds for this bundle, processor, GPU with its driver, and versions of the libraries;
    the last line says where.
    """
    with held_back():
        from sundae_rt import engines
        from sundae_rt.backends import timings
        from sundae_rt.bundle import Bundle
        from sundae_rt.errors import BackendError, BundleError

    opened = Bundle.open(engines.resolve(DEFAULT if bundle is None else bundle))
    if not {"denoiser", "decoder"} & opened.manifest.graphs.keys():
        raise BundleError(f"{opened.manifest.name} has nothing to time: neither a denoiser nor a decoder")
    if forget:
        timings.remember(opened.fingerprint, None, [])
        click.echo(f"forgot what was timed for {opened.manifest.name}")
        return
    click.echo(f"{'backend':<9} {'variant':<10} {'load, s':>8} {'step, ms':>10} {'decode, ms':>10} {'images/s':>10}")
    rows = []
    for row in _rows(opened, batch_size, seconds):
        click.echo(str(row))
        rows.append(row)
    timed = [timings.Timing(row.backend, row.variant, row.image) for row in rows if row.fault is None]
    if not timed:
        raise BackendError(f"no backend here runs {opened.manifest.name}: the table says why")
    timings.remember(opened.fingerprint, None, timed)
    best = min(timed, key=lambda timing: timing.seconds)
    click.echo(f"auto takes {best.backend} with {best.variant} for {opened.manifest.name} here: {timings.path()}")


def _rows(bundle: "Bundle", batch_size: int, seconds: float) -> Iterator[_Row]:
    from sundae_rt.backends import names, open_backend
    from sundae_rt.choice import runnable, unbuilt
    from sundae_rt.errors import BackendError
    from sundae_rt.runtime import Runtime

    for name in names():
        try:
            with held_back():
                backend = open_backend(name)
        except BackendError as error:
            yield _Row(name, fault=str(error))
            continue
        for variant in runnable(bundle.manifest, backend):
            try:
                if fault := unbuilt(bundle, backend, variant):
                    raise BackendError(f"{name}: {fault} --precision {variant}")
                with Runtime(bundle, backend, variant=variant, batch_size=batch_size) as runtime:
                    yield _timed(runtime, batch_size, seconds)
            except BackendError as error:
                yield _Row(name, variant, fault=str(error))


def _timed(runtime: "Runtime", batch_size: int, seconds: float) -> _Row:
    """One backend and variant, by the best of several runs: other work on the machine only ever slows one down."""
    import numpy as np

    manifest = runtime.manifest
    shape = (batch_size, *manifest.latent_grid)
    rng = np.random.default_rng(0)
    codes, uniform = rng.integers(0, manifest.vocabulary, shape, dtype=np.int32), rng.random(shape, np.float32)
    label = None if manifest.labels is None else 0

    def step() -> None:
        runtime.denoise(codes, 1.0, uniform, np.ones(shape, np.bool_), label)

    def decode() -> None:
        runtime.decode(codes)

    load, of_step, of_decoding = 0.0, 0.0, 0.0
    if "denoiser" in manifest.graphs:
        first, of_step = _best(step, seconds / 2)
        load += first
    if "decoder" in manifest.graphs:
        first, of_decoding = _best(decode, seconds / 2)
        load += first
    image = (manifest.default_schedule.steps * of_step + of_decoding) / batch_size
    return _Row(runtime.backend, runtime.variant, load, of_step / batch_size, of_decoding / batch_size, image)


def _best(run: Callable[[], None], seconds: float) -> tuple[float, float]:
    """How long the first run took beyond a later one (hence to load), and the shortest of the later ones."""
    start = perf_counter()
    run()
    first = perf_counter() - start
    end, best = perf_counter() + seconds, float("inf")
    while best == float("inf") or perf_counter() < end:
        start = perf_counter()
        run()
        best = min(best, perf_counter() - start)
    return max(0.0, first - best), best
