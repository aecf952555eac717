"""Pixels as codes: each pixel's grey level is its code, and no VQ-GAN stands between (the MNIST family).

:class:`GreyPixels` does what a VQ-GAN does for the rest of the house, and exactly: codes to pixels to codes is nothing
lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sundae_rt.training import config

CODES = "grey-pixels"
"""What stands in place of the hash of a VQ-GAN where codes are grey levels."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow makes a picture grey


@dataclass(frozen=True, slots=True)
class GreyPixelsConfig:
    """Sizes of pictures whose pixels are codes: ``image_size`` is the side in pixels, and of the grid of codes."""

    image_size: int

    def __post_init__(self) -> None:
        config.at_least(1, self, "image_size")

    @property
    def latent_side(self) -> int:
        """Codes along one side of the grid."""
        return self.image_size

    @property
    def codebook_size(self) -> int:
        """Grey levels."""
        return 256

    @property
    def pixel_range(self) -> tuple[float, float]:
        """What black and white are to the model."""
        return -1.0, 1.0


class GreyPixels(nn.Module):
    """Codes as grey pictures and back, without a weight."""

    luma: Tensor

    def __init__(self, config: GreyPixelsConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("luma", torch.tensor(_LUMA)[:, None, None], persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Float ``[B, 3, H, W]`` in -1..1 to the nearest grey level of each pixel, int64 ``[B, H, W]``."""
        levels = (images + 1) * 127.5
        return (levels * self.luma).sum(1).round().clamp(0, 255).long()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes, integers ``[B, H, W]``, to float images ``[B, 3, H, W]`` in -1..1."""
        return (codes.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)


def read_config(preset: config.Preset) -> GreyPixelsConfig:
    """The ``[pixels]`` section of a preset.

    Raises:
        InputError: the preset has none, for its codes come from a VQ-GAN; or a value that makes no pictures.
    """
    return config.build(GreyPixelsConfig, preset.section("pixels"), f"preset {preset.name!r} [pixels]")
