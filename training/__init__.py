"""The training side: PyTorch, from images to checkpoints. Nothing here is imported by the runtime."""

from __future__ import annotations

import dataclasses
from typing import Any

from sundae_rt.training import config
from sundae_rt.training.prior import preset as prior_preset
from sundae_rt.training.prior.families import FAMILIES
from sundae_rt.training.vqgan import preset as vqgan_preset
from sundae_rt.training.vqgan.model import VQGAN

__all__ = ["describe"]


def describe(kind: str, preset: str | None = None) -> dict[str, Any]:
    """Sizes, training and number of parameters of a preset's ``vqgan`` or ``prior``, without building its weights.

    ``preset`` is a name that ships (``earth`` where none is given) or the path of a toml file.

    Raises:
        InputError: no such preset.
    """
    import torch

    chosen = config.load_preset(config.DEFAULT if preset is None else preset)
    if kind == "vqgan":
        sizes, how = vqgan_preset.read_config(chosen)
        build, sections, family = VQGAN, {"config": sizes, "training": how}, {}
    else:
        wanted = prior_preset.read_config(chosen)
        sections = {"config": wanted.sizes, "training": wanted.training, "schedule": wanted.schedule}
        sections |= wanted.students
        build, family = FAMILIES[wanted.family].model, {"family": wanted.family}
    with torch.device("meta"):
        model = build(sections["config"])
    parameters = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    described = {name: dataclasses.asdict(section) for name, section in sections.items()}
    return {"kind": kind, **family, "preset": chosen.name, **parameters, **described}
