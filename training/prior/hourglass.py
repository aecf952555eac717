"""The hourglass transformer over latent grids: full resolution outside, few tokens in the valley (section 3.3).

It follows Nawrot et al. 2021 with the paper's changes for grids: linear down- and upsampling join each s x s patch
into one token, attention resampling looks at the same patches, rotary embeddings turn half of their channels by row
and half by column, and there is no causal mask. The published code differs from the paper in places: each difference is
an option of :class:`HourglassConfig`, and ``HourglassConfig.PUBLISHED`` is all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from einops import rearrange
from torch import Tensor, nn

from sundae_rt.errors import InputError
from sundae_rt.training import config
from sundae_rt.training.prior.layers import Layer, initialise
from sundae_rt.training.prior.resampling import Resampling
from sundae_rt.training.prior.rotary import OUTER_FREQUENCY, Rotary

Depth = tuple[int, "int | Depth", int]

_OPTIONS = {
    "positions": ("axial", "first-head", "learned"),
    "resampling": ("patches", "raster groups"),
    "patch_channels": ("last", "first"),
}


@dataclass(frozen=True, slots=True)
class HourglassConfig:
    """Sizes of a prior.

    ``vocabulary``: codes; ``latent_grid``: ``(h, w)``; ``depth``: layers before, in and after the valley, where the
    middle may itself be such a triple; ``dims``, ``heads``, ``shorten``: width of the tokens, attention heads (of 64
    channels each), and how many tokens (s * s) become one, at every level from the outside in, the last holding for all
    deeper ones; ``labels``: classes, 0 for none; ``null_label``: one more class that stands for "any".

    ``positions``: how a token knows its place, by one of :class:`~sundae_rt.training.prior.rotary.Rotary`'s kinds or by
    a learned embedding (``learned``); ``resampling``: whether attention resampling looks at ``patches`` or at ``raster
    groups`` of consecutive tokens; ``patch_channels``: whether channels vary fastest (``last``) or slowest (``first``)
    in the features of a joined patch.

    Raises:
        InputError: sizes that do not go together, by name.
    """

    PUBLISHED: ClassVar[dict[str, str]] = {
        "positions": "first-head",
        "resampling": "raster groups",
        "patch_channels": "first",
    }
    """The options of the published checkpoints."""

    vocabulary: int
    latent_grid: tuple[int, int]
    depth: Depth = (2, 10, 2)
    dims: tuple[int, ...] = (1024,)
    heads: tuple[int, ...] = (8,)
    shorten: int | tuple[int, ...] = 4
    labels: int = 0
    null_label: bool = False
    dropout: float = 0.0
    positions: str = "axial"
    resampling: str = "patches"
    patch_channels: str = "last"

    def __post_init__(self) -> None:
        if self.vocabulary < 2:
            raise InputError(f"vocabulary is {self.vocabulary}: a prior needs at least 2 codes")
        if min(self.dims, default=0) < 1 or min(self.heads, default=0) < 1:
            raise InputError(f"dims {list(self.dims)} and heads {list(self.heads)} must all be at least 1")
        for name, known in _OPTIONS.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(known)}")
        config.at_least(0, self, "labels")
        config.shares(self, "dropout")
        if self.null_label and not self.labels:
            raise InputError("null_label needs labels")
        factors = [self.shortening(level) for level in range(self.nesting)]
        if any(factor < 4 or math.isqrt(factor) ** 2 != factor for factor in factors):
            raise InputError(f"shorten is {self.shorten}: it must be a square from 4 up, s x s tokens to one")
        side = math.prod(math.isqrt(factor) for factor in factors)
        if any(length < 1 or length % side for length in self.latent_grid):
            raise InputError(f"the latent grid {self.latent_grid} does not divide by {side} (shorten {self.shorten})")

    @property
    def nesting(self) -> int:
        """How many hourglasses stand in one another."""
        depth: Any = self.depth
        count = 0
        while not isinstance(depth, int):
            if not isinstance(depth, tuple) or len(depth) != 3 or not all(_is_count(depth[end]) for end in (0, 2)):
                raise InputError(f"depth {depth} is no triple: before, valley, after")
            depth, count = depth[1], count + 1
        if not _is_count(depth) or not count:
            raise InputError(f"depth {self.depth} is no triple: before, valley, after")
        return count

    def shortening(self, level: int) -> int:
        """s * s at a level, 0 the outermost."""
        factors = (self.shorten,) if isinstance(self.shorten, int) else self.shorten
        if not factors:
            raise InputError("shorten is empty: it must be a square from 4 up, s x s tokens to one")
        return factors[min(level, len(factors) - 1)]

    def width(self, level: int) -> tuple[int, int]:
        """Token width and attention heads at a level, 0 the outermost."""
        return self.dims[min(level, len(self.dims) - 1)], self.heads[min(level, len(self.heads) - 1)]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class Transformer(nn.Module):
    """Layers over one grid, with rotary embeddings unless positions are learned."""

    def __init__(
        self, config: HourglassConfig, grid: tuple[int, int], level: int, depth: int, highest: int = OUTER_FREQUENCY
    ) -> None:
        super().__init__()
        dim, heads = config.width(level)
        self.layers = nn.ModuleList(Layer(dim, heads, dropout=config.dropout) for _ in range(depth))
        self.rotary = None if config.positions == "learned" else Rotary(config.positions, grid, highest)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, h*w, dim]`` to the same shape."""
        for layer in self.layers:
            x = layer(x, rotary=self.rotary)
        return x


