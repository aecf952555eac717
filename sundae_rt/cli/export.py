"""`sundae-rt export`: checkpoints become a bundle."""

from pathlib import Path
from typing import Literal

import click

from sundae_rt.cli.options import FILE


def _size(text: str) -> tuple[int, int]:
    """`N`, or `HxW`."""
    height, _, width = text.partition("x")
    try:
        return int(height), int(width if "x" in text else height)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a side N nor two of them, HxW.") from None


@click.command("export", short_help="Export checkpoints as a bundle.")
@click.option(
    "--checkpoint", type=FILE, metavar="FILE", help="prior.pt, whose VQ-GAN is found beside it; or a published prior."
)
@click.option("--config", type=FILE, metavar="FILE", help="A published prior's config, with its --checkpoint.")
@click.option(
    "--vqgan",
    type=FILE,
    metavar="FILE",
    help="vqgan.pt, where it lies elsewhere or is exported alone; or a published VQ-GAN, a file or a folder.",
)
@click.option("--vqgan-config", type=FILE, metavar="FILE", help="A published VQ-GAN's config, with its --vqgan.")
@click.option(
    "--image-size",
    type=_size,
    metavar="N|HxW",
    help="Image size in pixels of a VQ-GAN exported alone.  [its nominal one]",
)
@click.option(
    "--label-order",
    type=click.Choice(("index", "string")),
    default="index",
    show_default=True,
    help="How a published prior numbers its classes: as they are, or by the string order of their numbers "
    "(the published ImageNet runs).",
)
@click.option("--label-names", type=FILE, metavar="FILE", help="A name for each true class, one a line.  [its number]")
@click.option("--preset", metavar="P|FILE", help="Export models of this preset's sizes, with --random-weights.")
@click.option("--random-weights", is_flag=True, help="Untrained, for benchmarks and trials; with --preset.")
@click.option("--out", type=FILE, metavar="DIR", help="Bundle to write.  [the checkpoint's name with -bundle]")
@click.option(
    "--variants",
    default="fp32",
    metavar="A,B,...",
    show_default=True,
    help="Precisions to write: fp32, and beside it int8 of prior and decoder for CPUs, or fp16 and bf16 of all for "
    "GPUs.",
)
@click.option(
    "--calibrate",
    type=FILE,
    metavar="FILE",
    help="Codes that `sundae-rt encode` wrote, to calibrate int8 and measure its price on; best of images that "
    "training never saw.  [samples of the model's own]",
)
@click.option("--logits", is_flag=True, help="Add the graph of raw logits.")
@click.option(
    "--half-weights",
    is_flag=True,
    help="Store the weights in 16 bits: half the size, computed in fp32.",
)
@click.option("--tensorrt", is_flag=True, help="Build engines too, of the best variant, as `sundae-rt build` does.")
@click.option("--force", is_flag=True, help="Replace an existing bundle, once the new one is whole.")
def command(
    checkpoint: Path | None,
    config: Path | None,
    vqgan: Path | None,
    vqgan_config: Path | None,
    image_size: tuple[int, int] | None,
    label_order: Literal["index", "string"],
    label_names: Path | None,
    preset: str | None,
    random_weights: bool,
    out: Path | None,
    variants: str,
    calibrate: Path | None,
    logits: bool,
    half_weights: bool,
    tensorrt: bool,
    force: bool,
) -> None:
    """Export a prior and its VQ-GAN (or either alone) as ONNX graphs, checked against PyTorch.

    Both may be published ones: priors of the paper's own code, VQ-GANs of taming-transformers, unleashing-transformers
    and diffusers.

    A graph that differs from PyTorch by more than its tolerance fails the export, and nothing is written. So does a
    variant that makes the cross-entropy of the true codes rise by more than 1% over fp32's. An 8-bit decoder whose
    pictures are under 25 dB beside fp32's is left out, and a line says so.
    """
    source = checkpoint or vqgan
    if config is None and (label_order != "index" or label_names is not None):
        raise click.UsageError("--label-order and --label-names are for published priors: give their --config.")
    if config is not None and checkpoint is None:
        raise click.UsageError("--config is a published prior's: give its --checkpoint.")
    if vqgan_config is not None and vqgan is None:
        raise click.UsageError("--vqgan-config is a published VQ-GAN's: give its --vqgan.")
    if (preset is None) == (source is None):
        raise click.UsageError("give either checkpoints (--checkpoint, --vqgan) or --preset with --random-weights.")
    if (preset is None) == random_weights:
        raise click.UsageError("--preset and --random-weights go together: a preset has no trained weights.")
    if out is None:
        if source is None:
            raise click.UsageError("Missing option '--out'.")
        out = Path(f"{source.stem}-bundle")

    from sundae_rt.export import export_checkpoint

    if tensorrt:
        from sundae_rt.tensorrt.opening import open_library

        open_library()  # where it is missing, that is said before the export
    export_checkpoint(
        checkpoint,
        out=out,
        vqgan=vqgan,
        config=config,
        vqgan_config=vqgan_config,
        image_size=image_size,
        label_order=label_order,
        label_names=label_names,
        preset=preset,
        random_weights=random_weights,
        variants=tuple(name.strip() for name in variants.split(",")),
        calibrate=calibrate,
        logits=logits,
        half_weights=half_weights,
        force=force,
        say=click.echo,
    )
    if tensorrt:
        from sundae_rt.bundle import Bundle
        from sundae_rt.cli.build import build_engines

        build_engines(Bundle.open(out))
