"""`sundae-rt encode`: a folder of images becomes the latent data set that a prior learns from."""

from pathlib import Path

import click

from sundae_rt.cli.options import FILE


@click.command("encode", short_help="Encode a folder of images as codes.")
@click.argument("folder", metavar="DIR", type=FILE)
@click.option("--bundle", metavar="NAME|PATH", help="Encode with this bundle's encoder.")
@click.option("--vqgan", type=FILE, metavar="FILE", help="Encode with this checkpoint of a VQ-GAN.")
@click.option("--preset", metavar="P|FILE", help="Take pixels as codes, as this preset does (mnist, ...).")
@click.option("--out", type=FILE, required=True, metavar="FILE", help="Data set to write, a .safetensors file.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=16, metavar="N", show_default=True, help="Images encoded at once."
)
def command(
    folder: Path, bundle: str | None, vqgan: Path | None, preset: str | None, out: Path, batch_size: int
) -> None:
    """Encode every image of DIR as a grid of codes (equation 1 of the paper), with a bundle or a VQ-GAN.

    With a preset of the MNIST family pixels are codes, and DIR may hold the data set's own train-*-ubyte files. What an
    about.toml in DIR says of the data goes with the codes, into the prior and its bundle.
    """
    if [bundle, vqgan, preset].count(None) != 2:
        raise click.UsageError("give exactly one of --bundle, --vqgan and --preset.")

    from sundae_rt.training.encoding import encode_folder

    encode_folder(folder, out, vqgan=vqgan, bundle=bundle, preset=preset, batch_size=batch_size, say=click.echo)
