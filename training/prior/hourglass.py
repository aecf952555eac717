"""The hourglass transformer over latent grids: full resolution outside, few tokens in the valley (section 3.3).

It follows Nawrot et al. 2021 with the paper's changes for grids: linear down- and upsampling join each s x s patch
into one token, attention resampling looks at the same patches, rotary embeddings turn half of their channels by row
and half by column, and there is no causal mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from sundae_rt.errors import InputError

HEAD_WIDTH = 64
ROTARY_BASE = 100.0

Depth = tuple[int, "int | Depth", int]


@dataclass(frozen=True, slots=True)
class HourglassConfig:
    """Sizes of a prior.

    ``vocabulary``: codes; ``latent_grid``: ``(h, w)``; ``depth``: layers before, in and after the valley, where the
    middle may itself be such a triple; ``dims``, ``heads``: width of the tokens and attention heads (of 64 channels
    each) at every level from the outside in, the last holding for all deeper ones; ``shorten``: s * s, tokens that
    become one; ``labels``: classes, 0 for none; ``null_label``: one more class that stands for "any".

    Raises:
        InputError: sizes that do not go together, by name.
    """

    vocabulary: int
    latent_grid: tuple[int, int]
    depth: Depth = (2, 10, 2)
    dims: tuple[int, ...] = (1024,)
    heads: tuple[int, ...] = (8,)
    shorten: int = 4
    labels: int = 0
    null_label: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.vocabulary < 2:
            raise InputError(f"vocabulary is {self.vocabulary}: a prior needs at least 2 codes")
        if min(self.dims, default=0) < 1 or min(self.heads, default=0) < 1:
            raise InputError(f"dims {list(self.dims)} and heads {list(self.heads)} must all be at least 1")
        if math.isqrt(self.shorten) ** 2 != self.shorten or self.shorten < 4:
            raise InputError(f"shorten is {self.shorten}: it must be a square from 4 up, s x s tokens to one")
        if self.null_label and not self.labels:
            raise InputError("null_label needs labels")
        side = math.isqrt(self.shorten) ** self.nesting
        if any(length < 1 or length % side for length in self.latent_grid):
            raise InputError(f"the latent grid {self.latent_grid} does not divide by {side} (shorten {self.shorten})")

    @property
    def nesting(self) -> int:
        """How many hourglasses stand in one another."""
        depth: int | Depth = self.depth
        count = 0
        while not isinstance(depth, int):
            if len(depth) != 3:
                raise InputError(f"depth {depth} is no triple: before, valley, after")
            depth, count = depth[1], count + 1
        return count

    def width(self, level: int) -> tuple[int, int]:
        """Token width and attention heads at a level, 0 the outermost."""
        return self.dims[min(level, len(self.dims) - 1)], self.heads[min(level, len(self.heads) - 1)]


def rotary_tables(grid: tuple[int, int]) -> Tensor:
    """Cosines and sines that turn a head's channel pairs by place: float ``[2, h*w, HEAD_WIDTH / 2]``.

    The first half of the pairs turns with the row, the second with the column.
    """
    pairs = HEAD_WIDTH // 4
    frequencies = ROTARY_BASE ** -(torch.arange(pairs) / pairs)
    rows = torch.arange(grid[0])[:, None] * frequencies
    columns = torch.arange(grid[1])[:, None] * frequencies
    angles = torch.cat((rows[:, None].expand(-1, grid[1], -1), columns[None].expand(grid[0], -1, -1)), -1)
    angles = rearrange(angles, "h w pairs -> (h w) pairs")
    return torch.stack((angles.cos(), angles.sin()))


def rotate(heads: Tensor, tables: Tensor) -> Tensor:
    """Turns ``[B, heads, T, HEAD_WIDTH]``, whose first and second half form the pairs, by :func:`rotary_tables`."""
    first, second = heads.chunk(2, -1)
    cosine, sine = tables.to(heads.dtype)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


class Attention(nn.Module):
    """Multi-head attention of ``[B, T, dim]`` to itself or to a context ``[B, S, context_dim]``, without a mask."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        inner = heads * HEAD_WIDTH
        self.heads = heads
        self.to_query = nn.Linear(dim, inner, bias=False)
        self.to_key_value = nn.Linear(context_dim or dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, tables: Tensor | None = None) -> Tensor:
        """Float ``[B, T, dim]`` to the same shape."""
        query = rearrange(self.to_query(x), "b t (h d) -> b h t d", h=self.heads)
        key_value = self.to_key_value(x if context is None else context)
        key, value = rearrange(key_value, "b t (two h d) -> two b h t d", two=2, h=self.heads)
        if tables is not None:
            query, key = rotate(query, tables), rotate(key, tables)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.to_out(rearrange(mixed, "b h t d -> b t (h d)"))


