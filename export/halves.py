"""The halves of a bundle, as whoever reads them hands them on: a prior, and a VQ-GAN."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sundae_rt.schedule import Schedule
from sundae_rt.training.pixels import GreyPixels
from sundae_rt.training.vqgan.model import VQGAN


@dataclass(frozen=True, slots=True)
class Pairing:
    """The VQ-GAN that a prior's checkpoint names: its file, where it is known, and the hash that decides its codes."""

    file: str | None
    codes_sha256: str


@dataclass(frozen=True, slots=True)
class PriorHalf:
    """A prior to export, and what the manifest says of it.

    ``model``: int codes ``[B, T]`` (and label ``[B]``) to logits ``[B, T, V]``; its ``config`` has ``vocabulary``,
    ``latent_grid``, ``labels`` and ``null_label``. ``pairing``: None where the file names no VQ-GAN beyond doubt.
    ``notes``: what whoever read it settled by itself, a line for people each.
    """

    model: nn.Module
    labels: tuple[str, ...] | None = None
    label_weights: tuple[float, ...] | None = None
    schedule: Schedule = field(default_factory=Schedule)
    provenance: dict[str, Any] = field(default_factory=dict)
    family: str = "sundae"
    pairing: Pairing | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VQGANHalf:
    """A VQ-GAN to export, or what stands in its place where codes are pixels; provenance and notes as above."""

    model: VQGAN | GreyPixels
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
