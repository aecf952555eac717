"""`sundae-rt inpaint`: repaint the white part of a mask."""

import hashlib
from functools import partial
from pathlib import Path

import click

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
from sundae_rt.cli.saving import made_by, save_each


@click.command("inpaint", short_help="Repaint the white part of a mask in an image.")
@click.argument("image", type=FILE)
@click.argument("mask", type=FILE)
@click.option("-o", "output", type=FILE, metavar="OUT", help="File to write, .png.  [IMAGE's name with -inpainted.png]")
@sampling_options
@engine_options
@grid_option
def command(
    image: Path, mask: Path, output: Path | None, sampling: Sampling, engine: Engine, grid: Path | None
) -> None:
    """Repaint in IMAGE what is white (128 or above) in MASK, which may have any pattern.

    What the mask keeps comes back pixel for pixel. How image and mask are fitted to the bundle (scaled, padded) is said
    on stderr. With --n above 1 the files are OUT-0.png, OUT-1.png, ...
    """
    output = output or Path(f"{image.stem}-inpainted.png")
    check_png(output)

    from sundae_rt.images import open_image
    from sundae_rt.sheet import ContactSheet

    picture, selected = open_image(image), open_image(mask)
    sheet = None if grid is None else ContactSheet(grid, sampling.n, (picture.height, picture.width))
    image_sha256, mask_sha256 = _sha256(image), _sha256(mask)
    several = sampling.n > 1
    progress = Progress(sampling.n)
    written = output.with_stem(f"{output.stem}-*") if several else output
    try:
        with engine.load(sampling.n) as runtime:
            plan = runtime.plan_inpainting(picture, selected)
            for note in plan.notes:
                click.echo(f"sundae-rt: {note}", err=True)
            made = partial(
                made_by,
                "inpaint",
                runtime,
                runtime.schedule(**sampling.settings),
                image_sha256=image_sha256,
                mask_sha256=mask_sha256,
            )
            save_each(
                runtime.stream_inpainting(
                    plan, sampling.n, seed=sampling.seed, label=sampling.label, **sampling.settings
                ),
                lambda index: output.with_stem(f"{output.stem}-{index}") if several else output,
                made,
                progress,
                sheet,
            )
    except KeyboardInterrupt:
        raise interrupted(progress, written) from None
    click.echo(summary(progress, written, runtime.backend, runtime.variant))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
