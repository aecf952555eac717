"""Codes that a prior draws, for a decoder to train on beside those of real images.

``python -m sundae_rt.training.vqgan.drawn --bundle my-bundle --count 2048 --out runs/drawn.safetensors``

A decoder learns from codes that an encoder found, and then serves codes that a prior drew, which lie together in other
ways. No real image belongs to drawn codes, so nothing but the adversary judges what becomes of them.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

import sundae_rt
from sundae_rt.errors import InputError, SundaeError
from sundae_rt.files import check_new
from sundae_rt.manifest import Manifest
from sundae_rt.training import checkpoint, encoding
from sundae_rt.training.encoding import LatentDataset
from sundae_rt.training.vqgan.model import VQGAN


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), required=True, help="A bundle with the prior to draw from.")
@click.option("--count", type=click.IntRange(min=1), default=2048, show_default=True, help="Grids to draw.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first grid.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
def main(bundle: Path, count: int, seed: int, out: Path) -> None:
    """Draws codes as `sundae-rt generate` does, and writes them as `sundae-rt encode` writes codes."""
    try:
        check_new(out)
        encoding.write(out, draw(bundle, count, seed))
    except SundaeError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {out}: {count} grids")


def draw(bundle: Path, count: int, seed: int = 0) -> LatentDataset:
    """Grids that a bundle's prior draws by its own schedule, labels in the shares of its data.

    Raises:
        SundaeError: no such bundle, or one that cannot draw.
        InputError: it does not say which VQ-GAN its codes belong to.
    """
    with sundae_rt.load(bundle, max_waiting=count) as runtime:
        manifest = runtime.manifest
        codes_sha256 = made_by(manifest)
        with click.progressbar(runtime.stream(n=count, seed=seed), count, label="drawing") as samples:
            drawn = {sample.index: (sample.codes, sample.label) for sample in samples}  # and not their images
    codes = torch.from_numpy(np.stack([drawn[index][0] for index in range(count)]))
    ids = None
    if manifest.labels is not None:
        ids = torch.tensor([manifest.labels.index(str(drawn[at][1])) for at in range(count)], dtype=torch.int32)
    return LatentDataset(codes, manifest.image_codes, manifest.labels, ids, None, codes_sha256)


def made_by(manifest: Manifest) -> str:
    """The hash of the tensors that decide a bundle's codes.

    Raises:
        InputError: it does not say.
    """
    codes_sha256 = manifest.provenance.get("vqgan", {}).get("codes_sha256")
    if codes_sha256 is None:
        raise InputError(f"bundle {manifest.name!r} does not say which VQ-GAN its codes belong to")
    return str(codes_sha256)


class DrawnCodes:
    """The codes of such a file, for a VQ-GAN to train on.

    Raises:
        InputError: no file of codes.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._dataset = path, encoding.read(path)
        self.sha256 = checkpoint.tensor_hash({"codes": self._dataset.codes})

    def __len__(self) -> int:
        return len(self._dataset.codes)

    def check(self, model: VQGAN) -> None:
        """Refuses codes of another VQ-GAN.

        Raises:
            InputError: they are, or their grids have another size.
        """
        if self._dataset.codes_sha256 != checkpoint.tensor_hash(model.codes_parameters()):
            raise InputError(f"{self._path} holds codes of another VQ-GAN: draw from a bundle of this one")
        side, found = model.config.latent_side, tuple(self._dataset.codes.shape[1:])
        if found != (side, side):
            raise InputError(f"{self._path} has grids of {list(found)}, the VQ-GAN of {[side, side]}")

    def some(self, count: int) -> Tensor:
        """Grids by chance, by PyTorch's global random numbers: int64 ``[count, h, w]``."""
        return self._dataset.codes[torch.randint(len(self), (count,))].long()


if __name__ == "__main__":
    main()
