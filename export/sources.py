"""Where the halves of a bundle come from: checkpoints, or a preset with random weights; and whether they match."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sundae_rt.errors import InputError
from sundae_rt.schedule import Schedule
from sundae_rt.training import checkpoint, config
from sundae_rt.training.encoding import load_vqgan
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior
from sundae_rt.training.prior.train import read_config as read_prior_preset
from sundae_rt.training.vqgan.model import VQGAN
from sundae_rt.training.vqgan.train import read_config as read_vqgan_preset


@dataclass(frozen=True, slots=True)
class Sources:
    """The models to export, either of which may be missing, and what the manifest says of them."""

    prior: HourglassPrior | None
    vqgan: VQGAN | None
    labels: tuple[str, ...] | None = None
    label_weights: tuple[float, ...] | None = None
    schedule: Schedule = field(default_factory=Schedule)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prior is None or self.vqgan is None:
            return
        sizes, vqgan = self.prior.config, self.vqgan.config
        if sizes.vocabulary != vqgan.codebook_size:
            raise InputError(
                f"the prior has {sizes.vocabulary} codes, the VQ-GAN's codebook has {vqgan.codebook_size}: "
                "they were not trained together"
            )
        if sizes.latent_grid != (vqgan.latent_side, vqgan.latent_side):
            raise InputError(
                f"the prior's latent grid is {sizes.latent_grid[0]}x{sizes.latent_grid[1]}, the VQ-GAN makes "
                f"{vqgan.latent_side}x{vqgan.latent_side}: they were not trained together"
            )


def from_checkpoints(prior_path: Path | None, vqgan_path: Path | None) -> Sources:
    """Reads a prior and its VQ-GAN; the VQ-GAN is found beside the prior unless it is named.

    Raises:
        InputError: unreadable, mismatched, or neither given.
    """
    if prior_path is None:
        if vqgan_path is None:
            raise InputError("nothing to export: name a prior with --checkpoint, a VQ-GAN with --vqgan, or a --preset")
        vqgan = load_vqgan(vqgan_path)
        return Sources(None, vqgan, provenance={"vqgan": _about_vqgan(vqgan_path, vqgan)})
    values = checkpoint.load(prior_path, "prior")
    prior = HourglassPrior(config.build(HourglassConfig, values["config"], f"{prior_path}: config"))
    checkpoint.load_weights(prior, values["weights"], str(prior_path))
    named = values["vqgan"]
    beside = prior_path.parent / Path(named["file"]).name
    if vqgan_path is None and beside.exists():
        vqgan_path = beside
    provenance: dict[str, Any] = {"prior": values["provenance"]}
    vqgan = None
    if vqgan_path is not None:
        vqgan = load_vqgan(vqgan_path)
        provenance["vqgan"] = _about_vqgan(vqgan_path, vqgan)
        found = provenance["vqgan"]["codes_sha256"]
        if found != named["codes_sha256"]:
            raise InputError(
                f"{vqgan_path} (codes {found[:12]}) is not the VQ-GAN whose codes {prior_path} learned "
                f"(codes {named['codes_sha256'][:12]})"
            )
    return Sources(
        prior.eval(),
        vqgan,
        tuple(values["labels"]) if values["labels"] else None,
        tuple(values["label_weights"]) if values["label_weights"] else None,
        Schedule(**values["schedule"]),
        provenance,
    )


def from_preset(preset: str, seed: int = 0) -> Sources:
    """A preset's models at their real size with random weights, for benchmarks and trials."""
    torch.manual_seed(seed)
    wanted = read_prior_preset(preset)
    vqgan = VQGAN(read_vqgan_preset(preset)[0]).eval()
    # A codebook at its initial size of nearly nothing would decode to one flat grey.
    torch.nn.init.normal_(vqgan.quantize.embedding.weight)
    count = wanted.sizes.labels
    return Sources(
        HourglassPrior(wanted.sizes).eval(),
        vqgan,
        tuple(f"label-{index}" for index in range(count)) or None,
        None,
        Schedule(**dataclasses.asdict(wanted.schedule)),
        {"preset": preset, "weights": "random: for benchmarks and trials, not for pictures"},
    )


def _about_vqgan(path: Path, vqgan: VQGAN) -> dict[str, Any]:
    about = dict(checkpoint.load(path, "vqgan")["provenance"])
    return about | {"codes_sha256": checkpoint.tensor_hash(vqgan.codes_parameters())}
