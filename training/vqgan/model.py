"""The VQ-GAN's networks: encoder, decoder, and the vector quantiser between them (equation 1 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sundae_rt.errors import InputError
from sundae_rt.training import config
from sundae_rt.training.vqgan.layers import Downsample, Level, Middle, Texture, Upsample, norm_out, normalisation
from sundae_rt.training.vqgan.quantiser import GumbelQuantiser, Quantised, VectorQuantiser

QuantiserKind = Literal["nearest", "gumbel"]
"""How a latent becomes a code: the nearest one, or the one with the largest logit of a projection."""

PixelRange = tuple[float, float]
"""What black and white are to the model."""


@dataclass(frozen=True, slots=True)
class VQGANConfig:
    """Sizes of a VQ-GAN, in the terms of *Taming Transformers*' ``ddconfig``.

    ``image_size`` is the side in pixels; each multiplier after the first halves it, so f = 2 ** (levels - 1).
    ``attention_resolutions`` name the nominal sides at which levels attend. ``unit_norm`` puts latents and codebook
    on the unit sphere before they are compared. ``norm_groups`` is lowered only where channels are fewer than 32.

    ``decoder_multipliers``: those of the decoder; null are the encoder's. ``texture`` gives the decoder fixed noise at
    every level, from which it can make irregular texture.

    The rest is for VQ-GANs that others published. ``quantiser``: see :data:`QuantiserKind`; "gumbel" cannot be trained
    here. ``decoder_blocks``: residual blocks of each level of the decoder; null is one more than the encoder's.
    ``decoder_attention_resolutions``: where the decoder attends; null is where the encoder does. ``stem_multiplier``:
    width of the encoder's first convolution. ``middle_attention``: attention between the two middle blocks.
    ``final_activation``: the activation before the last convolutions. ``quant_conv``: 1 x 1 convolutions before and
    after the quantiser. ``resampling_convolutions``: sides are halved and doubled by convolutions; without them by
    averaging and repeating alone. ``pixel_range``: black and white to the model.

    Raises:
        InputError: sizes that make no model; the value is named.
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
    decoder_multipliers: tuple[int, ...] | None = None
    texture: bool = False
    quantiser: QuantiserKind = "nearest"
    decoder_blocks: int | None = None
    decoder_attention_resolutions: tuple[int, ...] | None = None
    stem_multiplier: int = 1
    middle_attention: bool = True
    final_activation: bool = True
    quant_conv: bool = True
    resampling_convolutions: bool = True
    pixel_range: PixelRange = (-1.0, 1.0)

    def __post_init__(self) -> None:
        config.shares(self, "dropout")
        counts = ("channels", "residual_blocks", "latent_channels", "code_dim", "codebook_size", "norm_groups")
        config.at_least(1, self, *counts, "stem_multiplier")
        if self.decoder_blocks is not None:
            config.at_least(1, self, "decoder_blocks")
        if not self.multipliers or min(self.multipliers) < 1:
            raise InputError(f"multipliers must be one or more whole numbers from 1 up, not {list(self.multipliers)}")
        if len(self.decoder_widths) != len(self.multipliers) or min(self.decoder_widths) < 1:
            raise InputError(
                f"decoder_multipliers must be {len(self.multipliers)} whole numbers from 1 up, one for each of "
                f"multipliers, not {list(self.decoder_widths)}"
            )
        if self.image_size < 1 or self.image_size % self.downsampling:
            raise InputError(f"image_size must be a multiple of f = {self.downsampling}, not {self.image_size}")
        for multiplier in (self.stem_multiplier, *self.multipliers, *self.decoder_widths):
            if self.channels * multiplier % self.norm_groups:
                raise InputError(
                    f"norm_groups {self.norm_groups} must divide the channels of every level, "
                    f"but one has {self.channels * multiplier}"
                )
        if self.quantiser not in get_args(QuantiserKind):
            raise InputError(f"quantiser must be one of {', '.join(get_args(QuantiserKind))}, not {self.quantiser!r}")
        if self.quantiser == "gumbel" and self.unit_norm:
            raise InputError("unit_norm must be false for the quantiser 'gumbel', which compares no vectors")
        if not self.quant_conv and self.latent_channels != self.code_dim:
            raise InputError(
                f"without quant_conv latent_channels and code_dim must be equal, not {self.latent_channels} and "
                f"{self.code_dim}"
            )
        low, high = self.pixel_range
        if not low < high:
            raise InputError(f"pixel_range must rise from black to white, not {low:g} to {high:g}")

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Width of each level of the decoder, in units of ``channels``."""
        return self.multipliers if self.decoder_multipliers is None else self.decoder_multipliers

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
        width, resolution = config.channels * config.stem_multiplier, config.image_size
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList()
        for index, multiplier in enumerate(config.multipliers):
            attention = resolution in config.attention_resolutions
            level = Level(width, config.channels * multiplier, config.residual_blocks, attention, groups, dropout)
            width = config.channels * multiplier
            if index < len(config.multipliers) - 1:
                level.downsample = Downsample(width, config.resampling_convolutions)
                resolution //= 2
            self.down.append(level)
        self.mid = Middle(width, groups, dropout, config.middle_attention)
        self.norm_out = normalisation(width, groups)
        self.final_activation = config.final_activation
        self.conv_out = nn.Conv2d(width, config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Float ``[B, 3, H, W]`` to ``[B, latent_channels, H/f, W/f]``."""
        hidden = self.conv_in(images)
        for level in self.down:
            hidden = level(hidden)
            if hasattr(level, "downsample"):
                hidden = level.downsample(hidden)
        return self.conv_out(norm_out(self.norm_out, self.mid(hidden), self.final_activation))