class Hourglass(nn.Module):
    """Layers, a valley of ``shorten`` times fewer tokens, layers; the valley may be another hourglass."""

    def __init__(self, config: HourglassConfig, depth: Depth, grid: tuple[int, int], level: int) -> None:
        super().__init__()
        before, within, after = depth
        dim, heads = config.width(level)
        inner_dim, inner_heads = config.width(level + 1)
        shorten = config.shortening(level)
        side = math.isqrt(shorten)
        inner = (grid[0] // side, grid[1] // side)
        raster, channels_first = config.resampling == "raster groups", config.patch_channels == "first"
        self.resampling = Resampling(inner, side, raster, channels_first)
        self.before = Transformer(config, grid, level, before)
        self.down = nn.Linear(shorten * dim, inner_dim)
        self.gather = Layer(inner_dim, inner_heads, context_dim=dim, dropout=config.dropout)
        self.valley: nn.Module
        if isinstance(within, int):
            self.valley = Transformer(config, inner, level + 1, within, highest=math.isqrt(inner[0] * inner[1]))
        else:
            self.valley = Hourglass(config, within, inner, level + 1)
        self.up = nn.Linear(inner_dim, shorten * dim)
        self.spread = Layer(dim, heads, context_dim=inner_dim, dropout=config.dropout)
        self.after = Transformer(config, grid, level, after)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, h*w, dim]`` to the same shape."""
        resampling, batch = self.resampling, x.shape[0]
        patches = resampling.split(self.before(x))
        short = self.down(resampling.join(patches))
        # Attention resampling: a group's one token looks at the tokens that it stands for, and later they at it.
        groups = rearrange(resampling.group(patches), "b n s d -> (b n) s d")
        short = self.gather(rearrange(short, "b n d -> (b n) 1 d"), context=groups)
        short = self.valley(rearrange(short, "(b n) 1 d -> b n d", b=batch))
        groups = resampling.group(resampling.unjoin(self.up(short)) + patches)
        groups = self.spread(rearrange(groups, "b n s d -> (b n) s d"), context=rearrange(short, "b n d -> (b n) 1 d"))
        return self.after(resampling.ungroup(rearrange(groups, "(b n) s d -> b n s d", b=batch)))


class HourglassPrior(nn.Module):
    """The denoiser: logits of every code, given all codes of a grid, some of them corrupted."""

    def __init__(self, config: HourglassConfig) -> None:
        super().__init__()
        self.config = config
        dim, _ = config.width(0)
        self.code_embedding = nn.Embedding(config.vocabulary, dim)
        self.label_embedding = nn.Embedding(config.labels + config.null_label, dim) if config.labels else None
        places = config.latent_grid[0] * config.latent_grid[1]
        self.position_embedding = nn.Embedding(places, dim) if config.positions == "learned" else None
        self.hourglass = Hourglass(config, config.depth, config.latent_grid, 0)
        self.norm = nn.LayerNorm(dim)
        self.to_logits = nn.Linear(dim, config.vocabulary)
        initialise(self)

    def forward(self, codes: Tensor, label: Tensor | None = None) -> Tensor:
        """Integer codes ``[B, T]`` in raster order, and ``label`` ``[B]`` where the prior has labels, to logits.

        The null label, where there is one, is number ``config.labels``. Returns float ``[B, T, vocabulary]``.
        """
        x = self.code_embedding(codes)
        if self.label_embedding is not None:
            x = x + self.label_embedding(label)[:, None]
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight
        return self.to_logits(self.norm(self.hourglass(x)))
