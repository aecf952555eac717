"""The VQ-GAN's networks: encoder, decoder, and the vector quantiser between them (equation 1 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sundae_rt.training.vqgan.layers import Downsample, Level, Middle, Upsample, normalisation, silu_norm_out
from sundae_rt.training.vqgan.quantiser import Quantised, VectorQuantiser


@dataclass(frozen=True, slots=True)
class VQGANConfig:
    """Sizes of a VQ-GAN, in the terms of *Taming Transformers*' ``ddconfig``.

    ``image_size`` is the side in pixels; each multiplier after the first halves it, so f = 2 ** (levels - 1).
    ``attention_resolutions`` name the nominal sides at which levels attend. ``unit_norm`` puts latents and codebook
    on the unit sphere before they are compared. ``norm_groups`` is lowered only where channels are fewer than 32.
    """

    image_size: int = 128
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 1, 2, 4)
    residual_blocks: int = 1
    attention_resolutions: tuple[int, ...] = ()
    latent_channels: int = 64
    code_dim: int = 16
    codebook_size: int = 512
    unit_norm: bool = True
    norm_groups: int = 32
    dropout: float = 0.0

    @property
    def downsampling(self) -> int:
        """f: pixels of image along one side of a latent cell."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def latent_side(self) -> int:
        """Codes along one side of the latent grid."""
        return self.image_size // self.downsampling


class Encoder(nn.Module):
    """Float images ``[B, 3, H, W]`` in -1..1 to latents ``[B, latent_channels, H/f, W/f]``."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        groups, dropout = config.norm_groups, config.dropout
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        width, resolution = config.channels, config.image_size
        self.down = nn.ModuleList()
        for index, multiplier in enumerate(config.multipliers):
            attention = resolution in config.attention_resolutions
            level = Level(width, config.channels * multiplier, config.residual_blocks, attention, groups, dropout)
            width = config.channels * multiplier
            if index < len(config.multipliers) - 1:
                level.downsample = Downsample(width)
                resolution //= 2
            self.down.append(level)
        self.mid = Middle(width, groups, dropout)
        self.norm_out = normalisation(width, groups)
        self.conv_out = nn.Conv2d(width, config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Float ``[B, 3, H, W]`` to ``[B, latent_channels, H/f, W/f]``."""
        hidden = self.conv_in(images)
        for level in self.down:
            hidden = level(hidden)
            if hasattr(level, "downsample"):
                hidden = level.downsample(hidden)
        return self.conv_out(silu_norm_out(self.norm_out, self.mid(hidden)))


class Decoder(nn.Module):
    """Latents ``[B, latent_channels, h, w]`` to images ``[B, 3, h*f, w*f]``, nominally in -1..1, not clamped."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        groups, dropout = config.norm_groups, config.dropout
        width = config.channels * config.multipliers[-1]
        resolution = config.latent_side
        self.conv_in = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.mid = Middle(width, groups, dropout)
        levels: list[Level] = []
        for index in reversed(range(len(config.multipliers))):
            attention = resolution in config.attention_resolutions
            channels_out = config.channels * config.multipliers[index]
            level = Level(width, channels_out, config.residual_blocks + 1, attention, groups, dropout)
            width = channels_out
            if index > 0:
                level.upsample = Upsample(width)
                resolution *= 2
            levels.insert(0, level)
        # As published, up.0 is the finest level and runs last.
        self.up = nn.ModuleList(levels)
        self.norm_out = normalisation(width, groups)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Float ``[B, latent_channels, h, w]`` to ``[B, 3, h*f, w*f]``."""
        hidden = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            hidden = level(hidden)
            if hasattr(level, "upsample"):
                hidden = level.upsample(hidden)
        return self.conv_out(silu_norm_out(self.norm_out, hidden))


class VQGAN(nn.Module):
    """Encoder, quantiser and decoder; the discriminator lives with the losses and is no part of it."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.code_dim, 1)
        self.quantize = VectorQuantiser(config.codebook_size, config.code_dim, config.unit_norm)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def forward(self, images: Tensor, bypass: bool = False) -> tuple[Tensor, Quantised]:
        """Reconstructs float images ``[B, 3, H, W]`` in -1..1; returns them with what the quantiser found.

        With ``bypass`` the decoder sees the latents before quantisation.
        """
        quantised = self.quantize(self.quant_conv(self.encoder(images)), bypass)
        return self.decoder(self.post_quant_conv(quantised.latents)), quantised

    def encode(self, images: Tensor) -> Tensor:
        """Equation 1: the nearest code of every latent. Float ``[B, 3, H, W]`` in -1..1 to int64 ``[B, h, w]``."""
        return self.quantize.nearest(self.quant_conv(self.encoder(images)))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes, integers ``[B, h, w]``, to float images ``[B, 3, H, W]``, not clamped."""
        return self.decoder(self.post_quant_conv(self.quantize.embed(codes)))

    def codes_parameters(self) -> dict[str, Tensor]:
        """The tensors that decide which codes an image gets: encoder, ``quant_conv`` and codebook."""
        prefixes = ("encoder.", "quant_conv.", "quantize.embedding.")
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(prefixes)}


def to_model(images: Tensor) -> Tensor:
    """uint8 ``[B, H, W, 3]`` to the model's float32 ``[B, 3, H, W]`` in -1..1."""
    return images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """The model's float ``[B, 3, H, W]`` to uint8 ``[B, H, W, 3]``, clamped and rounded."""
    scaled = ((images.float() + 1) * 127.5).clamp(0, 255).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1)
