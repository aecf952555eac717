"""`sundae-rt inpaint`: repaint the white part of a mask."""

import hashlib
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
from sundae_rt.cli.saving import made_by, save


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

    from sundae_rt import inpainting
    from sundae_rt.images import open_image
    from sundae_rt.sheet import ContactSheet, sheet_format

    if grid is not None:
        sheet_format(grid)
    picture, selected = open_image(image), open_image(mask)
    sheet = ContactSheet(sampling.n, (picture.height, picture.width)) if grid is not None else None
    hashes = {"image_sha256": _sha256(image), "mask_sha256": _sha256(mask)}
    written = output if sampling.n == 1 else output.with_stem(f"{output.stem}-*")
    progress = Progress(sampling.n)
    try:
        with engine.load(engine.batch_size) as runtime:
            manifest, schedule = runtime.manifest, runtime.schedule(**sampling.settings)
            if manifest.image_size is not None:
                for note in inpainting.plan(picture, selected, manifest.image_size, manifest.latent_grid).notes:
                    click.echo(f"sundae-rt: {note}", err=True)
            with progress:
                # A batch at a time: finished pictures are written before more of their size are made.
                for first in range(0, sampling.n, engine.batch_size):
                    samples = runtime.inpaint(
                        picture,
                        selected,
                        min(engine.batch_size, sampling.n - first),
                        seed=sampling.seed + first,
                        label=sampling.label,
                        **sampling.settings,
                    )
                    for index, sample in enumerate(samples, first):
                        path = output if sampling.n == 1 else output.with_stem(f"{output.stem}-{index}")
                        save(path, sample.image, made_by("inpaint", runtime, schedule, sample, index=index, **hashes))
                        if sheet is not None:
                            sheet.add(index, sample.image)
                        progress.advance()
        if sheet is not None and grid is not None:
            sheet.save(grid)
    except KeyboardInterrupt:
        raise interrupted(progress, sampling.n, written) from None
    click.echo(summary(progress, written, runtime.backend, runtime.variant))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
