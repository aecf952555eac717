"""The blocks that the encoder and the decoder are made of, named as in *Taming Transformers* (Esser et al. 2021)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


def normalisation(channels: int, groups: int) -> nn.GroupNorm:
    """Group normalisation with the epsilon of the published code, 1e-6."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two normalised 3 x 3 convolutions beside a skip connection: ``[B, in, H, W]`` to ``[B, out, H, W]``."""

    def __init__(self, channels_in: int, channels_out: int, groups: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = normalisation(channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = normalisation(channels_out, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, in, H, W]`` to ``[B, out, H, W]``."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.conv2(self.dropout(functional.silu(self.norm2(hidden))))
        return hidden + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions of a feature map, beside a skip connection."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = normalisation(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, C, H, W]`` to the same shape."""
        normed = self.norm(x)
        query, key, value = (rearrange(layer(normed), "b c h w -> b 1 (h w) c") for layer in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return x + self.proj_out(rearrange(mixed, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class Downsample(nn.Module):
    """Halves both sides by a strided 3 x 3 convolution that pads right and bottom only, or without one by averaging."""

    def __init__(self, channels: int, convolution: bool = True) -> None:
        super().__init__()
        if convolution:
            self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, C, H, W]`` to ``[B, C, H/2, W/2]``."""
        if hasattr(self, "conv"):
            return self.conv(functional.pad(x, (0, 1, 0, 1)))
        return functional.avg_pool2d(x, 2)


class Upsample(nn.Module):
    """Doubles both sides by repeating pixels, then smooths with a 3 x 3 convolution unless it is left out."""

    def __init__(self, channels: int, convolution: bool = True) -> None:
        super().__init__()
        if convolution:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, C, H, W]`` to ``[B, C, 2H, 2W]``."""
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x) if hasattr(self, "conv") else x


class Level(nn.Module):
    """One resolution of the pyramid: residual blocks, each followed by attention where the level has it."""

    def __init__(
        self, channels_in: int, channels_out: int, blocks: int, attention: bool, groups: int, dropout: float
    ) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * blocks
        self.block = nn.ModuleList(ResnetBlock(widths[i], widths[i + 1], groups, dropout) for i in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(channels_out, groups) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, in, H, W]`` to ``[B, out, H, W]``."""
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return x


class Texture(nn.Module):
    """Fixed noise, one value a place, added to every channel by a learned strength (Karras et al. 2019).

    Codes say where there is forest, not where each tree stands. The noise is something irregular that the decoder can
    shape into texture; without it, convolutions make texture from the pixel grid, and it repeats. It is a part of the
    weights, so that the same codes are the same picture.
    """

    pattern: Tensor
    GAIN = 32.0  # at the pace of other weights strengths would take thousands of steps to matter

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        # Drawn apart from the global random numbers: a model with texture starts from the weights of one without.
        noise = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(side))
        self.register_buffer("pattern", noise)
        self.strength = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, C, side, side]`` to the same shape."""
        # Spread over the batch first: a product of constants would lie in an exported graph at the size of x.
        return x + self.pattern.expand(x.shape[0], -1, -1, -1) * (self.GAIN * self.strength)


class Middle(nn.Module):
    """The coarsest resolution: residual block, attention unless it is left out, residual block."""

    def __init__(self, channels: int, groups: int, dropout: float, attention: bool = True) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups, dropout)
        if attention:
            self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, C, H, W]`` to the same shape."""
        x = self.block_1(x)
        return self.block_2(self.attn_1(x) if hasattr(self, "attn_1") else x)


def norm_out(norm: nn.GroupNorm, x: Tensor, activation: bool) -> Tensor:
    """The normalisation, and the activation unless it is left out, before both networks' last convolution."""
    return functional.silu(norm(x)) if activation else norm(x)