class Decoder(nn.Module):
    """Latents ``[B, latent_channels, h, w]`` to images ``[B, 3, h*f, w*f]``, nominally in the pixel range, not clamped.

    ``h`` and ``w`` may be any: attention sits at the levels that the nominal sizes give, whatever comes in.
    """

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        groups, dropout = config.norm_groups, config.dropout
        width = config.channels * config.decoder_widths[-1]
        resolution = config.latent_side
        self.conv_in = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.mid = Middle(width, groups, dropout, config.middle_attention)
        blocks = config.residual_blocks + 1 if config.decoder_blocks is None else config.decoder_blocks
        attended = config.decoder_attention_resolutions
        if attended is None:
            attended = config.attention_resolutions
        levels: list[Level] = []
        for index in reversed(range(len(config.multipliers))):
            channels_out = config.channels * config.decoder_widths[index]
            level = Level(width, channels_out, blocks, resolution in attended, groups, dropout)
            if config.texture:
                level.texture = Texture(width, resolution)
            width = channels_out
            if index > 0:
                level.upsample = Upsample(width, config.resampling_convolutions)
                resolution *= 2
            levels.insert(0, level)
        # As published, up.0 is the finest level and runs last.
        self.up = nn.ModuleList(levels)
        self.norm_out = normalisation(width, groups)
        self.final_activation = config.final_activation
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Float ``[B, latent_channels, h, w]`` to ``[B, 3, h*f, w*f]``."""
        hidden = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            if hasattr(level, "texture"):
                hidden = level.texture(hidden)
            hidden = level(hidden)
            if hasattr(level, "upsample"):
                hidden = level.upsample(hidden)
        return self.conv_out(norm_out(self.norm_out, hidden, self.final_activation))


class VQGAN(nn.Module):
    """Encoder, quantiser and decoder; the discriminator lives with the losses and is no part of it."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.code_dim, 1) if config.quant_conv else nn.Identity()
        self.quantize = (
            GumbelQuantiser(config.codebook_size, config.code_dim)
            if config.quantiser == "gumbel"
            else VectorQuantiser(config.codebook_size, config.code_dim, config.unit_norm)
        )
        self.post_quant_conv = (
            nn.Conv2d(config.code_dim, config.latent_channels, 1) if config.quant_conv else nn.Identity()
        )
        self.decoder = Decoder(config)

    def forward(self, images: Tensor, bypass: bool = False) -> tuple[Tensor, Quantised]:
        """Reconstructs float images ``[B, 3, H, W]`` in the pixel range; returns them with what the quantiser found.

        With ``bypass`` the decoder sees the latents before quantisation.
        """
        quantised = self.quantize(self.quant_conv(self.encoder(images)), bypass)
        return self.decoder(self.post_quant_conv(quantised.latents)), quantised

    def encode(self, images: Tensor) -> Tensor:
        """Equation 1: the code of every latent. Float ``[B, 3, H, W]`` in the pixel range to int64 ``[B, h, w]``."""
        return self.quantize.codes(self.quant_conv(self.encoder(images)))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes, integers ``[B, h, w]``, to float images ``[B, 3, H, W]``, not clamped."""
        return self.decoder(self.post_quant_conv(self.quantize.embed(codes)))

    def codes_parameters(self) -> dict[str, Tensor]:
        """The tensors that decide which codes an image gets: encoder, ``quant_conv`` and quantiser."""
        return codes_parameters(self.state_dict())


def codes_parameters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of a VQ-GAN's weights that decide which codes an image gets."""
    return {
        name: weight for name, weight in weights.items() if name.startswith(("encoder.", "quant_conv.", "quantize."))
    }


def to_model(images: Tensor, pixel_range: PixelRange = (-1.0, 1.0)) -> Tensor:
    """uint8 ``[B, H, W, 3]`` to the model's float32 ``[B, 3, H, W]``, black and white at ``pixel_range``."""
    low, high = pixel_range
    # Cast first, and in to_pixels last: TensorRT takes uint8 at a graph's border alone.
    return images.to(torch.float32).permute(0, 3, 1, 2) / (255 / (high - low)) + low


def to_pixels(images: Tensor, pixel_range: PixelRange = (-1.0, 1.0)) -> Tensor:
    """The model's float ``[B, 3, H, W]`` to uint8 ``[B, H, W, 3]``, clamped and rounded."""
    low, high = pixel_range
    scaled = ((images.float() - low) * (255 / (high - low))).clamp(0, 255).round()
    return scaled.permute(0, 2, 3, 1).to(torch.uint8)
