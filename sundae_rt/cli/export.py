"""`sundae-rt export`: checkpoints become a bundle."""

from pathlib import Path

import click

from sundae_rt.cli.options import FILE


@click.command("export", short_help="Export checkpoints as a bundle.")
@click.option("--checkpoint", type=FILE, metavar="FILE", help="prior.pt; its VQ-GAN is found beside it.")
@click.option("--vqgan", type=FILE, metavar="FILE", help="vqgan.pt, where it lies elsewhere or is exported alone.")
@click.option("--preset", metavar="P", help="Export models of this preset's sizes, with --random-weights.")
@click.option("--random-weights", is_flag=True, help="Untrained, for benchmarks and trials; with --preset.")
@click.option("--out", type=FILE, metavar="DIR", help="Bundle to write.  [the checkpoint's name with -bundle]")
@click.option("--variants", default="fp32", metavar="A,B,...", show_default=True, help="Precisions to write.")
@click.option("--logits", is_flag=True, help="Add the graph of raw logits.")
@click.option("--force", is_flag=True, help="Replace an existing bundle, once the new one is whole.")
def command(
    checkpoint: Path | None,
    vqgan: Path | None,
    preset: str | None,
    random_weights: bool,
    out: Path | None,
    variants: str,
    logits: bool,
    force: bool,
) -> None:
    """Export a prior and its VQ-GAN (or either alone) as ONNX graphs, checked against PyTorch.

    A graph that differs from PyTorch by more than its tolerance fails the export, and nothing is written.
    """
    source = checkpoint or vqgan
    if (preset is None) == (source is None):
        raise click.UsageError("give either checkpoints (--checkpoint, --vqgan) or --preset with --random-weights.")
    if (preset is None) == random_weights:
        raise click.UsageError("--preset and --random-weights go together: a preset has no trained weights.")
    if out is None:
        if source is None:
            raise click.UsageError("Missing option '--out'.")
        out = Path(f"{source.stem}-bundle")

    from sundae_rt.export import export_checkpoint

    export_checkpoint(
        checkpoint,
        out=out,
        vqgan=vqgan,
        preset=preset,
        random_weights=random_weights,
        variants=tuple(name.strip() for name in variants.split(",")),
        logits=logits,
        force=force,
        say=click.echo,
    )
