"""`sundae-rt inpaint`: repaint the white part of a mask."""

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
from sundae_rt.cli.saving import check_places, made_by, save_each

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from sundae_rt.runtime import Runtime

    Mask = Image.Image | NDArray[np.bool_]


@click.command("inpaint", short_help="Repaint the white part of a mask in an image.")
@click.argument("image", type=FILE)
@click.argument("mask")
@click.option("-o", "output", type=FILE, metavar="OUT", help="File to write, .png.  [IMAGE's name with -inpainted.png]")
@sampling_options("none, if the bundle has a null label: what is kept says what it is")
@engine_options
@grid_option
def command(image: Path, mask: str, output: Path | None, sampling: Sampling, engine: Engine, grid: Path | None) -> None:
    """Repaint in IMAGE what is white (128 or above) in MASK, which may have any pattern.

    \b
    MASK is a file, or one of the paper's kinds, drawn on the bundle's cells:
      block[:share=S,seed=N]                 one rectangle
      random-blocks[:share=S,size=N,seed=N]  squares of N cells that make up the share
      grid[:size=N]                          squares of N cells in rows and columns

    What is random there depends on its seed, by default that of --seed. A file of such a name is ./block.

    What the mask keeps comes back pixel for pixel. How image and mask are fitted to the bundle (scaled, padded) is said
    on stderr. With --n above 1 the files are OUT-0.png, OUT-1.png, ...
    """
    output = output or Path(f"{image.stem}-inpainted.png")
    check_png(output)

    with held_back():
        from sundae_rt import masks
        from sundae_rt.images import read_image
        from sundae_rt.sheet import ContactSheet

    several = sampling.n > 1

    def path_of(index: int) -> Path:
        return output.with_stem(f"{output.stem}-{index}") if several else output

    check_places(path_of, sampling.n, grid, [image] if masks.is_kind(mask) else [image, Path(mask)])
    picture, image_sha256 = read_image(image)
    sheet = None if grid is None else ContactSheet(grid, sampling.n, (picture.height, picture.width))
    progress = Progress(sampling.n)
    written = output.with_stem(f"{output.stem}-*") if several else output
    try:
        with engine.load(sampling.n) as runtime:
            selected, mask_sha256, mask_text = _mask(mask, picture, runtime, sampling.seed)
            plan = runtime.plan_inpainting(picture, selected)
            for note in plan.notes:
                click.echo(f"sundae-rt: {note}", err=True)
            made = partial(
                made_by,
                "inpaint",
                runtime,
                sampling.schedule(runtime),
                image_sha256=image_sha256,
                mask_sha256=mask_sha256,
                mask=mask_text,
            )
            save_each(
                runtime.stream_inpainting(
                    plan, sampling.n, seed=sampling.seed, label=sampling.label, **sampling.settings
                ),
                path_of,
                made,
                progress,
                sheet,
            )
    except KeyboardInterrupt:
        raise interrupted(progress, written) from None
    click.echo(summary(progress, written, runtime.backend, runtime.variant))


def _mask(text: str, picture: "Image.Image", runtime: "Runtime", seed: int) -> "tuple[Mask, str | None, str | None]":
    """The mask that the argument means, and what an image's provenance says of it: its file's SHA-256, or its text."""
    from sundae_rt import masks
    from sundae_rt.images import read_image

    if not masks.is_kind(text):
        return (*read_image(text), None)
    asked = masks.parse(text)
    if masks.has_seed(asked["kind"]):
        asked.setdefault("seed", seed)
    drawn = runtime.draw_mask(picture, **asked)
    click.echo(f"sundae-rt: the mask is {drawn.text}", err=True)
    return drawn.pixels, None, drawn.text