class Layer(nn.Module):
    """Pre-normalised attention and feed-forward, each beside its skip connection. The context is not normalised."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, context_dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None, tables: Tensor | None = None) -> Tensor:
        """Float ``[B, T, dim]`` to the same shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x), context, tables))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Transformer(nn.Module):
    """Layers with axial rotary embeddings over one grid."""

    tables: Tensor

    def __init__(self, grid: tuple[int, int], dim: int, heads: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, heads, dropout=dropout) for _ in range(depth))
        self.register_buffer("tables", rotary_tables(grid), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, h*w, dim]`` to the same shape."""
        for layer in self.layers:
            x = layer(x, tables=self.tables)
        return x


class Hourglass(nn.Module):
    """Layers, a valley of ``shorten`` times fewer tokens, layers; the valley may be another hourglass."""

    def __init__(self, config: HourglassConfig, depth: Depth, grid: tuple[int, int], level: int) -> None:
        super().__init__()
        before, within, after = depth
        dim, heads = config.width(level)
        inner_dim, inner_heads = config.width(level + 1)
        self.side = math.isqrt(config.shorten)
        self.grid = (grid[0] // self.side, grid[1] // self.side)
        self.before = Transformer(grid, dim, heads, before, config.dropout)
        self.down = nn.Linear(config.shorten * dim, inner_dim)
        self.gather = Layer(inner_dim, inner_heads, context_dim=dim, dropout=config.dropout)
        self.valley: nn.Module
        if isinstance(within, int):
            self.valley = Transformer(self.grid, inner_dim, inner_heads, within, config.dropout)
        else:
            self.valley = Hourglass(config, within, self.grid, level + 1)
        self.up = nn.Linear(inner_dim, config.shorten * dim)
        self.spread = Layer(dim, heads, context_dim=inner_dim, dropout=config.dropout)
        self.after = Transformer(grid, dim, heads, after, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, h*w, dim]`` to the same shape."""
        x = self.before(x)
        patches = self._to_patches(x)
        batch = x.shape[0]
        short = self.down(rearrange(patches, "b n s d -> b n (s d)"))
        # Attention resampling: a patch's one token looks at the tokens that it stands for, and later they at it.
        short = self.gather(rearrange(short, "b n d -> (b n) 1 d"), context=rearrange(patches, "b n s d -> (b n) s d"))
        short = self.valley(rearrange(short, "(b n) 1 d -> b n d", b=batch))
        patches = rearrange(self.up(short), "b n (s d) -> b n s d", s=self.side**2) + patches
        patches = self.spread(
            rearrange(patches, "b n s d -> (b n) s d"), context=rearrange(short, "b n d -> (b n) 1 d")
        )
        return self.after(self._from_patches(rearrange(patches, "(b n) s d -> b n s d", b=batch)))

    def _to_patches(self, x: Tensor) -> Tensor:
        (height, width), side = self.grid, self.side
        return rearrange(x, "b (h r w c) d -> b (h w) (r c) d", h=height, w=width, r=side, c=side)

    def _from_patches(self, x: Tensor) -> Tensor:
        (height, width), side = self.grid, self.side
        return rearrange(x, "b (h w) (r c) d -> b (h r w c) d", h=height, w=width, r=side, c=side)


class HourglassPrior(nn.Module):
    """The denoiser: logits of every code, given all codes of a grid, some of them corrupted."""

    def __init__(self, config: HourglassConfig) -> None:
        super().__init__()
        self.config = config
        dim, _ = config.width(0)
        self.code_embedding = nn.Embedding(config.vocabulary, dim)
        self.label_embedding = nn.Embedding(config.labels + config.null_label, dim) if config.labels else None
        self.hourglass = Hourglass(config, config.depth, config.latent_grid, 0)
        self.norm = nn.LayerNorm(dim)
        self.to_logits = nn.Linear(dim, config.vocabulary)
        self._initialise()

    def _initialise(self) -> None:
        residual_layers = sum(isinstance(module, Layer) for module in self.modules())
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                last_of_branch = name.endswith((".to_out", ".feed_forward.2"))
                std = 0.02 / math.sqrt(2 * residual_layers) if last_of_branch else 0.02
                nn.init.normal_(module.weight, std=std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, codes: Tensor, label: Tensor | None = None) -> Tensor:
        """Integer codes ``[B, T]`` in raster order, and ``label`` ``[B]`` where the prior has labels, to logits.

        The null label, where there is one, is number ``config.labels``. Returns float ``[B, T, vocabulary]``.
        """
        x = self.code_embedding(codes)
        if self.label_embedding is not None:
            x = x + self.label_embedding(label)[:, None]
        return self.to_logits(self.norm(self.hourglass(x)))
