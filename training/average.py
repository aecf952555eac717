"""The mean of two checkpoints of one training: often better than either, for what they differ in is partly chance.

``python -m sundae_rt.training.average early/vqgan.pt late/vqgan.pt --out runs/mean/vqgan.pt``

An adversary drives a decoder from one texture to another and back. The mean of weights that lie on one path (Izmailov
et al. 2018) keeps what both ends have. Weights of trainings that began apart have no meaningful mean.
"""

from __future__ import annotations

from pathlib import Path

import click

from sundae_rt.errors import InputError, SundaeError
from sundae_rt.files import check_new
from sundae_rt.training import checkpoint, encoding
from sundae_rt.training.vqgan.model import codes_parameters

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("early", type=_FILE)
@click.argument("late", type=_FILE)
@click.option("--out", type=_FILE, required=True, help="The checkpoint to write.")
def main(early: Path, late: Path, out: Path) -> None:
    """Averages the weights of two VQ-GANs. What EARLY and LATE say of themselves is LATE's, and that it is a mean."""
    try:
        average(early, late, out)
    except SundaeError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {out}")


def average(early: Path, late: Path, out: Path) -> None:
    """Writes the mean of two checkpoints of a VQ-GAN.

    Raises:
        InputError: they are no such checkpoints, or of other sizes or codes; or ``out`` exists or cannot be written.
    """
    check_new(out)
    first, second = (checkpoint.load(path, "vqgan") for path in (early, late))
    for values, path in ((first, early), (second, late)):
        encoding.vqgan_of(values, path)  # refuses weights that are not those of the config
    if first["config"] != second["config"]:
        raise InputError(f"{early} and {late} have other sizes: average two checkpoints of one training")
    codes = [checkpoint.tensor_hash(codes_parameters(values["weights"])) for values in (first, second)]
    if codes[0] != codes[1]:
        raise InputError(f"{early} and {late} have other codes: average what was trained after the codes were final")
    weights = {
        name: (tensor + first["weights"][name]) / 2 if tensor.is_floating_point() else tensor
        for name, tensor in second["weights"].items()
    }
    provenance = second["provenance"] | {"average_with_step": first["provenance"].get("steps")}
    checkpoint.save(out, second | {"weights": weights, "provenance": provenance})


if __name__ == "__main__":
    main()
