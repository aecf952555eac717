"""`sundae-rt generate`: images into a folder, or one image again from its own file."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sundae_rt.cli.interrupts import held_back
from sundae_rt.cli.options import (
    FILE,
    Engine,
    Sampling,
    check_png,
    engine_options,
    grid_option,
    sampling_options,
)
from sundae_rt.cli.progress import Progress, interrupted, summary
from sundae_rt.cli.saving import check_places, made_by, save, save_each

if TYPE_CHECKING:
    from sundae_rt.provenance import Provenance
    from sundae_rt.runtime import Runtime

_WITH_LIKE = {"like", "output", "out", "bundle", "backend", "variant", "batch_size"}


@click.command("generate", short_help="Generate images.")
@sampling_options("drawn for each, as often as in the data")
@engine_options
@click.option(
    "--out", type=FILE, default=Path("samples"), metavar="DIR", show_default=True, help="Folder to write images to."
)
@click.option("-o", "output", type=FILE, metavar="FILE", help="The one image's own file name, instead of --out.")
@grid_option
@click.option("--like", type=FILE, metavar="IMAGE", help="Make an image again, with the settings in its own PNG file.")
@click.pass_context
def command(
    ctx: click.Context,
    sampling: Sampling,
    engine: Engine,
    out: Path,
    output: Path | None,
    grid: Path | None,
    like: Path | None,
) -> None:
    """Generate images as DIR/000000.png, 000001.png, ... numbered by image index.

    Each is written as it finishes, whole, over an earlier file of its name; other files in DIR stay. Its settings are
    written into it, so that --like can make it again. An image depends on its seed and settings alone.
    """
    given = {name for name in ctx.params if ctx.get_parameter_source(name) != click.core.ParameterSource.DEFAULT}
    if output is not None:
        check_png(output)
        if "out" in given or sampling.n > 1:
            raise click.UsageError("-o names one image: use --out for a folder of several.", ctx)
    if like is None:
        _generate(sampling, engine, out, output, grid)
        return
    if excess := [name for name in ctx.params if name in given - _WITH_LIKE]:
        option = "--" + excess[0].replace("_", "-")
        raise click.UsageError(f"{option} does not go with --like, which takes all settings from the image.", ctx)
    _generate_again(like, engine, out, output)


def _generate(sampling: Sampling, engine: Engine, out: Path, output: Path | None, grid: Path | None) -> None:
    with held_back():
        from sundae_rt.sheet import ContactSheet

    def path_of(index: int) -> Path:
        return output or _numbered(out, index)

    check_places(path_of, sampling.n, grid)
    progress = Progress(sampling.n)
    try:
        with engine.load(sampling.n) as runtime:
            size = runtime.manifest.image_size or (1, 1)
            sheet = None if grid is None else ContactSheet(grid, sampling.n, size)
            save_each(
                runtime.stream(sampling.n, seed=sampling.seed, label=sampling.label, **sampling.settings),
                path_of,
                partial(made_by, "generate", runtime, sampling.schedule(runtime)),
                progress,
                sheet,
            )
    except KeyboardInterrupt:
        raise interrupted(progress, output or out) from None
    click.echo(summary(progress, output or out, runtime.backend, runtime.variant))


def _generate_again(like: Path, engine: Engine, out: Path, output: Path | None) -> None:
    with held_back():
        from sundae_rt.errors import InputError, shown
        from sundae_rt.provenance import read

    made = read(like)
    path = output or _numbered(out, made.index)
    check_places(lambda index: path, 1)
    if made.command != "generate":
        raise InputError(f"{like} is an inpainting, made from another picture: only generated images can be made again")
    engine = replace(engine, bundle=engine.bundle or str(_shipped(like, made)))
    with _loaded(engine, made) as runtime:
        if runtime.fingerprint != made.fingerprint:
            raise InputError(
                f"{like} was made with the bundle {shown(made.bundle)} ({made.fingerprint[:12]}), not with "
                f"{runtime.manifest.name!r} ({runtime.fingerprint[:12]}): name where it lies with --bundle"
            )
        progress = Progress(1)
        (sample,) = runtime.generate(1, seed=made.seed, label=made.label, **made.settings)
        save(path, sample.image, made_by("generate", runtime, made.schedule, sample, index=made.index))
        progress.advance()
        if (runtime.backend, runtime.variant) != (made.backend, made.variant):
            now, then = (f"{shown(one.backend)} in {shown(one.variant)}" for one in (runtime, made))
            click.echo(f"sundae-rt: made on {now}, the first time on {then}: pixels may differ by rounding", err=True)
        click.echo(summary(progress, path, runtime.backend, runtime.variant))


def _loaded(engine: Engine, made: "Provenance") -> "Runtime":
    """The runtime in the image's own precision, unless another was asked for or this machine's backend lacks it.

    The backend is this machine's business: an image made on a GPU is made again on a CPU, up to rounding.
    """
    from sundae_rt.errors import BackendError, BundleError

    if engine.variant == "auto":
        try:
            return replace(engine, variant=made.variant).load(1)
        except (BackendError, BundleError):
            pass  # what is wrong with anything but the variant, the next line says again
    return engine.load(1)


def _shipped(like: Path, made: "Provenance") -> Path:
    """The image's own bundle, if it ships; a name in somebody's file is never taken as a path."""
    from sundae_rt import engines
    from sundae_rt.errors import InputError, shown

    bundles = engines.shipped()
    if made.bundle not in bundles:
        raise InputError(
            f"{like} was made with the bundle {shown(made.bundle)}, which does not ship: "
            "name where it lies with --bundle"
        )
    return bundles[made.bundle]


def _numbered(folder: Path, index: int) -> Path:
    return folder / f"{index:06}.png"
