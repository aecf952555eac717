"""The training side: PyTorch, from images to checkpoints. Nothing here is imported by the runtime."""

from __future__ import annotations

import dataclasses
from typing import Any

from sundae_rt.training.prior.families import FAMILIES
from sundae_rt.training.prior.train import read_config as _read_prior
from sundae_rt.training.prior.train import train as train_prior
from sundae_rt.training.vqgan.model import VQGAN
from sundae_rt.training.vqgan.train import read_config as _read_vqgan
from sundae_rt.training.vqgan.train import train as train_vqgan

__all__ = ["describe", "train_prior", "train_vqgan"]


def describe(kind: str, preset: str) -> dict[str, Any]:
    """Sizes, training and number of parameters of a preset's ``vqgan`` or ``prior``, without building its weights.

    Raises:
        InputError: no such preset.
    """
    import torch

    if kind == "vqgan":
        sizes, how = _read_vqgan(preset)
        build, sections, family = VQGAN, {"config": sizes, "training": how}, {}
    else:
        wanted = _read_prior(preset)
        sections = {"config": wanted.sizes, "training": wanted.training, "schedule": wanted.schedule}
        build, family = FAMILIES[wanted.family].model, {"family": wanted.family}
    with torch.device("meta"):
        model = build(sections["config"])
    parameters = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    described = {name: dataclasses.asdict(section) for name, section in sections.items()}
    return {"kind": kind, **family, "preset": preset, **parameters, **described}
